"""Trained networks that come with the package, and how their files are checked."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from klrp.data import load_weights

WEIGHTS = Path(__file__).resolve().parent / "weights"


def loaded(network: nn.Module, weights: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network with these weights, in eval mode and frozen, whatever torch's default dtype is."""
    network.to(dtype).load_state_dict(weights)
    return network.eval().requires_grad_(False)


def shipped(file: str, path: str | Path | None = None) -> dict[str, Tensor]:
    """The weights in ``file`` of the package, or in ``path``, which must be the same file."""
    return load_weights(WEIGHTS / file if path is None else path, hashes()[file])


def hashes() -> dict[str, str]:
    """The sha256 of each file, by name; ``sha256sum *.safetensors`` writes what is read here."""
    lines = (WEIGHTS / "SHA256SUMS").read_text("utf-8").splitlines()
    return {name: sha256 for sha256, name in (line.split() for line in lines)}
