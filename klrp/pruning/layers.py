"""The layers whose units can be taken out, and where these units go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from klrp.errors import KlrpError
from klrp.network.layers import Affine, Conv, Linear, Pool
from klrp.network.moves import Pass, Winner
from klrp.network.steps import Step, Trace
from klrp.network.tracing import trace
from klrp.tables import Table

PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)


class Unit(NamedTuple):
    """Where the units of a layer go: through ``norms``, to ``active``, the last step of their shape.

    ``readers`` are pairs of a layer that reads them and the step that it reads.
    """

    name: str
    size: int
    active: str
    norms: tuple[str, ...]
    readers: tuple[tuple[Step, str], ...]


def units(model: nn.Module, inputs: Tensor) -> Table:
    """The layers whose units can be taken out: name, kind, number of units, which layers read them.

    Not among them: the last layer, whose units are the classes, and layers that a residual add or a
    concatenation joins with others.

    Example:
        >>> layers = [row[0] for row in units(model, images)]
    """
    network, rows = trace(model, inputs[:1]), []
    for step in network.steps:
        try:
            weights_of(model, [step.name])
            layer = units_of(network, step.name)
        except KlrpError:
            continue
        readers = ", ".join(reader.name for reader, _ in layer.readers)
        rows.append((step.name, step.kind.__name__, layer.size, readers))
    return Table(("layer", "kind", "units", "read by"), tuple(rows))


def units_of(network: Trace, name: str) -> Unit:
    """Follow the units of a layer to the layers that read them; a KlrpError says where that fails."""
    start = next((step for step in network.steps if step.name == name), None)
    if start is None:
        raise KlrpError.value(f"layer: {name} is not called exactly once; prune another.")
    grouped = isinstance(start.operation, Conv) and start.operation.groups > 1
    if grouped or (isinstance(start.operation, Linear) and len(start.shape) != 2):
        raise KlrpError.value(
            f"layer: {name} has groups, or works along one axis of several; prune convolutions without "
            "groups, and linear layers on [N, features]."
        )
    size, norms = start.shape[1], list(start.aliases)
    active, readers, waiting = name, [], [name]
    while waiting:
        source = waiting.pop()
        shape = network.value(source).shape
        if source == network.output:
            raise KlrpError.value(f"layer: {name} makes the network's outputs; prune another.")
        for step in (s for s in network.steps if source in s.sources):
            operation, by_unit = step.operation, shape[1] == size
            norm = isinstance(operation, Affine) and issubclass(step.like, _BatchNorm) and by_unit
            norm = norm or issubclass(step.kind, nn.PReLU)  # it may have a slope for each unit
            dense = isinstance(operation, Linear) and len(shape) == 2 and shape[1] % size == 0
            if dense or (isinstance(operation, Conv) and operation.groups == 1 and by_unit):
                readers.append((step, source))
            elif norm or isinstance(operation, Pass) or (isinstance(operation, Pool | Winner) and by_unit):
                norms += [step.name] if norm else []
                waiting.append(step.name)
                if source == active and step.shape == shape:
                    active = step.name
            else:
                raise KlrpError.value(
                    f"layer: the units of {name} are read by {step.name} ({step.kind.__name__}), where they "
                    "cannot be told from others; prune another. klrp.pruning.units lists those that can be."
                )
    return Unit(name, size, active, tuple(norms), tuple(readers))


def weights_of(model: nn.Module, layers: Sequence[str]) -> dict[str, Tensor]:
    """The weights of these layers; a KlrpError unless each is a module that may be pruned."""
    modules = {k: m for k, m in model.named_modules() if isinstance(m, PRUNABLE)}
    if isinstance(layers, str) or not layers or not all(name in modules for name in layers):
        raise KlrpError.value(
            f"layers: got {layers!r}; expected a list of linear layers or convolutions, of {', '.join(modules)}."
        )
    for name in layers:
        if "weight" not in modules[name]._parameters:
            raise KlrpError.value(
                f"layers: the weight of {name} is computed from others. Make it permanent first, with "
                "torch.nn.utils.prune.remove or parametrize.remove_parametrizations."
            )
    return {name: modules[name].weight.detach().cpu() for name in layers}
