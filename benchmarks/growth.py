"""How the cost grows, as a multiple of gradient × input: `python benchmarks/growth.py size`.

    python benchmarks/growth.py batch --network vgg16 --values 1,2,4,8,16,32

``size`` is that of the image, ``depth`` the convolutional networks VGG-11 to VGG-19 or the hidden layers of an
MLP of width 300, and ``theta`` the threshold of the Boolean and the counting semiring.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import engines
import measure
import torch
from engines import REFERENCE

from klrp import conversions
from klrp.tables import Table

VALUES = {
    "size": (64, 112, 160, 224, 320, 448),
    "batch": (1, 2, 4, 8, 16, 32),
    "depth": (11, 13, 16, 19),
    "theta": (1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2),
}
HIDDEN = (1, 2, 4, 8, 16)


def runs_at(chosen: argparse.Namespace, value: float) -> tuple[dict, int]:
    """The engines at one value of what grows, and the edges of the network for all of its inputs."""
    name, hidden, theta = chosen.network, (300, 100), 0.01
    batch = int(value) if chosen.what == "batch" else chosen.batch
    size = int(value) if chosen.what == "size" else chosen.size
    if chosen.what == "depth":
        hidden = (300,) * int(value)
        name = name if name == "mlp" else f"vgg{value:g}"
    if chosen.what == "theta":
        theta = value
    model = measure.network(name, chosen.weights, hidden)
    x = measure.inputs(name, batch, size)
    cut = conversions.threshold(theta)
    explained = engines.explained
    found = {
        REFERENCE: measure.gradient(model, x),
        "Boolean": explained(model, x, semiring="boolean", theta=cut),
        "counting": explained(model, x, semiring="counting", theta=cut),
    }
    if chosen.what != "theta":
        found |= {"viterbi": explained(model, x, semiring="viterbi"), "real ε": explained(model, x)}
    return found, measure.edges(model, x)


def measured(chosen: argparse.Namespace) -> list[dict]:
    """A row for each engine and value."""
    rows = []
    for value in chosen.values:
        runs, edges = runs_at(chosen, value)
        for run in runs.values():
            run()
        taken = measure.rounds(runs, chosen.rounds)
        for name, times in taken.items():
            row = {"engine": name, "value": value, "edges": edges, "seconds": times}
            rows.append(row | {"ratio": measure.ratio(times, taken[REFERENCE])})
    return rows


def table(rows: list[dict]) -> Table:
    values = list(dict.fromkeys(row["value"] for row in rows))
    found = {(row["engine"], row["value"]): f"{row['ratio']:.2f}" for row in rows}
    names = dict.fromkeys(row["engine"] for row in rows)
    lines = [(name, *(found[name, value] for value in values)) for name in names]
    return Table(("× gradient", *(f"{value:g}" for value in values)), tuple(lines))


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("what", choices=VALUES, help="what grows")
    parser.add_argument("--values", help="with commas between them")
    chosen = parser.parse_args(given)
    usual = HIDDEN if (chosen.what, chosen.network) == ("depth", "mlp") else VALUES[chosen.what]
    texts = chosen.values.split(",") if chosen.values else usual
    chosen.values = [float(v) if chosen.what == "theta" else int(v) for v in texts]
    return chosen


def main(given: Sequence[str]) -> dict:
    chosen = arguments(given)
    torch.set_num_threads(chosen.threads)
    record = measure.report(__file__, given, chosen, measured(chosen))
    print(measure.heading(record), table(record["rows"]), sep="\n")
    return record


if __name__ == "__main__":
    main(sys.argv[1:])
