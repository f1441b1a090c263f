"""What the training scripts share: weights rounded to float16, and the list of the files' hashes."""

import hashlib
from pathlib import Path

from torch import nn

from klrp import data

WEIGHTS = Path(__file__).resolve().parents[1] / "klrp" / "models" / "weights"


def write(network: nn.Module, path: Path) -> None:
    """Its weights in half precision, and in SHA256SUMS beside them the hash of every file that lies there."""
    half = {name: x.half() if x.is_floating_point() else x for name, x in network.state_dict().items()}
    if not all(x.isfinite().all() for x in half.values()):
        raise SystemExit(f"{path.name}: some weights are not finite in float16, so nothing is written.")
    data.save_weights(path, half)
    files = sorted(path.parent.glob("*.safetensors"))
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (path.parent / "SHA256SUMS").write_text("".join(lines), "utf-8")
