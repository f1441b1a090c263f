"""What the machine can do with an edge at best, and how far the kernels are from it: `python benchmarks/limits.py`.

A small loop reads one weight and joins it with eight values that stay in registers, as often as a second
allows, on one core and on all threads. It is compiled as the kernels are. For the network, the table then has the
edges of one walk divided by the seconds of the explanation less those of the forward pass. A kernel
that skips edges may settle more of them than the machine can visit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from statistics import median

import engines
import measure
import numpy as np
import torch
from engines import REFERENCE

from klrp.tables import Table

LOOPS = {"fma": "multiply and add", "max": "multiply and compare", "count": "multiply, compare, add where it holds"}
SIZE, VALUES = 1024, 8  # weights, which stay in the nearest cache, and the values in registers
# What the innermost loop of each engine does with an edge.
LOOP_OF = {
    REFERENCE: "fma",
    "real ε": "fma",
    "Boolean θ = 0.01": "max",
    "viterbi": "max",
    "max_plus": "max",
    "fuzzy": "max",
    "lukasiewicz": "max",
    "counting θ = 0.01": "count",
    "counting positive()": "count",
}


@cache
def loop(name: str) -> Callable:
    """(weights, thresholds, values, results, repeats): each weight meets each value, again and again."""
    return _counted() if name == "count" else _joined(name)


def _joined(name: str) -> Callable:
    from numba import njit

    maximum, fast = name == "max", {"nnan", "nsz", "contract"}

    @njit(nogil=True, fastmath=fast)
    def join(b, v, x):
        return max(b, v * x) if maximum else b + v * x

    # Lanes of the vector unit run along i.
    @njit(nogil=True, fastmath=fast)
    def run(w, t, v, out, repeats):
        v0, v1, v2, v3, v4, v5, v6, v7 = v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]
        for _ in range(repeats):
            for i in range(w.shape[0]):
                x = w[i]
                b = join(join(join(join(out[i], v0, x), v1, x), v2, x), v3, x)
                out[i] = join(join(join(join(b, v4, x), v5, x), v6, x), v7, x)

    return run


def _counted() -> Callable:
    from numba import njit

    # Counts are float64, as in the walk; sums in any order, so that each lane has its own.
    @njit(nogil=True, fastmath={"nnan", "nsz", "contract", "reassoc"})
    def run(w, t, v, out, repeats):
        v0, v1, v2, v3, v4, v5, v6, v7 = v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]
        r0 = r1 = r2 = r3 = r4 = r5 = r6 = r7 = 0.0
        for _ in range(repeats):
            for i in range(w.shape[0]):
                x, y = w[i], t[i]
                r0 += 1.0 if v0 * x >= y else 0.0
                r1 += 1.0 if v1 * x >= y else 0.0
                r2 += 1.0 if v2 * x >= y else 0.0
                r3 += 1.0 if v3 * x >= y else 0.0
                r4 += 1.0 if v4 * x >= y else 0.0
                r5 += 1.0 if v5 * x >= y else 0.0
                r6 += 1.0 if v6 * x >= y else 0.0
                r7 += 1.0 if v7 * x >= y else 0.0
        out[0] = r0 + r1 + r2 + r3 + r4 + r5 + r6 + r7

    return run


def operands() -> list[np.ndarray]:
    """Weights, thresholds, values and the place for the results; a thread has its own."""
    draw = np.random.default_rng(0)
    return [draw.random(n).astype(np.float32) for n in (SIZE, SIZE, VALUES, SIZE)]


def limit_runs(threads: int, repeats: int) -> dict[str, measure.Run]:
    """Each loop on one core, and on as many threads as there are."""
    crew = ThreadPoolExecutor(threads)

    def on(name: str, workers: int) -> measure.Run:
        work, arrays = loop(name), [operands() for _ in range(workers)]
        return lambda: list(crew.map(lambda own: work(*own, repeats), arrays))

    return {f"{name}/{workers}": on(name, workers) for name in LOOPS for workers in {1, threads}}


def measured(chosen: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """The limits, and a row for each engine with the edges that it settles in a second."""
    model = measure.network(chosen.network, chosen.weights)
    x = measure.inputs(chosen.network, chosen.batch, chosen.size)
    edges = measure.edges(model, x)
    runs = limit_runs(chosen.threads, chosen.repeats)
    all_engines = {REFERENCE: measure.gradient(model, x)} | engines.klrp_engines(model, x)
    runs |= {"forward": torch.no_grad()(lambda: model(x))}
    runs |= {name: run for name, run in all_engines.items() if name in LOOP_OF}
    for run in runs.values():
        run()
    taken = measure.rounds(runs, chosen.rounds)
    limits = []
    for key in (key for key in runs if "/" in key):
        name, workers = key.split("/")
        done = SIZE * VALUES * chosen.repeats * int(workers)
        row = {"loop": name, "what": LOOPS[name], "threads": int(workers), "seconds": taken[key]}
        # Nothing can be faster than the limit, so the best round counts.
        limits.append(row | {"edges_per_second": done / min(taken[key])})
    best = {(row["loop"], row["threads"]): row["edges_per_second"] for row in limits}
    rows = []
    for name, kind in LOOP_OF.items():
        walks = [max(t - f, 1e-9) for t, f in zip(taken[name], taken["forward"], strict=True)]
        rate = edges / median(walks)
        row = {"engine": name, "loop": kind, "seconds": taken[name], "edges_per_second": rate}
        rows.append(row | {"of_limit": rate / best[kind, chosen.threads]})
    return limits, rows


def table(limits: list[dict], rows: list[dict]) -> str:
    lines = [(r["what"], r["threads"], f"{r['edges_per_second'] / 1e9:.1f}") for r in limits]
    first = Table(("loop", "threads", "G edges / s"), tuple(lines))
    lines = [(r["engine"], r["loop"], f"{r['edges_per_second'] / 1e9:.1f}", f"{r['of_limit']:.2f}") for r in rows]
    columns = ("engine", "loop", "G edges settled / s", "of the limit")
    return f"{first}\n{Table(columns, tuple(lines))}"


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=1_000_000, help="of the loops; one takes 8192 edges")
    return parser.parse_args(given)


def main(given: Sequence[str]) -> dict:
    chosen = arguments(given)
    torch.set_num_threads(chosen.threads)
    limits, rows = measured(chosen)
    record = measure.report(__file__, given, chosen, rows, limits=limits)
    print(measure.heading(record), table(limits, rows), sep="\n")
    return record


if __name__ == "__main__":
    main(sys.argv[1:])
