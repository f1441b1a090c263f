"""All training images of MNIST through the MLP, batch after batch: `python benchmarks/digits.py`.

For each semiring, in a process of its own: seconds, and peak memory above the start, after a sixth of the
batches and after all of them. The two are equal where memory does not grow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from time import perf_counter

import measure
import torch
from torch import Tensor, nn
from tqdm import tqdm

import klrp
from klrp.semirings import SEMIRINGS
from klrp.tables import Table


def through(model: nn.Module, images: Tensor, semiring: str, batch: int) -> dict:
    """Explain all images; the maps are added up, so that each batch can go."""
    for part in (images[:4], images[:batch]):  # what is compiled or kept for good does not count
        klrp.explain(model, part, semiring=semiring, keep="input")
    batches = images.split(batch)
    early, peak_early = max(1, len(batches) // 6), 0
    measure.forget()
    start, total, began = measure.held(), 0.0, perf_counter()
    explained = klrp.explain_many(model, batches, semiring=semiring, keep="input")
    for number, relevance in enumerate(tqdm(explained, semiring, len(batches), leave=False), 1):
        total = total + relevance.semiring.score(relevance.input).double().sum(0)
        if number == early:
            peak_early = measure.held() - start
    taken = perf_counter() - began
    row = {"engine": semiring, "images": len(images), "batches": len(batches), "early": early}
    row |= {"seconds": [taken], "bytes_early": peak_early, "bytes": measure.held() - start}
    return row | {"nan": bool(total.isnan().any())}


def child(chosen: argparse.Namespace) -> dict:
    digits = klrp.data.digits()
    model = klrp.models.digit_mlp(digits, progress=False).requires_grad_(False)
    images = digits.train_images[: chosen.images].clone()
    return through(model, images, chosen.only, chosen.batch) | {"source": digits.source}


def table(rows: list[dict]) -> Table:
    lines = [
        (row["engine"], f"{row['seconds'][0]:.1f}", f"{row['bytes_early'] / 1e6:.1f}", f"{row['bytes'] / 1e6:.1f}")
        for row in rows
    ]
    after = f"MB after {rows[0]['early']} batches"
    columns = ("semiring", "seconds", after, f"after {rows[0]['batches']}")
    return Table(columns, tuple(lines))


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--semirings", default=",".join(SEMIRINGS))
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=1000)
    measure.with_threads(parser)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: Sequence[str]) -> dict:
    chosen = arguments(given)
    torch.set_num_threads(chosen.threads)
    if chosen.only:
        print(json.dumps(child(chosen)))
        return {}
    words = measure.without_save(given)
    semirings = chosen.semirings.split(",")
    rows = [measure.fresh(__file__, [*words, "--only", name]) for name in semirings]
    record = measure.report(__file__, given, chosen, rows)
    print(measure.heading(record), table(rows), sep="\n")
    return record


if __name__ == "__main__":
    main(sys.argv[1:])
