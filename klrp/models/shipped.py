"""Where weights that are shipped with the book are found, and how they are checked."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

from klrp.data import load_weights
from klrp.errors import KlrpError


def loaded(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The network with these weights, in eval mode and frozen."""
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def shipped(caller: str, file: str, sha256: str, path: str | Path | None) -> dict[str, Tensor]:
    """The weights in ``path``, or in the first ``file`` where shipped files lie; its hash is checked."""
    return load_weights(_find(caller, file) if path is None else path, sha256)


def _find(caller: str, file: str) -> Path:
    given = os.environ.get("KLRP_DATA", "none")
    folders = [] if given in ("", "none") else [Path(given).expanduser() / "weights"]
    here, repository = Path.cwd(), Path(__file__).resolve().parents[2]
    folders += [here / "assets", here / "book" / "assets", repository / "book" / "assets"]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    raise KlrpError.value(
        f"{caller}: there is no {file} in {', '.join(map(str, folders))}. Fetch it from "
        "book/assets of the repository, and give its path or put it into $KLRP_DATA/weights."
    )
