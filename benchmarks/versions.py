"""What has become faster or slower since another version: `python benchmarks/versions.py --against PATH`.

PATH is a checkout of the other version. Each of the two runs in a process of its own, with the same interpreter and
packages; both stay alive and are asked in turn, row by row and round by round, so that a machine that is busy for a
while slows both. In each of them the time of an explanation is divided by that of gradient × input right beside it.
The last column is the other version's quotient divided by this one's: above 1 this one is faster.

    git worktree add ../before COMMIT
    python benchmarks/versions.py --against ../before --rows "mlp*" --rounds 7
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import engines
import measure
import torch
from measure import Run
from tqdm import tqdm

import klrp
from klrp.tables import Table

ROOT = Path(__file__).resolve().parents[1]
SOME = ("real ε", "Boolean θ = 0.01", "counting θ = 0.01", "viterbi")
MORE = ("real z⁺", "real γ + z-box", "counting positive()", "fuzzy", "lukasiewicz", "max_plus", "tropical", "log")


class Row(NamedTuple):
    """An engine on ``batches`` batches of a network's inputs, ``repeats`` times; several go through explain_many."""

    network: str
    engine: str
    batch: int = 1
    size: int = 224
    batches: int = 1
    repeats: int = 1

    @property
    def name(self) -> str:
        """What --rows is compared with."""
        many = f" {self.batches} batches" if self.batches > 1 else ""
        return f"{self.network} {self.batch}{many} {self.engine}"


ROWS = {
    row.name: row
    for row in (
        *(Row("mlp", engine, repeats=50) for engine in SOME),
        *(Row("mlp", engine, batch=1000, repeats=2) for engine in SOME),
        *(Row(network, engine, size=64, batches=8) for network in ("resnet18", "densenet121") for engine in SOME),
        *(Row("vgg16", engine) for engine in SOME + MORE),
    )
}


# ------------------------------------------------------------- one version, in a process


@lru_cache(1)  # rows of one network come one after the other
def prepared(row: Row) -> tuple[Run, list]:
    """Gradient × input of all batches, and what klrp is to explain; ``row`` is without engine."""
    model = measure.network(row.network)
    x = measure.inputs(row.network, row.batch * row.batches, row.size)
    batches = list(x.split(row.batch))
    runs = [measure.gradient(model, batch) for batch in batches]
    return lambda: [run() for run in runs], [model, batches]


def seconds(row: Row) -> tuple[float, float]:
    """How long an explanation takes, and gradient × input of the same batches."""
    gradient, (model, batches) = prepared(row._replace(engine=""))
    settings = engines.klrp_settings(photographs=row.network != "mlp")[row.engine]

    def explanation() -> None:
        if len(batches) == 1:
            klrp.explain(model, batches[0], keep="input", **settings)
            return
        for _ in klrp.explain_many(model, batches, keep="input", **settings):
            pass

    # Half of the gradients before and half behind, where there are several.
    half = row.repeats // 2
    before = measure.seconds(lambda: [gradient() for _ in range(row.repeats - half)])
    taken = measure.seconds(lambda: [explanation() for _ in range(row.repeats)])
    behind = measure.seconds(lambda: [gradient() for _ in range(half)]) if half else 0.0
    return taken, before + behind


def answer(threads: int) -> None:
    """Say which klrp this is, then measure each row whose name comes in: a line of JSON for each."""
    out, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(threads)
    print(json.dumps({"package": klrp.__file__, "version": klrp.__version__}), file=out, flush=True)
    for line in sys.stdin:
        try:
            taken, reference = seconds(ROWS[line.strip()])
            reply = {"seconds": taken, "reference": reference}
        except Exception as error:  # whatever a version that does not know a row raises
            reply = {"why": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(reply), file=out, flush=True)


class Worker:
    """The process of one version."""

    def __init__(self, root: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--worker", "--threads", str(threads)]
        environment = os.environ | {"PYTHONPATH": str(root)}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        found = self._reply()
        if Path(found["package"]).resolve().parent != root / "klrp":
            self.close()
            raise SystemExit(f"--against: {root} is no checkout of klrp; {found['package']} would be measured.")
        self.version = {"klrp": found["version"], "commit": _commit(root)}

    def ask(self, row: Row) -> dict:
        """The seconds of one round, or why there are none."""
        self.process.stdin.write(row.name + "\n")
        self.process.stdin.flush()
        return self._reply()

    def close(self) -> None:
        """It ends when there is nothing more to read."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _reply(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A worker ended, with code {self.process.wait()}; what it said stands above.")
        return json.loads(line)


def _commit(root: Path) -> str | None:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# ------------------------------------------------------------------ the two beside each other


def measured(workers: dict[str, Worker], rows: Sequence[Row], count: int) -> list[dict]:
    """For each row the quotients of both versions in each round; one more round before, which is not counted."""
    found = []
    with tqdm(total=len(rows) * (count + 1), unit="round") as bar:
        for row in rows:
            bar.set_description(row.name)
            taken = {name: [] for name in workers}
            why = ""
            for number in range(count + 1):
                # Each is the first in every other round.
                for name in sorted(workers, reverse=number % 2 == 1):
                    reply = {} if why else workers[name].ask(row)
                    why = why or (f"{name}: {reply['why']}" if "why" in reply else "")
                    taken[name].append(reply)
                bar.update()
            found.append({"row": row.name, **({"why": why} if why else _quotients(taken))})
    return found


def _quotients(taken: dict[str, list[dict]]) -> dict:
    result = {}
    for name, replies in taken.items():
        result[name] = [reply["seconds"] / reply["reference"] for reply in replies[1:]]
        result[f"{name}_seconds"] = [reply["seconds"] for reply in replies[1:]]
    result["ratios"] = [other / this for other, this in zip(result["other"], result["this"], strict=True)]
    return result | {"ratio": median(result["ratios"])}


def table(rows: list[dict]) -> Table:
    """The medians as text, with the least and the largest ratio of one round."""
    lines = []
    for row in rows:
        if "why" in row:
            lines.append((row["row"], "-", "-", row["why"][:80]))
            continue
        between = f"{row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})"
        lines.append((row["row"], *(f"{median(row[name]):.2f}" for name in ("other", "this")), between))
    return Table(("× gradient", "other", "this", "other / this"), tuple(lines))


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="a checkout of the other version")
    parser.add_argument("--rows", default="*", metavar="GLOB", help="only the rows whose names are like this")
    parser.add_argument("--rounds", type=int, default=7)
    measure.with_threads(parser)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(given)
    if not chosen.worker and chosen.against is None:
        parser.error("--against: which checkout?")
    return chosen


def main(given: Sequence[str]) -> dict:
    chosen = arguments(given)
    if chosen.worker:
        answer(chosen.threads)
        return {}
    rows = [row for name, row in ROWS.items() if fnmatch(name, chosen.rows)]
    if not rows:
        raise SystemExit(f"--rows: none is like {chosen.rows}. There are: {', '.join(ROWS)}.")
    workers = {}
    try:
        for name, root in (("other", chosen.against.resolve()), ("this", ROOT)):
            workers[name] = Worker(root, chosen.threads)
        found = measured(workers, rows, chosen.rounds)
    finally:
        for worker in workers.values():
            worker.close()
    chosen.against = str(chosen.against)
    versions = {name: worker.version for name, worker in workers.items()}
    record = measure.report(__file__, given, chosen, found, compared=versions)
    print(measure.heading(record), table(found), sep="\n")
    return record


if __name__ == "__main__":
    main(sys.argv[1:])
