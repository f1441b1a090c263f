"""Copies of a network without some of its units: of the old shape, or smaller."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from klrp.errors import KlrpError
from klrp.network.steps import Trace
from klrp.network.tracing import trace
from klrp.pruning.layers import PRUNABLE, Unit, units_of, weights_of

Removed = Mapping[str, Sequence[int] | Tensor]


@torch.no_grad()
def mask(model: nn.Module, inputs: Tensor, removed: Removed, *, bias: str = "pruned") -> nn.Module:
    """A copy of the same shape in which the units ``removed`` have no weights.

    With bias "pruned" such a unit is silent. With "kept", the choice of Groudiev and Maniu (2024), it goes
    on sending the constant that its bias makes of nothing. Arguments and errors are those of prune.
    """
    copied = copy.deepcopy(model)
    for layer, rows in _to_remove(model, inputs, removed, bias).items():
        parts = [copied.get_submodule(name) for name in (layer.name, *layer.norms)]
        parts[0].weight[rows] = 0
        for part in parts if bias == "pruned" else ():
            # A BatchNorm of mean 0 and bias 0 keeps 0, whatever its factor.
            for value in (getattr(part, name, None) for name in ("bias", "running_mean")):
                if value is not None:
                    value[rows] = 0
    return copied


@torch.no_grad()
def prune(model: nn.Module, inputs: Tensor, removed: Removed, *, bias: str = "pruned") -> nn.Module:
    r"""A smaller copy of the network, without the units ``removed``; it computes what ``mask`` computes.

    The rows of these units go, with their biases and what BatchNorms hold for them, and the columns of
    the layers that read them. With bias "kept" they went on sending constants, for instance ReLU(b), and
    the next bias takes these up:

    .. math:: b_k' = b_k + \sum_{j \text{ removed}} w_{jk} \mathrm{ReLU}(b_j).

    Args:
        model: a network that klrp.explain takes; it is not changed.
        inputs: [n >= 1, ...]; the first one is used to follow the network.
        removed: for each layer the indices of its units, as ``scores.lowest(0.5)`` gives them.
        bias: "pruned" or "kept". A convolution that pads cannot take up a constant: a KlrpError.

    Raises:
        KlrpError: for a layer that ``units`` does not list, with the reason; for indices that are out
            of range, or leave no unit.

    Example:
        >>> small = prune(model, images, scores.lowest(0.5))
    """
    small = mask(model, inputs, removed, bias=bias)
    silent, found = trace(small, inputs[:1]), _to_remove(model, inputs, removed, bias)
    # From the output down: a unit that goes takes with it what the units below would send to it.
    for layer, rows in reversed(list(found.items())):
        keep = torch.ones(layer.size, dtype=torch.bool, device=rows.device)
        keep[rows] = False
        for reader, source in layer.readers:
            module, value = small.get_submodule(reader.name), silent.value(source)[0]
            flat = value.numel() // layer.size if value.ndim == 1 else 1  # neurons of a unit
            columns = keep.repeat_interleave(flat)
            # Behind an activation with act(0) ≠ 0 a unit without a bias sends a constant too.
            constant = value.masked_fill(columns.reshape(-1, *(1,) * (value.ndim - 1)), 0)
            if bias == "kept" or bool(constant.any()):
                _take_up(constant, module, layer.name, reader.name, bias)
            _cut(module, "weight", columns, dim=1)
        module, *norms = (small.get_submodule(name) for name in (layer.name, *layer.norms))
        for name in ("weight", "bias"):
            _cut(module, name, keep)
        for part in norms:
            if getattr(part, "num_parameters", 0) == 1:  # a PReLU with one slope for all units
                continue
            for name in ("weight", "bias", "running_mean", "running_var"):
                _cut(part, name, keep)
    return _checked(small, silent, inputs[:1])


def _checked(small: nn.Module, masked: Trace, inputs: Tensor) -> nn.Module:
    """The smaller network, if it computes what the masked one does; else something in its forward counts units."""
    try:
        found, why = trace(small, inputs).logits, ""
        scale = float(masked.logits.abs().amax()) or 1.0
        if not torch.allclose(found, masked.logits, rtol=1e-3, atol=1e-3 * scale):
            why = "it gives other logits than the masked network"
    except KlrpError as error:
        why = str(error).rstrip(".")
    if why:
        raise KlrpError.value(
            f"removed: the smaller network does not run as it should: {why}. Its forward may name a number of units, as "
            "in x.view(-1, 144); write x.flatten(1), or use mask."
        )
    return small


def _take_up(constant: Tensor, module: nn.Module, name: str, reader: str, bias: str) -> None:
    """Add to the bias of ``module`` what it makes of a constant input."""
    sent = (module(constant[None]) - module(torch.zeros_like(constant)[None]))[0]
    sent = sent.reshape(len(sent), -1)
    if not torch.allclose(sent, sent[:, :1], rtol=1e-4, atol=1e-5):
        raise KlrpError.value(
            f'bias: got "{bias}", but {name} would go on sending constants to {reader}, which does not see them '
            'in its padding, so that no bias can stand for them. Use mask, or bias="pruned" where act(0) is 0.'
        )
    if sent.any():
        before = 0 if module.bias is None else module.bias
        module.bias = nn.Parameter(before + sent[:, 0], module.weight.requires_grad)


def _cut(module: nn.Module, name: str, keep: Tensor, dim: int = 0) -> None:
    """Keep these rows or columns of a parameter or buffer, and set what the module says of its size."""
    value = getattr(module, name, None)
    if value is None:
        return
    kept = value.detach()[(slice(None),) * dim + (keep,)].clone()
    is_parameter = isinstance(value, nn.Parameter)
    setattr(module, name, nn.Parameter(kept, value.requires_grad) if is_parameter else kept)
    outer, inner = ("out_features", "out_channels", "num_features", "num_parameters"), ("in_features", "in_channels")
    for size in (outer, inner)[dim]:
        if hasattr(module, size):
            setattr(module, size, kept.shape[dim])


def _to_remove(model: nn.Module, inputs: Tensor, removed: Removed, bias: str) -> dict[Unit, Tensor]:
    """The layers in the order of computation, each with the sorted indices of the units that go."""
    if bias not in ("pruned", "kept"):
        raise KlrpError.value(f'bias: got {bias!r}; expected "pruned" or "kept".')
    weights_of(model, list(removed))
    network, modules = trace(model, inputs[:1]), dict(model.named_modules())
    order = {step.name: place for place, step in enumerate(network.steps)}
    found = {}
    for name in sorted(removed, key=lambda name: order.get(name, -1)):
        layer = units_of(network, name)
        for other in (*layer.norms, *(reader.name for reader, _ in layer.readers)):
            if not isinstance(modules.get(other), (*PRUNABLE, _BatchNorm, nn.PReLU)):
                raise KlrpError.value(
                    f"removed: {name} is read by {other}, which is no module that is called once, so its "
                    "weights cannot be cut. Write it as a torch.nn module, or leave this layer out."
                )
        rows = torch.as_tensor(removed[name]).cpu()
        rows = (rows if rows.numel() else rows.long()).unique()
        inside = rows.dtype == torch.int64 and all(0 <= row < layer.size for row in rows.tolist())
        if not inside or len(rows) == layer.size:
            raise KlrpError.value(
                f"removed: got {rows.tolist()} for {name}; expected indices in 0..{layer.size - 1}, and at "
                "least one unit that stays."
            )
        found[layer] = rows.to(modules[name].weight.device)
    return found
