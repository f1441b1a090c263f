"""Boolean masks of the ten digits, by several processes on one machine or many, each of which may be interrupted.

    torchrun --standalone --nproc-per-node 2 examples/masks_by_torchrun.py --out masks

Each process takes every n-th batch and stores its sum after each one; started again, it goes on where it stopped. In the end
the sums are added up. With Slurm the same script is started by `srun torchrun ...`, with --nnodes and a rendezvous in the
place of --standalone. Ray needs no torchrun: a remote function calls `gathering.resume` with its own part, and the sums are
added where they arrive.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import distributed
from torch.utils.data import DataLoader, Subset, TensorDataset

import klrp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("masks"), help="a folder, for the parts and the result")
    parser.add_argument("--batch", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()

    digits = klrp.data.digits()
    model = klrp.models.digit_mlp(digits, progress=False)
    data = TensorDataset(digits.train_images, digits.train_labels)
    # A DistributedSampler repeats some samples, so that all processes have as many; a count must not.
    mine = DataLoader(Subset(data, range(rank, len(data), world)), args.batch)

    def masks(batch):
        theta = klrp.conversions.threshold(0.03)
        return klrp.masks.collect(model, [batch], semiring="boolean", theta=theta, progress=False)

    run = f"{digits.source}, {len(data)} digits, θ = 0.03, part {rank} of {world}"
    part = klrp.gathering.resume(args.out / f"part_{rank}.safetensors", mine, masks, run=run, progress=rank == 0)
    found = klrp.gathering.reduced(part)
    if rank == 0:
        klrp.gathering.save(args.out / "masks.safetensors", found, run=run.split(", part")[0])
        print(found)
    distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
