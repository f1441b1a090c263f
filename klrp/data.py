"""Digits, photographs and weights: with ``models``, the only place that touches files.

A thing is looked up in ``$KLRP_DATA`` (a folder that is only read), in the cache (``$KLRP_CACHE``,
by default ``~/.cache/klrp``), on the network, and at last in what scikit-learn carries with it.
``KLRP_DATA=none`` goes straight to the last. What is written appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import pickle
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from klrp.errors import KlrpError

EMBEDDED_PHOTOS = ("china", "flower")
# Imagenette's ten classes, in the order of its folders' names.
IMAGENETTE = (
    "tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck",
    "gas pump", "golf ball", "parachute",
)  # fmt: skip
PROBE_SECONDS, STALL_SECONDS = 4.0, 20.0
# The unpacked files of MNIST in bytes: what has another size was cut off, and is unpacked again.
MNIST_BYTES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
CONVERT = (
    "If you trust where it comes from, convert it once: klrp.data.save_weights("
    "'new.safetensors', torch.load('old.pth', weights_only=True))."
)
REFETCH = "Fetch Imagenette (160px) again, or set KLRP_DATA to 'none' for the embedded photographs."


@dataclass(frozen=True, eq=False)
class Digits:
    """Handwritten digits: images [n, 1, 28, 28] float32 in [0, 1], labels [n] int64 in 0..9.

    ``source`` is ``"mnist"`` or ``"sklearn-digits"``: bounds on results depend on it.
    """

    train_images: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    source: str


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


def digits(*, download: bool = True) -> Digits:
    """MNIST, or where it cannot be had, the digits that scikit-learn carries; one line says which.

    The embedded digits are 1797 real ones of 8 x 8 pixels, scaled to [0, 1], enlarged (bilinear) to
    20 x 20 and centred as MNIST's are: the border of 4 pixels is exactly 0. The split into 1437 for
    training and 360 for testing is fixed, and stratified by class. ``download`` lets MNIST (12 MB)
    be fetched. A KlrpError says that ``$KLRP_DATA`` is no folder, that a file of MNIST there is
    damaged, or that the cache cannot be written.

    Example:
        >>> images = klrp.data.digits().test_images[:5]  # [5, 1, 28, 28]
    """
    root, origin = _mnist_root(download)
    found = _embedded_digits() if root is None else _mnist(root)
    name = "scikit-learn's load_digits, enlarged" if root is None else "MNIST"
    counts = f"{len(found.train_images)} training and {len(found.test_images)} test images"
    print(f"digits: {name}, {counts} ({origin})")
    return found


def photo(name_or_path: str | Path, size: int = 224) -> Photo:
    """A photograph, its shorter side scaled to ``size`` pixels and its centre cut out.

    It is ``"china"`` or ``"flower"`` (embedded), a file, or a name in ``$KLRP_DATA/photos``. A
    KlrpError says that there is none such, that the file is no image, or that ``size`` is below 1.

    Example:
        >>> x = klrp.data.imagenet_normalise(klrp.data.photo("china").image)  # [1, 3, 224, 224]
    """
    _check_count("photo", "size", size, "a number of pixels")
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
    _check_count("imagenette", "per_class", per_class, "a number of photographs")
    _check_count("imagenette", "size", size, "a number of pixels")
    given = _data_folder()
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


def load_weights(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU.

    A pickle can run any code when it is opened, so none is. A ``.pth`` file of torch's zip format
    is read only where its ``sha256`` (64 hexadecimal digits) is given and right, and even then
    nothing but tensors is taken from it. A KlrpError says that the file is missing, cut off, of
    another hash or of a format that is not opened.

    Example:
        >>> network.load_state_dict(klrp.data.load_weights("network.safetensors"))
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path).expanduser()
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise KlrpError.value(f"load_weights: {error}; give the path of a file.") from None
    came = hashlib.sha256(blob).hexdigest()
    if sha256 is not None and came != sha256.lower():
        raise KlrpError.value(
            f"load_weights: {path} ({len(blob)} bytes) has sha256 {came}; expected {sha256}. It is "
            "another file or was cut off: fetch it again, or give the hash of the file you mean."
        )
    if blob[:4] == b"PK\x03\x04":
        return _load_zip(path, blob, trusted=sha256 is not None)
    # A safetensors file begins with 8 bytes of length, which may look like a pickle; the 9th tells.
    if blob[8:9] != b"{" and (blob[:1] == b"\x80" or path.suffix in (".pkl", ".pickle")):
        raise KlrpError.value(f"load_weights: {path} is a pickle, which could run any code: not opened. {CONVERT}")
    try:
        return load(blob)
    except SafetensorError as error:
        raise KlrpError.value(
            f"load_weights: {path} ({len(blob)} bytes) is no whole safetensors file ({error}). "
            f"If it was cut off, fetch it again; if it is of another kind: {CONVERT}"
        ) from None


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write tensors, as ``module.state_dict()`` gives them, to a safetensors file.

    The file is replaced as a whole or not at all; dtypes are kept, and missing folders made. A
    KlrpError names what is no dense tensor, or says that the file cannot be written.

    Example:
        >>> klrp.data.save_weights("network.safetensors", network.state_dict())
    """
    from safetensors.torch import save

    if not isinstance(state_dict, Mapping):
        raise KlrpError.type(f"save_weights: state_dict is a {type(state_dict).__name__}; give model.state_dict().")
    dense = {k: isinstance(x, Tensor) and x.layout is torch.strided for k, x in state_dict.items()}
    if not all(dense.values()):
        wrong = [name for name, is_dense in dense.items() if not is_dense]
        raise KlrpError.type(f"save_weights: {wrong} are no dense tensors; leave them out.")
    path = Path(path).expanduser()
    # safetensors refuses two names for one storage, which tied weights have: each gets its own.
    blob = save({name: x.detach().cpu().clone().contiguous() for name, x in state_dict.items()})
    with _staging(path.parent, "Give a path in a folder that can be written") as temp:
        (temp / path.name).write_bytes(blob)
        os.replace(temp / path.name, path)


def _data_folder() -> Path | None:
    """``$KLRP_DATA``; None where it is unset or says ``none``."""
    given = os.environ.get("KLRP_DATA", "")
    folder = Path(given).expanduser()
    if given in ("", "none"):
        return None
    if not folder.is_dir():
        raise KlrpError.value(
            f"KLRP_DATA is {given!r}, which is no folder. Set it to a folder that holds MNIST/raw, "
            "imagenette2-160 or photos, to 'none' for the embedded data and no network, or unset it."
        )
    return folder


def _mnist_root(download: bool) -> tuple[Path | None, str]:
    """The folder from which torchvision reads MNIST, or None, and in words how that came about."""
    if os.environ.get("KLRP_DATA") == "none":
        return None, "KLRP_DATA=none"
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import extract_archive

    cache = Path(os.environ.get("KLRP_CACHE") or "~/.cache/klrp").expanduser()
    raw, hint = cache / "MNIST" / "raw", "Set KLRP_CACHE to a folder that can be written"
    sizes = {p.name: p.stat().st_size for p in raw.glob("*-ubyte")}
    folder = _data_folder()
    if folder and (folder / "MNIST" / "raw").is_dir():
        packed = [(folder / "MNIST" / "raw" / name, md5) for name, md5 in MNIST.resources]
        for path, md5 in packed:
            _check_packed(path, md5)
        if sizes != MNIST_BYTES:
            with _staging(cache, hint) as temp:
                for path, _ in packed:
                    extract_archive(path, temp)
                _publish(temp, raw)
        return cache, "KLRP_DATA"
    if sizes == MNIST_BYTES:
        return cache, "cache"
    if not download:
        return None, "MNIST is not in the cache, and download=False"
    if not _reachable(MNIST.mirrors[0] + MNIST.resources[0][0]):
        return None, "MNIST is not in the cache, and the network cannot be reached"
    before = socket.getdefaulttimeout()
    with _staging(cache, hint) as temp:
        try:
            # torchvision sets no time limit: a connection that stalls would hang for ever.
            socket.setdefaulttimeout(STALL_SECONDS)
            MNIST(temp, download=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            return None, f"MNIST's download failed with {type(error).__name__}"
        finally:
            socket.setdefaulttimeout(before)
        _publish(temp / "MNIST" / "raw", raw)
    return cache, "downloaded to the cache"


def _check_packed(path: Path, md5: str) -> None:
    blob = path.read_bytes() if path.is_file() else None
    came = blob is not None and hashlib.md5(blob, usedforsecurity=False).hexdigest()
    if came != md5:
        what = f"has md5 {came} ({len(blob)} bytes)" if blob is not None else "is missing"
        raise KlrpError.value(
            f"KLRP_DATA: {path} {what}; MNIST's has md5 {md5}. Fetch the file again, or unset "
            "KLRP_DATA to download MNIST, or set it to 'none' for the embedded digits."
        )


def _mnist(root: Path) -> Digits:
    from torchvision.datasets import MNIST

    parts = [MNIST(root, train=train, download=False) for train in (True, False)]
    tensors = [(p.data[:, None].to(torch.float32).div_(255), p.targets) for p in parts]
    return Digits(*tensors[0], *tensors[1], source="mnist")


def _embedded_digits() -> Digits:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.float32)[:, None] / 16
    images = torch.nn.functional.interpolate(images, size=(20, 20), mode="bilinear")
    images = torch.nn.functional.pad(images, (4, 4, 4, 4)).numpy()
    parts = train_test_split(images, bunch.target, test_size=360, stratify=bunch.target, random_state=0)
    train, test, train_labels, test_labels = map(torch.from_numpy, parts)
    return Digits(train, train_labels.long(), test, test_labels.long(), "sklearn-digits")


def _reachable(url: str) -> bool:
    """Whether ``url`` answers; in a thread, since looking up a host's name knows no time limit."""
    answers = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answers.append(True)
        except (OSError, http.client.HTTPException):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)


@contextmanager
def _staging(folder: Path, hint: str) -> Iterator[Path]:
    """A folder beside the final place: moving a finished file there is then one atomic step."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as temp:
            yield Path(temp)
    except OSError as error:
        raise KlrpError.value(f"Writing to {folder} failed: {error}. {hint}.") from None


def _publish(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in MNIST_BYTES:
        os.replace(source / name, target / name)


def _find_photo(path: Path) -> tuple[Path, str]:
    if path.is_file():
        return path, "file"
    folder = _data_folder()
    stored = sorted((folder / "photos").glob("*.*")) if folder else []
    for candidate in stored:
        if str(path) in (candidate.stem, candidate.name):
            return candidate, "KLRP_DATA"
    names = ", ".join([*EMBEDDED_PHOTOS, *(p.stem for p in stored)])
    raise KlrpError.value(f"photo: there is no file {path}. Give a path, or a name among {names}.")


def _check_count(caller: str, argument: str, value: int, what: str) -> None:
    if not isinstance(value, int) or value < 1:
        raise KlrpError.value(f"{caller}: {argument} is {value!r}; give {what}, an integer >= 1.")


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


def _load_zip(path: Path, blob: bytes, *, trusted: bool) -> dict[str, Tensor]:
    if not trusted:
        raise KlrpError.value(
            f"load_weights: {path} is a torch zip file, which holds a pickle. Give the sha256 that "
            f"its publisher names, or use a safetensors file. {CONVERT}"
        )
    try:
        held = torch.load(io.BytesIO(blob), weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError):
        held = None
    if not isinstance(held, dict) or not all(isinstance(x, Tensor) for x in held.values()):
        raise KlrpError.value(
            f"load_weights: {path} is no plain dictionary of tensors. Save the network's "
            "state_dict() alone with klrp.data.save_weights."
        )
    return dict(held)
