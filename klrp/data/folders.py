"""Where data lie: the folder that is only read, and the one that finished files are moved to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from klrp.errors import KlrpError


def data_folder() -> Path | None:
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


@contextmanager
def staging(folder: Path, hint: str) -> Iterator[Path]:
    """A folder beside the final place: moving a finished file there is then one atomic step."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as temp:
            yield Path(temp)
    except OSError as error:
        raise KlrpError.value(f"Writing to {folder} failed: {error}. {hint}.") from None


def write_whole(path: Path, blob: bytes) -> None:
    """Write a file, which is replaced as a whole or not at all; missing folders are made."""
    with staging(path.parent, "Give a path in a folder that can be written") as temp:
        (temp / path.name).write_bytes(blob)
        os.replace(temp / path.name, path)


def check_count(caller: str, argument: str, value: int, what: str) -> None:
    if not isinstance(value, int) or value < 1:
        raise KlrpError.value(f"{caller}: {argument} is {value!r}; give {what}, an integer >= 1.")
