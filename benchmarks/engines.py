"""What is measured: each function gives names and, for each, a function without arguments, or why there is none."""

from __future__ import annotations

import copy
import warnings

import torch
from measure import Run, gradient
from torch import Tensor, nn

import klrp
from klrp import conversions, rules

REFERENCE = "gradient × input"
BUILT_IN = ("viterbi", "tropical", "max_plus", "fuzzy", "lukasiewicz", "log")
ONE_LAYER = (16, 784, 300)  # samples, lower and upper neurons
LAYER_REFERENCE = "one layer: gradient × input"


def explained(model: nn.Module, x: Tensor, **settings: object) -> Run:
    return lambda: klrp.explain(model, x, keep="input", **settings)


def klrp_settings(photographs: bool) -> dict[str, dict]:
    """Every built-in with the kernel that it gets, several rules, and a semiring with a hint."""
    cuts = {theta: conversions.threshold(theta) for theta in (0.01, 0.02)}
    found = {f"Boolean θ = {theta:g}": {"semiring": "boolean", "theta": cut} for theta, cut in cuts.items()}
    found["counting θ = 0.01"] = {"semiring": "counting", "theta": cuts[0.01]}
    found["counting positive()"] = {"semiring": "counting", "theta": conversions.positive()}
    found["counting_int θ = 0.01"] = {"semiring": "counting_int", "theta": cuts[0.01]}
    found |= {name: {"semiring": name} for name in BUILT_IN}
    found["real ε"] = {}
    found["real z⁺"] = {"rule": rules.zplus()}
    if photographs:
        rows = [(klrp.FIRST, rules.zbox(-2.5, 2.7), None), (klrp.ANY, rules.gamma(0.25), None)]
        found["real γ + z-box"] = {"composite": klrp.Composite(rows)}
    own = klrp.Semiring("own", 0.0, 1.0, lambda v, dim: v.amax(dim), torch.mul, (0, 1), fused="max,mul")
    found["own (max, ×) with a hint"] = {"semiring": own, "rule": rules.max_share(), "theta": conversions.identity()}
    return found


def klrp_engines(model: nn.Module, x: Tensor) -> dict[str, Run]:
    """An explanation with each of the settings."""
    found = klrp_settings(photographs=x.ndim == 4 and x.shape[1] == 3)
    return {name: explained(model, x, **settings) for name, settings in found.items()}


# As on a machine that has only torch, without the norms of Boolean too for what is generic.
WITHOUT_NUMBA, GENERIC = ("gradient", "norms", "blocked"), ("blocked",)


def torch_engines(model: nn.Module, x: Tensor) -> dict[str, Run]:
    """Without Numba: Boolean by norms, and the generic kernel where a faster one would do."""
    cut = conversions.threshold(0.01)
    boolean = {"semiring": "boolean", "theta": cut}
    settings = {
        "Boolean θ = 0.01 without Numba": boolean,
        "generic Boolean θ = 0.01": boolean,
        "generic counting θ = 0.01": {"semiring": "counting", "theta": cut},
        "generic viterbi": {"semiring": "viterbi"},
        "generic max_plus": {"semiring": "max_plus"},
    }

    def bare(kernels: tuple[str, ...], **chosen: object) -> Run:
        from klrp.kernels import only  # an earlier version, beside which benchmarks/versions.py runs this, has none

        def run() -> object:
            with only(*kernels):
                return explained(model, x, **chosen)()

        return run

    return {name: bare(GENERIC if name.startswith("generic") else WITHOUT_NUMBA, **s) for name, s in settings.items()}


# ------------------------------------------------------------------ other packages


def peers(model: nn.Module, x: Tensor) -> dict[str, Run | str]:
    """zennit and captum, on a copy whose ReLUs do not overwrite their input, as captum wants it."""
    memo = {id(t): t for t in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, memo)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    if isinstance(model, nn.Sequential) and isinstance(model[0], nn.Flatten):
        # captum has no rule for it.
        model, x = model[1:], x.flatten(1)
    found = {"zennit EpsilonPlus": _zennit, "captum LRP": _captum_lrp, "captum InputXGradient": _captum_gradient}
    return {name: _prepared(make, model, x) for name, make in found.items()}


def _prepared(make: object, model: nn.Module, x: Tensor) -> Run | str:
    """The engine, if one sample of it runs."""
    try:
        make(model, x[:1])()
        return make(model, x)
    except ImportError:
        return "not installed"
    except Exception as error:  # whatever another package raises on a network that is not for it
        return f"does not run: {type(error).__name__}: {str(error).splitlines()[0]}"


def _zennit(model: nn.Module, x: Tensor) -> Run:
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus

    def run() -> object:
        with Gradient(model=model, composite=EpsilonPlus()) as attribute:
            y = x.clone().requires_grad_(True)
            return attribute(y, lambda out: torch.eye(out.shape[1])[out.argmax(1)])

    return run


def _captum_lrp(model: nn.Module, x: Tensor) -> Run:
    from captum.attr import LRP

    return _captum(LRP, model, x)


def _captum_gradient(model: nn.Module, x: Tensor) -> Run:
    from captum.attr import InputXGradient

    return _captum(InputXGradient, model, x)


def _captum(method: object, model: nn.Module, x: Tensor) -> Run:
    def run() -> Tensor:
        with torch.no_grad():
            target = model(x).argmax(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return method(model).attribute(x.clone().requires_grad_(True), target=target)

    return run


# ---------------------------------------------------------------------- one layer


def layer_engines(sizes: tuple[int, int, int] = ONE_LAYER) -> dict[str, Run | str]:
    """⊕_k d_jk ⊗ R_k of one dense layer: klrp from a, w and R; torch-semiring-einsum from a d that is there."""
    n, lower, upper = sizes
    draw = torch.Generator().manual_seed(0)
    linear = nn.Linear(lower, upper, bias=False).requires_grad_(False)
    linear.weight[:] = torch.randn(upper, lower, generator=draw)
    a = torch.rand(n, lower, generator=draw) + 0.1
    r = torch.rand(n, upper, generator=draw).log()
    found = {LAYER_REFERENCE: gradient(linear, a)}
    for name, rule in (("max_plus", rules.max_share()), ("log", rules.zplus())):
        settings = {"rule": rule, "theta": conversions.log(), "start": r}
        found[f"one layer, {name}: klrp"] = _of_layer(linear, a, name, settings)
        found[f"one layer, {name}: torch-semiring-einsum"] = _einsum(linear, a, r, name)
    return found


def _of_layer(linear: nn.Module, a: Tensor, semiring: str, settings: dict) -> Run:
    return lambda: klrp.explain(linear, a, 0, semiring=semiring, keep="input", **settings).input


def _einsum(linear: nn.Linear, a: Tensor, r: Tensor, semiring: str) -> Run | str:
    try:
        import torch_semiring_einsum as tse
    except ImportError:
        return "not installed"
    contributions = a[:, :, None] * linear.weight.T
    if semiring == "max_plus":
        contributions = contributions.abs()
        z = contributions.amax(1, keepdim=True)
    else:
        contributions = contributions.clamp_min(0)
        z = contributions.sum(1, keepdim=True)
    d = (contributions / z).log()
    equation = tse.compile_equation("njk,nk->nj")
    if semiring == "max_plus":
        return lambda: tse.log_viterbi_einsum_forward(equation, d, r)[0]
    return lambda: tse.log_einsum(equation, d, r)
