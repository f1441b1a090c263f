"""Photographs: single ones, those of Imagenette, and what ImageNet's networks expect of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from klrp.data.folders import check_count, data_folder
from klrp.errors import KlrpError

EMBEDDED_PHOTOS = ("china", "flower")
# Imagenette's ten classes, in the order of its folders' names.
IMAGENETTE = (
    "tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck",
    "gas pump", "golf ball", "parachute",
)  # fmt: skip
REFETCH = "Fetch Imagenette (160px) again, or set KLRP_DATA to 'none' for the embedded photographs."


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph [1, 3, size, size], float32 RGB in [0, 1], not normalised.

    ``source`` is ``"scikit-learn"``, ``"KLRP_DATA"`` or ``"file"``; ``shareable`` says that the
    licence lets a stored page show its pixels.
    """

    image: Tensor = field(repr=False)
    name: str
    source: str
    shareable: bool


@dataclass(frozen=True, eq=False)
class Photos:
    """Photographs [n, 3, size, size], float32 RGB in [0, 1], not normalised; labels [n] int64.

    A label is an index into ``names``, or -1 for what is none of them. ``source`` is
    ``"imagenette"`` or ``"scikit-learn"``: bounds on results depend on it. ``shareable`` is that of
    ``Photo``.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    names: tuple[str, ...]
    source: str
    shareable: bool


def photo(name_or_path: str | Path, size: int = 224) -> Photo:
    """A photograph, its shorter side scaled to ``size`` pixels and its centre cut out.

    It is ``"china"`` or ``"flower"`` (embedded), a file, or a name in ``$KLRP_DATA/photos``. A
    KlrpError says that there is none such, that the file is no image, or that ``size`` is below 1.

    Example:
        >>> x = klrp.data.imagenet_normalise(klrp.data.photo("china").image)  # [1, 3, 224, 224]
    """
    check_count("photo", "size", size, "a number of pixels")
    name, source = str(name_or_path), "scikit-learn"
    if name in EMBEDDED_PHOTOS:
        picture = _embedded_photo(name)
    else:
        path, source = _find_photo(Path(name).expanduser())
        hint = "Give a whole JPEG or PNG file, or one of the names china and flower."
        name, picture = path.stem, _read_photo("photo", path, hint)
    return Photo(_squares(picture, size), name, source, shareable=source == "scikit-learn")


def imagenette(split: str = "val", per_class: int = 10, size: int = 224) -> Photos:
    """Photographs of Imagenette, the same number of each of the ten classes; one line says which.

    They come from ``$KLRP_DATA/imagenette2-160``, which ``torchvision.datasets.Imagenette($KLRP_DATA,
    size="160px", download=True)`` fetches (99 MB). The files of a class are taken at equal distances
    in the order of their names; the shorter side is scaled to ``size`` pixels and the centre cut out.
    The classes follow one another, in the order of ``names``.

    Without that folder there are ``per_class`` overlapping crops of each embedded photograph, from
    left to right: of china, with the label of the church, and of flower, with the label -1.

    Args:
        split: ``"val"`` or ``"train"``.
        per_class: the number of photographs of each class.
        size: of the photographs, in pixels.

    A KlrpError says which of these is out of range, that the folder has not the ten classes or
    enough files, or that a file is no image.

    Example:
        >>> photos = klrp.data.imagenette(per_class=2)  # images [20, 3, 224, 224]
    """
    if split not in ("val", "train"):
        raise KlrpError.value(f"imagenette: split is {split!r}; give 'val' or 'train'.")
    check_count("imagenette", "per_class", per_class, "a number of photographs")
    check_count("imagenette", "size", size, "a number of pixels")
    given = data_folder()
    root = given / "imagenette2-160" if given else None
    if root is None or not root.is_dir():
        return _embedded_photos(per_class, size)
    files = _imagenette_files(root / split, per_class)
    pictures = [_squares(_read_photo("imagenette", path, REFETCH), size) for path in files]
    labels = torch.arange(len(IMAGENETTE)).repeat_interleave(per_class)
    print(f"imagenette: {len(files)} photographs, {per_class} of each class of {split} (KLRP_DATA)")
    return Photos(torch.cat(pictures), labels, IMAGENETTE, "imagenette", shareable=False)


def imagenet_normalise(x: Tensor) -> Tensor:
    """(x - mean) / std by colour, as torchvision's ImageNet networks expect.

    ``x`` is floating, [..., 3, h, w], in [0, 1]; a KlrpError names another dtype or shape.

    Example:
        >>> logits = network(klrp.data.imagenet_normalise(klrp.data.photo("flower").image))
    """
    if not isinstance(x, Tensor):
        raise KlrpError.type(f"imagenet_normalise: got {type(x).__name__}; give a tensor, such as photo.image.")
    if not x.is_floating_point():
        raise KlrpError.type(f"imagenet_normalise: x is {x.dtype}; give floats in [0, 1].")
    if x.ndim < 3 or x.shape[-3] != 3:
        raise KlrpError.value(f"imagenet_normalise: x has shape {tuple(x.shape)}; expected [..., 3, height, width].")
    mean, std = x.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return (x - mean) / std


def _find_photo(path: Path) -> tuple[Path, str]:
    if path.is_file():
        return path, "file"
    folder = data_folder()
    stored = sorted((folder / "photos").glob("*.*")) if folder else []
    for candidate in stored:
        if str(path) in (candidate.stem, candidate.name):
            return candidate, "KLRP_DATA"
    names = ", ".join([*EMBEDDED_PHOTOS, *(p.stem for p in stored)])
    raise KlrpError.value(f"photo: there is no file {path}. Give a path, or a name among {names}.")


def _embedded_photo(name: str) -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(f"{name}.jpg"))


def _embedded_photos(per_class: int, size: int) -> Photos:
    pictures = [_squares(_embedded_photo(name), size, per_class) for name in EMBEDDED_PHOTOS]
    labels = torch.tensor([IMAGENETTE.index("church"), -1]).repeat_interleave(per_class)
    what = f"{per_class} crops each of scikit-learn's china and flower"
    print(f"imagenette: {what} (no imagenette2-160 in KLRP_DATA)")
    return Photos(torch.cat(pictures), labels, IMAGENETTE, "scikit-learn", shareable=True)


def _read_photo(caller: str, path: Path, hint: str) -> Image.Image:
    try:
        # A camera stores a turned picture as a note beside the pixels.
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):  # 16 bits for a pixel, which convert() would cut off at 255
                picture = Image.fromarray((np.asarray(picture).astype(np.float64) / 257).round().astype(np.uint8))
            return picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise KlrpError.value(f"{caller}: {path} cannot be read as an image ({error}). {hint}") from None


def _squares(picture: Image.Image, size: int, n: int = 1) -> Tensor:
    """n squares [n, 3, size, size] along the picture, scaled to ``size``; one is its centre."""
    from torchvision.transforms import functional as vision

    image = vision.to_tensor(vision.resize(picture, size)).float()  # not torch's default dtype
    spare = [length - size for length in image.shape[1:]]
    corners = [[round((i + 0.5) / n * length) for length in spare] for i in range(n)]
    return torch.stack([image[:, y : y + size, x : x + size] for y, x in corners])


def _imagenette_files(folder: Path, per_class: int) -> list[Path]:
    classes = sorted(path for path in folder.glob("n*") if path.is_dir())
    if len(classes) != len(IMAGENETTE):
        raise KlrpError.value(
            f"imagenette: {folder} has {len(classes)} folders n...; expected those of the ten classes. {REFETCH}"
        )
    chosen = []
    for path in classes:
        files = sorted(path.glob("*.JPEG"))
        if len(files) < per_class:
            raise KlrpError.value(
                f"imagenette: {path} has {len(files)} files *.JPEG, and per_class is {per_class}. Ask for fewer. {REFETCH}"
            )
        chosen += [files[(2 * i + 1) * len(files) // (2 * per_class)] for i in range(per_class)]
    return chosen
