"""What the measurements share: networks and inputs, time and memory, and the file that holds the results.

Engines run in one process, in turn, one round after the other; what is reported is the median over the
rounds of the ratio to a reference in the same round, so that a machine that is busy for a while slows both.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import median

import torch
import torchvision
from torch import Tensor, nn

import klrp

NETWORKS = ("vgg11", "vgg13", "vgg16", "vgg19", "resnet18", "squeezenet1_1", "mlp")
TINY = 32  # pixels; enough for every network, and too few to take time
# glibc then gives every large block back as soon as it is freed, and no gaps are counted.
FREED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
Run = Callable[[], object]


def network(name: str, weights: str | None = None, hidden: Sequence[int] = (300, 100)) -> nn.Module:
    """The network with He-normal weights, or with those of a file; ``hidden`` is for the MLP."""
    torch.manual_seed(0)
    if name == "mlp":
        return klrp.models.mlp((784, *hidden, 10)).eval().requires_grad_(False)
    model = torchvision.models.get_model(name, weights=None).eval().requires_grad_(False)
    if weights:
        model.load_state_dict(klrp.data.load_weights(weights))
        return model
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.kaiming_normal_(p)
    return model


def inputs(name: str, batch: int, size: int) -> Tensor:
    """Noise of the shape of photographs; for the MLP digits, repeated if there are too few."""
    if name == "mlp":
        with redirect_stdout(io.StringIO()):
            digits = klrp.data.digits(download=False).test_images
        return digits[torch.arange(batch) % len(digits)]
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def edges(model: nn.Module, x: Tensor) -> int:
    """The edges of convolutions and linear layers for all of x, those to the border included."""
    found = []

    def count(module: nn.Module, _: tuple, out: Tensor) -> None:
        found.append(out.numel() * module.weight[0].numel())

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [m.register_forward_hook(count) for m in layers]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return sum(found)


def gradient(model: nn.Module, x: Tensor) -> Run:
    """Gradient × input of the top logit, the yardstick."""

    def run() -> Tensor:
        y = x.clone().requires_grad_(True)
        logits = model(y)
        logits.gather(1, logits.argmax(1, keepdim=True)).sum().backward()
        return y.detach() * y.grad

    return run


# ------------------------------------------------------------------------- time


def seconds(run: Run, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long one call takes; the garbage of the others is collected before."""
    gc.collect(1)
    before = clock()
    run()
    return clock() - before


def rounds(
    runs: Mapping[str, Run], count: int, patience: float = float("inf"), clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each engine in each round; who takes longer than ``patience`` has only one round."""
    taken = {name: [] for name in runs}
    for number in range(count):
        for name, run in runs.items():
            if number == 0 or taken[name][0] <= patience:
                taken[name].append(seconds(run, clock))
    return taken


def ratio(times: Sequence[float], reference: Sequence[float]) -> float:
    """The median over the rounds of the ratio to the reference in the same round."""
    return median(t / r for t, r in zip(times, reference, strict=False))


# ----------------------------------------------------------------------- memory


def held() -> int:
    """The most memory that this process has held since ``forget``, in bytes.

    Not ru_maxrss where there is another way: on Linux it begins with what the parent process held.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size if platform.system() == "Darwin" else size * 1024


def forget() -> None:
    """Let ``held`` begin anew, where the system can do that."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def fresh(script: str, arguments: Sequence[str], **environment: str) -> dict:
    """What a process of its own prints last, as JSON; no compiled kernel is at hand there."""
    with tempfile.TemporaryDirectory() as empty:
        variables = os.environ | {"NUMBA_CACHE_DIR": empty} | environment
        command = [sys.executable, script, *arguments]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
    return json.loads(run.stdout.splitlines()[-1])


# ------------------------------------------------------------------ the results


def machine(threads: int) -> dict:
    """What the numbers depend on: the processor, its cores, how many threads, and how busy it was."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    load = round(os.getloadavg()[0], 1)
    return {"cpu": name, "cores": os.cpu_count(), "threads": threads, "load": load}


def versions() -> dict:
    """Python's version and those of the packages that matter."""
    found = {"python": platform.python_version(), "klrp": klrp.__version__}
    for name in ("torch", "torchvision", "timm", "numba", "zennit", "captum", "torch-semiring-einsum"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def parser(description: str, **defaults: object) -> argparse.ArgumentParser:
    """Arguments that all measurements have."""
    found = argparse.ArgumentParser(description=description.splitlines()[0])
    found.add_argument("--network", choices=NETWORKS, default=defaults.get("network", "vgg16"))
    found.add_argument("--weights", help="a file for klrp.data.load_weights")
    found.add_argument("--size", type=int, default=224, help="height and width of the image")
    found.add_argument("--batch", type=int, default=1)
    found.add_argument("--rounds", type=int, default=5)
    with_threads(found)
    return found


def with_threads(found: argparse.ArgumentParser) -> None:
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--save", "--json", dest="save", help="a JSON file to which the results are added")


def without_save(given: Sequence[str]) -> list[str]:
    """The words of a command but for where its results go."""
    option = ("--save", "--json")
    kept = (w for i, w in enumerate(given) if w not in option and (not i or given[i - 1] not in option))
    return [w for w in kept if not w.startswith(tuple(f"{name}=" for name in option))]


def report(script: str, given: Sequence[str], chosen: argparse.Namespace, rows: list, **more: object) -> dict:
    """The record of one command, which replaces that of the same command in the file ``--save``."""
    words = without_save(given)
    kind = Path(script).stem
    record = {
        "kind": kind,
        "command": shlex.join(["python", f"benchmarks/{kind}.py", *words]),
        "date": date.today().isoformat(),
        "machine": machine(chosen.threads),
        "versions": versions(),
        "arguments": {k: v for k, v in vars(chosen).items() if k != "save" and v is not None},
        **more,
        "rows": rows,
    }
    if chosen.save:
        path = Path(chosen.save)
        kept = json.loads(path.read_text("utf-8")) if path.exists() else []
        kept = [other for other in kept if other["command"] != record["command"]]
        text = json.dumps(_rounded([*kept, record]), indent=1, ensure_ascii=False)
        path.write_text(text + "\n", "utf-8")
    return record


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def heading(record: dict) -> str:
    """One line above a table: which command, when, where."""
    where, found = record["machine"], record["versions"]
    names = ", ".join(f"{k} {v}" for k, v in found.items() if v and k in ("torch", "numba", "python"))
    return (
        f"{record['command']} ({record['date']}; {where['cpu']}, {where['threads']} of "
        f"{where['cores']} cores, load {where['load']}; {names})"
    )
