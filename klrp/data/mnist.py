"""Handwritten digits: MNIST, or those that scikit-learn carries."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import threading
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from klrp.data.folders import data_folder, staging
from klrp.errors import KlrpError

PROBE_SECONDS, STALL_SECONDS = 4.0, 20.0
HINT = "Set KLRP_CACHE to a folder that can be written"
# The unpacked files of MNIST in bytes: what has another size was cut off, and is unpacked again.
MNIST_BYTES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


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


def _mnist_root(download: bool) -> tuple[Path | None, str]:
    """The folder from which torchvision reads MNIST, or None, and in words how that came about."""
    if os.environ.get("KLRP_DATA") == "none":
        return None, "KLRP_DATA=none"
    from torchvision.datasets import MNIST

    cache = Path(os.environ.get("KLRP_CACHE") or "~/.cache/klrp").expanduser()
    raw = cache / "MNIST" / "raw"
    whole = {p.name: p.stat().st_size for p in raw.glob("*-ubyte")} == MNIST_BYTES
    folder = data_folder()
    if folder and (folder / "MNIST" / "raw").is_dir():
        _unpack([(folder / "MNIST" / "raw" / name, md5) for name, md5 in MNIST.resources], cache, whole)
        return cache, "KLRP_DATA"
    if whole:
        return cache, "cache"
    if not download:
        return None, "MNIST is not in the cache, and download=False"
    if not _reachable(MNIST.mirrors[0] + MNIST.resources[0][0]):
        return None, "MNIST is not in the cache, and the network cannot be reached"
    failure = _download(cache)
    return (None, f"MNIST's download failed with {failure}") if failure else (cache, "downloaded to the cache")


def _unpack(packed: list[tuple[Path, str]], cache: Path, whole: bool) -> None:
    """Check the packed files, and unpack them into the cache unless it is whole."""
    from torchvision.datasets.utils import extract_archive

    for path, md5 in packed:
        _check_packed(path, md5)
    if not whole:
        with staging(cache, HINT) as temp:
            for path, _ in packed:
                extract_archive(path, temp)
            _publish(temp, cache)


def _download(cache: Path) -> str:
    """Download MNIST to the cache; the name of the error where that fails."""
    from torchvision.datasets import MNIST

    before = socket.getdefaulttimeout()
    with staging(cache, HINT) as temp:
        try:
            # torchvision sets no time limit: a connection that stalls would hang for ever.
            socket.setdefaulttimeout(STALL_SECONDS)
            MNIST(temp, download=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            socket.setdefaulttimeout(before)
        _publish(temp / "MNIST" / "raw", cache)
    return ""


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


def _publish(source: Path, cache: Path) -> None:
    target = cache / "MNIST" / "raw"
    target.mkdir(parents=True, exist_ok=True)
    for name in MNIST_BYTES:
        os.replace(source / name, target / name)
