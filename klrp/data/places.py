"""Where data lies: the folder that KLRP_DATA names, the cache, the network."""

from __future__ import annotations

import http.client
import os
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from klrp.errors import KlrpError

PROBE_SECONDS = 4.0
STALL_SECONDS = 20.0


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


def _check_count(caller: str, argument: str, value: int, what: str) -> None:
    if not isinstance(value, int) or value < 1:
        raise KlrpError.value(f"{caller}: {argument} is {value!r}; give {what}, an integer >= 1.")
