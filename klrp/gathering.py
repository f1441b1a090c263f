"""What is gathered over a data set in parts: stored, taken up where a run was interrupted, and joined past one machine.

Everything that is gathered has a sum: ``a + b`` are the masks, scores, curves, gains or examinations of two parts of a data
set together. So a long run is a sum that grows part by part, and several processes each have a summand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import reduce
from itertools import islice
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from klrp.data.folders import write_whole
from klrp.errors import KlrpError
from klrp.masks import Masks
from klrp.perturbation import flipping
from klrp.pruning.scores import Scores
from klrp.quality.examined import Examined
from klrp.quality.faithfulness import Gains
from klrp.semirings import Semiring, find_semiring

# By the name under which they are stored.
KINDS: dict[str, type] = {
    "masks": Masks, "scores": Scores, "curves": flipping.Curves, "gains": Gains, "examined": Examined
}  # fmt: skip
FORMAT = "1"

G = TypeVar("G", Masks, Scores, flipping.Curves, Gains, Examined)


def resume(
    path: str | Path,
    parts: Iterable[Any],
    gather: Callable[[Any], G],
    *,
    run: str = "",
    semiring: Semiring | None = None,
    progress: bool = True,
) -> G:
    """The sum of ``gather(part)`` over all parts, stored after each of them: who is interrupted loses one part at most.

    .. math:: G = ((g_1 + g_2) + g_3) + …

    A second call with the same path goes on behind the parts that are stored, and comes to the same bits as a call that
    was never interrupted.

    Args:
        path: of the file, .safetensors, that is replaced as a whole after each part.
        parts: batches of a data set, for instance; in the same order at each call.
        gather: gives masks, scores, curves, gains or examinations of one part.
        run: what must not change between the calls, in words: network, rule, data. A file of another run is refused.
        semiring: as in `load`.
        progress: whether a bar on stderr counts the parts.

    Raises:
        KlrpError: no parts, a file of another run or with more parts than there are, and what `load` and ``+`` refuse.

    Example:
        >>> masks = lambda batch: klrp.masks.collect(model, [batch], semiring="boolean", progress=False)
        >>> found = klrp.gathering.resume("zeros.safetensors", loader, masks, run="mlp 0, MNIST, threshold .03")
    """
    from tqdm import tqdm

    path = Path(path).expanduser()
    total, done = _stored(path, run, semiring) if path.exists() else (None, 0)
    size = len(parts) if hasattr(parts, "__len__") else None
    seen = done
    for part in tqdm(islice(parts, done, None), "parts", size, initial=done, leave=False, disable=not progress):
        found = gather(part)
        total = found if total is None else total + found
        seen += 1
        save(path, total, run=run, parts=seen)
    if total is None or size is not None and done > size:
        raise KlrpError.value(
            f"parts: got {size or 'none'}, and {done} are stored in {path}; give all parts of the same run."
        )
    return total


def _stored(path: Path, run: str, own: Semiring | None = None) -> tuple[Any, int]:
    found, about = _read(path.read_bytes(), str(path), own)
    if about["run"] != run:
        raise KlrpError.value(
            f"run: got {run!r}, but {path} belongs to {about['run']!r}; give another path, or delete that file."
        )
    return found, about["parts"]


def save(path: str | Path, gathered: Any, *, run: str = "", parts: int = 1) -> None:
    """Write what was gathered to a safetensors file with a manifest and a hash; it is replaced as a whole or not at all.

    Args:
        path: missing folders are made.
        gathered: masks, scores, curves, gains or examinations.
        run, parts: kept beside it; see `resume`.

    Raises:
        KlrpError: for another kind of object, and where the file cannot be written.

    Example:
        >>> klrp.gathering.save("masks.safetensors", found)
    """
    write_whole(Path(path).expanduser(), _written(gathered, run, parts))


def load(path: str | Path, *, semiring: Semiring | None = None) -> Any:
    """What `save` wrote, after a check of its hash. Nothing is unpickled.

    Args:
        path: of the file.
        semiring: that of masks over a semiring that is not shipped, klrp.signed("counting") for instance, which a file
            knows by name alone.

    Raises:
        KlrpError: no such file, a damaged one, one of another kind, or a semiring that is not shipped.
    """
    path = Path(path).expanduser()
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise KlrpError.value(
            f"path: {path} cannot be read: {error}. Give the path of a file that save() wrote."
        ) from None
    return _read(blob, str(path), semiring)[0]


def reduced(gathered: G, group: Any = None) -> G:
    """The sum over all processes of torch.distributed, in the order of their ranks, the same in each of them.

    Whole numbers, as those of Boolean and counting masks, are what one process alone would have found, to the bit; sums of
    fractions may differ in the last one.

    Args:
        gathered: the part of this process.
        group: a process group; None is all of them.

    Raises:
        KlrpError: where torch.distributed was not initialised, and what ``+`` refuses.

    Example:
        >>> mine = klrp.masks.collect(model, DataLoader(Subset(data, range(rank, len(data), world)), 500))
        >>> found = klrp.gathering.reduced(mine)
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        raise KlrpError.value(
            "group: torch.distributed is not initialised; call init_process_group, as torchrun's workers do."
        )
    device = "cpu" if distributed.get_backend(group) == "gloo" else "cuda"
    mine = torch.frombuffer(bytearray(_written(gathered, "", 1)), dtype=torch.uint8).to(device)
    world = distributed.get_world_size(group)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    distributed.all_gather(sizes, torch.tensor([len(mine)], device=device), group)
    longest = max(int(size) for size in sizes)
    padded = torch.cat([mine, mine.new_zeros(longest - len(mine))])
    blobs = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(blobs, padded, group)
    own = gathered.semiring if isinstance(gathered, Masks) else None
    found = [_read(b[: int(n)].cpu().numpy().tobytes(), "a process", own)[0] for b, n in zip(blobs, sizes, strict=True)]
    return reduce(add, found)


# ------------------------------------------------------------------------------- as bytes


def _written(gathered: Any, run: str, parts: int) -> bytes:
    """A safetensors file; its manifest says where each tensor belongs."""
    from safetensors.torch import save as to_bytes

    kind = next((name for name, kind in KINDS.items() if type(gathered) is kind), None)
    if kind is None:
        raise KlrpError.type(f"gathered: got {type(gathered).__name__}; expected one of {', '.join(KINDS)}.")
    tensors: list[Tensor] = []
    values = {f.name: _described(getattr(gathered, f.name), tensors) for f in fields(gathered)}
    manifest = json.dumps({"kind": kind, "run": run, "parts": parts, "values": values}, ensure_ascii=False)
    named = {str(i): t.detach().cpu().clone().contiguous() for i, t in enumerate(tensors)}
    # One entry, since safetensors writes several in any order, and equal contents should be equal bytes.
    about = json.dumps({"format": FORMAT, "manifest": manifest, "sha256": _digest(manifest, named)}, ensure_ascii=False)
    return to_bytes(named, {"klrp": about})


def _described(value: Any, tensors: list[Tensor]) -> Any:
    """What JSON can hold, with tensors by their numbers."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, Mapping):
        return {"mapping": [[key, _described(v, tensors)] for key, v in value.items()]}
    if isinstance(value, Semiring):
        return {"semiring": value.name}
    return {"plain": value}


def _restored(described: dict, tensors: Mapping[str, Tensor], own: Semiring | None) -> Any:
    ((what, value),) = described.items()
    if what == "tensor":
        return tensors[str(value)]
    if what == "mapping":
        return {key: _restored(v, tensors, own) for key, v in value}
    if what == "semiring":
        if own is not None and own.name != value:
            raise KlrpError.value(f"semiring: got {own.name!r}, but the masks are over {value!r}.")
        return find_semiring(value) if own is None else own
    return value


def _digest(manifest: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(manifest.encode())
    for name in sorted(tensors, key=int):
        t = tensors[name]
        found.update(f"{t.dtype} {list(t.shape)}".encode())
        found.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return found.hexdigest()


def _read(blob: bytes, where: str, semiring: Semiring | None) -> tuple[Any, dict]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        tensors, about = from_bytes(blob), _metadata(blob)
    except (SafetensorError, ValueError, KeyError) as error:
        raise KlrpError.value(
            f"path: {where} is no whole file of klrp.gathering ({error}). Delete it and gather again."
        ) from None
    if about["format"] != FORMAT or _digest(about["manifest"], tensors) != about["sha256"]:
        raise KlrpError.value(f"path: {where} was changed, or is of another version. Delete it and gather again.")
    manifest = json.loads(about["manifest"])
    values = {name: _restored(v, tensors, semiring) for name, v in manifest["values"].items()}
    return KINDS[manifest["kind"]](**values), manifest


def _metadata(blob: bytes) -> dict[str, str]:
    """Our text in the header of a safetensors file, which is its length in eight bytes, then JSON."""
    return json.loads(json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]["klrp"])
