"""Weights in safetensors files, which can hold nothing but tensors."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from klrp.data.folders import write_whole
from klrp.errors import KlrpError

CONVERT = (
    "If you trust where it comes from, convert it once: klrp.data.save_weights("
    "'new.safetensors', torch.load('old.pth', weights_only=True))."
)


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
    write_whole(path, blob)


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
