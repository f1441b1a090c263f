"""What an explanation costs, as a multiple of gradient × input: `python benchmarks/speed.py`.

All engines run in one process, in turn, one round after the other; a number is the median over the rounds
of the ratio to gradient × input in the same round. The first call, which compiles, is timed by itself. Peak
memory is that of a fresh process, above what it held before the call, divided by that of the gradient.

    python benchmarks/speed.py --network resnet18 --batch 8 --rounds 5 --threads 2
"""

import argparse
import gc
import platform
import resource
import subprocess
import sys
import time
from statistics import median

import torch
import torchvision
from torch import nn

import klrp
from klrp import conversions, rules
from klrp.kernels import compiled
from klrp.tables import Table

NETWORKS = ("vgg16", "resnet18", "squeezenet1_1", "mlp")


def network(name: str, weights: str | None) -> nn.Module:
    """The network with He-normal weights, or with those of a file."""
    torch.manual_seed(0)
    if name == "mlp":
        return klrp.models.mlp().eval().requires_grad_(False)
    model = torchvision.models.get_model(name, weights=None).eval().requires_grad_(False)
    if weights:
        model.load_state_dict(klrp.data.load_weights(weights))
        return model
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.kaiming_normal_(p)
    return model


def engines(model: nn.Module, x: torch.Tensor) -> dict:
    """Name: a function without arguments that explains x."""

    def explain(**settings):
        return lambda: klrp.explain(model, x, keep="input", **settings)

    def gradient():
        y = x.clone().requires_grad_(True)
        logits = model(y)
        logits.gather(1, logits.argmax(1, keepdim=True)).sum().backward()
        return y.detach() * y.grad

    found = {"gradient × input": gradient, "forward": lambda: model(x)}
    for theta in (0.01, 0.05):
        cut = conversions.threshold(theta)
        found[f"Boolean θ = {theta:g}"] = explain(semiring="boolean", theta=cut)
    cut, positive = conversions.threshold(0.01), conversions.positive()
    found["counting θ = 0.01"] = explain(semiring="counting", theta=cut)
    found["counting positive()"] = explain(semiring="counting", theta=positive)
    for name in ("viterbi", "max_plus", "fuzzy", "lukasiewicz"):
        found[name] = explain(semiring=name)
    found["real ε"] = explain()
    found["real z⁺"] = explain(rule=rules.zplus())
    if x.ndim == 4 and x.shape[1] == 3:
        rows = [(klrp.FIRST, rules.zbox(-2.5, 2.7), None), (klrp.ANY, rules.gamma(0.25), None)]
        found["real γ + z-box"] = explain(composite=klrp.Composite(rows))
    own = klrp.Semiring(
        "own", 0.0, 1.0, lambda v, dim: v.amax(dim), torch.mul, (0, 1), fused="max,mul"
    )
    hinted = {"rule": rules.max_share(), "theta": conversions.identity()}
    found["own (max, ×) with a hint"] = explain(semiring=own, **hinted)
    return found | peers(model, x)


def peers(model: nn.Module, x: torch.Tensor) -> dict:
    try:
        from zennit.attribution import Gradient
        from zennit.composites import EpsilonPlus
    except ImportError:
        return {}

    def zennit():
        with Gradient(model=model, composite=EpsilonPlus()) as attribute:
            y = x.clone().requires_grad_(True)
            return attribute(y, lambda out: torch.eye(out.shape[1])[out.argmax(1)])

    return {"zennit EpsilonPlus": zennit}


def generic(model: nn.Module, x: torch.Tensor) -> dict:
    """The same by the generic kernel."""
    cut = conversions.threshold(0.01)

    def explain(**settings):
        def run():
            compiled.AVAILABLE, before = False, compiled.AVAILABLE
            try:
                return klrp.explain(model, x, keep="input", **settings)
            finally:
                compiled.AVAILABLE = before

        return run

    return {
        "generic Boolean θ = 0.01": explain(semiring="boolean", theta=cut),
        "generic counting θ = 0.01": explain(semiring="counting", theta=cut),
        "generic viterbi": explain(semiring="viterbi"),
    }


def seconds(run) -> float:
    gc.collect()
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def held() -> int:
    """The most memory that this process has held, in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if platform.system() == "Darwin" else size * 1024


def peak(arguments: list[str], engine: str) -> float:
    """Bytes above the forward pass that one call holds at most, in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--peak-of", engine]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="vgg16")
    parser.add_argument("--weights", help="a file for klrp.data.load_weights")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    parser.add_argument("--generic", action="store_true", help="the generic kernel too: minutes")
    parser.add_argument("--only", help="only engines whose names contain this")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    model = network(chosen.network, chosen.weights)
    shape = (1, 28, 28) if chosen.network == "mlp" else (3, chosen.size, chosen.size)
    x = torch.randn(chosen.batch, *shape, generator=torch.Generator().manual_seed(1))
    x = x.clamp_min(0) if chosen.network == "mlp" else x
    runs = engines(model, x) | (generic(model, x) if chosen.generic else {})
    if chosen.peak_of:
        with torch.no_grad():
            model(x)
        before = held()
        runs[chosen.peak_of]()
        print(held() - before)
        return
    reference = "gradient × input"
    if chosen.only:
        runs = {k: v for k, v in runs.items() if chosen.only in k or k == reference}
    first = {name: seconds(run) for name, run in runs.items()}
    taken = {name: [] for name in runs}
    for _ in range(chosen.rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run))
    arguments = [a for a in sys.argv[1:] if a != "--memory"]
    bytes_of = {name: peak(arguments, name) for name in runs} if chosen.memory else {}
    rows = []
    for name, times in taken.items():
        ratio = median(t / g for t, g in zip(times, taken[reference], strict=True))
        memory = f"{bytes_of[name] / bytes_of[reference]:.2f}" if bytes_of else "-"
        rows.append((name, f"{ratio:.2f}", f"{median(times):.3f}", f"{first[name]:.1f}", memory))
    machine = f"{platform.machine()}, {chosen.threads} threads, torch {torch.__version__}"
    print(
        f"{chosen.network}, {chosen.batch} × {shape}, {machine}, Python {platform.python_version()}"
    )
    columns = ("engine", "× gradient", "seconds", "first call", "× its memory")
    print(Table(columns, tuple(rows)))


if __name__ == "__main__":
    main()
