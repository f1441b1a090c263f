"""The grid pointing game: pictures of several classes in one mosaic, and the question where each class is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from klrp.errors import KlrpError
from klrp.models import eval_copy
from klrp.quality.maps import inside
from klrp.quality.methods import Method, all_maps


@dataclass(frozen=True, eq=False)
class Mosaics:
    """Mosaics of ``side`` × ``side`` pictures: ``images`` [m, c, side h, side w], ``classes`` [m, side²] row by row."""

    images: Tensor
    classes: Tensor
    side: int

    def cell(self, number: int) -> Tensor:
        """Where the picture with this number lies, torch.bool [side h, side w]."""
        mask = torch.zeros(self.images.shape[2:], dtype=torch.bool)
        height, width = (size // self.side for size in mask.shape)
        row, column = divmod(number, self.side)
        mask[row * height : (row + 1) * height, column * width : (column + 1) * width] = True
        return mask


def mosaics(images: Tensor, classes: Tensor, count: int, *, side: int = 2, seed: int = 0) -> Mosaics:
    """``count`` mosaics of pictures [n, c, h, w], each of side² different ``classes`` [n]; the draw is seeded.

    Give pictures that the network recognises, with the classes that it predicts: a class that it does not see cannot be
    found (Böhle et al. 2021).

    Raises:
        KlrpError: for fewer than side² classes.

    Example:
        >>> sure = model(x).softmax(1).amax(1) > 0.9
        >>> found = klrp.quality.mosaics(x[sure], model(x[sure]).argmax(1), 50)
    """
    known = classes.unique()
    if len(known) < side * side or images.ndim != 4 or len(images) != len(classes):
        raise KlrpError.value(
            f"mosaics: got images {tuple(images.shape)} of {len(known)} classes; expected [n, c, h, w] of at least "
            f"{side * side} classes for mosaics of {side} × {side}."
        )
    generator = torch.Generator().manual_seed(seed)
    members = {int(c): (classes == c).nonzero()[:, 0] for c in known}
    made, asked = [], []
    for _ in range(count):
        chosen = known[torch.randperm(len(known), generator=generator)[: side * side]]
        places = [members[int(c)] for c in chosen]
        at = torch.stack([p[torch.randint(len(p), (1,), generator=generator)[0]] for p in places])
        rows = [torch.cat(list(images[row]), -1) for row in at.reshape(side, side)]
        made.append(torch.cat(rows, -2))
        asked.append(chosen)
    return Mosaics(torch.stack(made), torch.stack(asked), side)


def grid_game(
    model: nn.Module, method: Method, given: Mosaics, *, top: float | None = None, batch: int = 8, progress: bool = True
) -> Tensor:
    """The part [m, side²] of the positive relevance for each class of a mosaic that lies in the cell of that class.

    Chance, and a map that does not look at the class, has 1 / side². ``top`` is that of `inside`: the part of the
    strongest pixels, such as 0.01 of all. The game needs a network that takes larger pictures than those of one cell
    (Böhle et al. 2021).

    Example:
        >>> grid_game(model, lrp(semiring="counting"), found).mean()
    """
    network = eval_copy(model)
    found = []
    for number in tqdm(range(given.side**2), desc="grid game", leave=False, disable=not progress):
        maps = all_maps(method, network, given.images, given.classes[:, number], batch)
        found.append(inside(maps, given.cell(number).to(maps.device), top))
    return torch.stack(found, 1)
