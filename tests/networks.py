"""Networks for the tests: a forward written beside its modules, random parameters, and what must not change.

The measure of most is a law: with LRP-0 from the logit, relevance is gradient x input, for any network of linear
layers with biases, max-pools and piecewise linear activations, however its forward is written.
"""

import copy

import torch
from torch import nn

import klrp
from klrp import rules


def signed(*shape, seed=1):
    """Numbers of both signs, in double precision."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = signed(2, 3, 5, 7)  # what most networks of the tests read
IN = 3 * 5 * 7
FC = nn.Linear(IN, 13)  # graph copies it


def conv(lower=3, upper=3, kernel=3, **settings):
    """A convolution that keeps height and width."""
    return nn.Conv2d(lower, upper, kernel, padding=kernel // 2, **settings)


class Graph(nn.Module):
    """A network whose forward is a function of the network and its inputs."""

    def __init__(self, forward, modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.function = forward

    def forward(self, *xs):
        return self.function(self, *xs)


def graph(forward, seed=0, **modules):
    """That network in float64 and eval mode, its parameters random; modules are copied, so a table can hold them."""
    return randomise(Graph(forward, copy.deepcopy(modules)).double().eval(), seed)


@torch.no_grad()
def randomise(model, seed=0, bias=0.3):
    """He-normal weights, biases of that deviation (0: none), and BatchNorms with positive factors."""
    g = torch.Generator().manual_seed(seed)
    for module in model.modules():
        norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, p in module.named_parameters(recurse=False):
            if norm and name == "weight":
                p.uniform_(0.5, 1.5, generator=g)
            elif p.ndim > 1:
                p.normal_(0, (2 / p[0].numel()) ** 0.5, generator=g)
            else:
                p.normal_(0, bias, generator=g) if bias else p.zero_()
        if norm and module.running_var is not None:
            module.running_var.uniform_(0.5, 2, generator=g)
            module.running_mean.normal_(0, bias, generator=g) if bias else module.running_mean.zero_()
    return model


def hollow(build):
    """The network that build() makes, its parameters zero: nothing is drawn, so that the largest is quick."""
    with torch.device("meta"):
        model = build()
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    return model


def lrp0(model, x, **settings):
    return klrp.explain(model, x, rule=rules.lrp0(), start="logit", **settings)


def predicted(model, x):
    """The logits [N, K] by PyTorch alone."""
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(x.detach().clone())
    return logits if logits.ndim == 2 else logits[:, None]


def gradient_times_input(model, x, target):
    """x ∂logit/∂x [N, ...]: what LRP-0 from the logit gives for piecewise linear activations, with any biases."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    leaf = x.detach().clone().requires_grad_()
    logits = model(leaf * 1)  # in-place operations may change the product, no leaf
    logits = logits if logits.ndim == 2 else logits[:, None]
    chosen = logits.gather(1, target[:, None]).sum()
    return leaf.detach() * torch.autograd.grad(chosen, leaf)[0]


def close(found, expected, tolerance=1e-9):
    """Equal shapes and dtypes, and equal numbers to ``tolerance`` relative to the largest."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert bool(found.isfinite().all())
    if expected.numel():
        scale = float(expected.abs().amax()) or 1.0
        assert float((found - expected).abs().amax()) / scale <= tolerance


def assert_law(model, x):
    """Its logits are the network's, and relevance is gradient x input; nothing is changed by it."""
    before = snapshot(model, x)
    found = lrp0(model, x)
    assert snapshot(model, x) == before
    close(found.logits, predicted(model, x), 1e-12)
    close(found.input, gradient_times_input(model, x, found.target))
    return found


def snapshot(model, *inputs):
    """Everything that explaining a network must leave as it was, as something that == compares."""
    tensors = [*model.parameters(), *model.buffers(), *inputs]
    hooks = [
        [
            list(getattr(m, name).items())
            for name in sorted(vars(m))
            if "hooks" in name and isinstance(getattr(m, name), dict)
        ]
        for m in model.modules()
    ]
    return {
        "bits": [(t.data_ptr(), t.detach().cpu().numpy().tobytes()) for t in tensors],
        "versions": [t._version for t in tensors],
        "requires_grad": [t.requires_grad for t in tensors],
        "grads": [None if t.grad is None else t.grad.cpu().numpy().tobytes() for t in tensors if t.is_leaf],
        "modules": [(name, id(m), type(m), sorted(vars(m))) for name, m in model.named_modules()],
        "training": [m.training for m in model.modules()],
        "inplace": [getattr(m, "inplace", None) for m in model.modules()],
        "hooks": hooks,
        "rng": torch.get_rng_state().numpy().tobytes(),
        "grad mode": torch.is_grad_enabled(),
    }
