"""What an explanation costs, as a multiple of gradient × input: `python benchmarks/speed.py`.

The table has klrp's kernels, its generic kernel, zennit, captum, and for one dense layer
torch-semiring-einsum, whose reference is gradient × input of that layer. With --memory there are two more
columns, from a process for each engine: the seconds of the first call on a small input where nothing is
compiled yet, and peak memory above that of a forward pass, as a multiple of the gradient's.

    python benchmarks/speed.py --network resnet18 --batch 8 --rounds 5 --threads 2
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from statistics import median

import engines
import measure
import torch
from engines import LAYER_REFERENCE, REFERENCE

import klrp
from klrp.tables import Table


def collected(chosen: argparse.Namespace, batch: int, size: int) -> dict:
    """All engines for the chosen network."""
    model = measure.network(chosen.network, chosen.weights)
    x = measure.inputs(chosen.network, batch, size)
    found = {REFERENCE: measure.gradient(model, x), "forward": torch.no_grad()(lambda: model(x))}
    found |= engines.klrp_engines(model, x)
    found |= engines.torch_engines(model, x) if chosen.generic else {}
    found |= engines.peers(model, x) if chosen.peers else {}
    found |= engines.layer_engines() if chosen.peers else {}
    return found


def child(chosen: argparse.Namespace) -> dict:
    """One engine in this process: the first call on a small input, and peak memory of one call."""
    name = chosen.peak_of
    chosen.peers = name.startswith(("zennit", "captum", "one layer"))
    small = collected(chosen, min(chosen.batch, 4), measure.TINY)
    first = measure.seconds(small[name])
    del small
    model = measure.network(chosen.network, chosen.weights)
    run = collected(chosen, chosen.batch, chosen.size)[name]
    measure.forget()
    with torch.no_grad():
        model(measure.inputs(chosen.network, chosen.batch, chosen.size))
    before = measure.held()
    run()
    return {"compiled": first, "bytes": measure.held() - before}


def measured(chosen: argparse.Namespace, given: Sequence[str]) -> list[dict]:
    """A row for each engine."""
    found = collected(chosen, chosen.batch, chosen.size)
    references = (REFERENCE, LAYER_REFERENCE)
    if chosen.only:
        found = {k: v for k, v in found.items() if chosen.only in k or k in references}
    # What compiles nothing may take minutes.
    slow = engines.torch_engines(None, None)
    first = {}
    for name, run in found.items():
        if callable(run) and name not in slow:
            try:
                first[name] = measure.seconds(run)
            except klrp.KlrpError as error:  # a count too large for int64
                found[name] = f"does not run: {error}"
    runs = {name: run for name, run in found.items() if callable(run)}
    taken = measure.rounds(runs, chosen.rounds, chosen.patience)
    words = [w for w in given if w != "--memory"]
    rows = []
    for name, run in found.items():
        row = {"engine": name, "reference": references[name.startswith("one layer")]}
        if not callable(run):
            rows.append({**row, "why": run})
            continue
        times = taken[name]
        row |= {"ratio": measure.ratio(times, taken[row["reference"]]), "seconds": times}
        row |= {"first": first[name]} if name in first else {}
        if chosen.memory:
            row |= measure.fresh(__file__, [*words, "--peak-of", name], **measure.FREED)
        rows.append(row)
    return rows


def table(rows: list[dict]) -> Table:
    """The rows as text; a dash where nothing was measured."""
    held = {row["engine"]: row.get("bytes") for row in rows}
    lines = []
    for row in rows:
        if "why" in row:
            lines.append((row["engine"], row["why"][:40], *["-"] * 4))
            continue
        base = held[row["reference"]]
        memory = f"{row['bytes'] / base:.2f}" if base and row.get("bytes") is not None else "-"
        first, compiled = (f"{row[k]:.1f}" if k in row else "-" for k in ("first", "compiled"))
        number = f"{row['ratio']:.2f}"
        lines.append((row["engine"], number, f"{median(row['seconds']):.4g}", first, compiled, memory))
    columns = ("engine", "× gradient", "seconds", "first call", "first, compiling", "× its memory")
    return Table(columns, tuple(lines))


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--memory", action="store_true", help="a process for each engine too")
    parser.add_argument(
        "--generic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the generic kernel, and Boolean without Numba",
    )
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="other packages")
    parser.add_argument("--patience", type=float, default=5.0, help="who takes more seconds has one round only")
    parser.add_argument("--only", help="only engines whose names contain this")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: Sequence[str]) -> dict:
    chosen = arguments(given)
    torch.set_num_threads(chosen.threads)
    if chosen.peak_of:
        print(json.dumps(child(chosen)))
        return {}
    rows = measured(chosen, measure.without_save(given))
    record = measure.report(__file__, given, chosen, rows)
    print(measure.heading(record), table(rows), sep="\n")
    return record


if __name__ == "__main__":
    main(sys.argv[1:])
