r"""Pruning: rank the neurons of a layer, and take the least important ones out of a copy of the network.

A *unit* is a neuron of a linear layer or a channel of a convolution. Scores rank the units of each layer;
`prune` gives the smaller network without the lowest, `mask` one of the old shape that computes the same,
`curves` what each choice costs. The rows of a weight are a layer's units, and columns of the next weight
read them; a BatchNorm between the two goes along, and so does a flatten behind a pool.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from klrp import models, plot, rules
from klrp.errors import KlrpError
from klrp.graph import Step, Trace, trace
from klrp.network.layers import Affine, Conv, Linear, Pool
from klrp.network.moves import Pass, Winner
from klrp.relevance import explain
from klrp.semirings import REAL, find_semiring
from klrp.tables import Table

PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)
Removed = Mapping[str, Sequence[int] | Tensor]


@dataclass(frozen=True, eq=False)
class Scores:
    """How important each unit is: ``scores["fc1"]`` is float64 [units], larger is more important.

    It prints as a table; a KlrpError names a layer that has no scores.
    """

    name: str
    values: Mapping[str, Tensor] = field(repr=False)

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self.values:
            known = ", ".join(self.values)
            raise KlrpError.key(f"layer: {layer!r} has no scores; expected one of {known}.")
        return self.values[layer]

    def ranks(self, layer: str) -> Tensor:
        """int64 [units]: 1 for the least important unit; of equal ones the first is the lower."""
        return self[layer].argsort(stable=True).argsort() + 1

    def lowest(self, amount: float) -> dict[str, Tensor]:
        """The indices of the least important units, a fraction ``amount`` in [0, 1) of each layer.

        Their number is rounded as torch.nn.utils.prune does; one unit always stays. A KlrpError says
        that ``amount`` is out of range.
        """
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < 1:
            raise KlrpError.value(f"amount: got {amount!r}; expected a fraction in [0, 1).")
        counts = {k: min(round(amount * len(v)), len(v) - 1) for k, v in self.values.items()}
        return {k: (self.ranks(k) <= n).nonzero()[:, 0] for k, n in counts.items()}

    def importance(self, layer: str, weight: Tensor) -> Tensor:
        """The ranks in the shape of the weight, as ``importance_scores`` of torch.nn.utils.prune.

        Ranks, since torch takes a norm of what it is given, and a score may be negative or infinite.
        A KlrpError says that the weight has another number of units.

        Example:
            >>> given = scores.importance("1", model[1].weight)
            >>> prune.ln_structured(model[1], "weight", 0.5, n=1, dim=0, importance_scores=given)
        """
        ranks = self.ranks(layer)
        if weight.shape[:1] != ranks.shape:
            raise KlrpError.value(
                f"weight: got shape {tuple(weight.shape)}; expected [{len(ranks)}, ...], the units of "
                f"{layer}. Give the weight of that layer."
            )
        return ranks.to(weight).reshape(-1, *(1,) * (weight.ndim - 1)).expand_as(weight)

    def plot(self) -> Any:
        """A figure of the sorted finite scores of each layer, relative to the layer's largest."""
        ys = {}
        for layer, v in self.values.items():
            v = v[v.isfinite()].sort(descending=True).values.cpu()
            at = torch.linspace(0, max(len(v) - 1, 0), 101).round().long()  # layers differ in size
            ys[layer] = (v / v.abs().max().clamp_min(1e-300))[at] if len(v) else torch.zeros(101)
        ends = dict(xlabel="units, the most important first, %", ylabel="score / largest score")
        return plot.curves(range(101), ys, title=self.name, **ends).figure

    def _table(self) -> Table:
        rows = ((k, len(v), *map(float, (v.min(), v.mean(), v.max()))) for k, v in self.values.items())
        return Table((self.name, "units", "lowest", "mean", "highest"), tuple(rows))

    def __str__(self) -> str:
        return str(self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


# --- scores -----------------------------------------------------------------------------------------------


def relevance_scores(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    layers: Sequence[str],
    *,
    signed: bool = False,
    batch: int = 100,
    progress: bool = True,
    **settings: Any,
) -> Scores:
    r"""The mean relevance of each unit, in any semiring and under any rule.

    .. math:: s_j = \frac{1}{N} \sum_n \sum_p \mathrm{score}(R_{jp}(x_n))

    over the images n and, for a channel j, its positions p. ``score`` is that of the semiring. Over the
    reals :math:`|\sum_p R_{jp}|` is averaged, unless ``signed`` (Groudiev and Maniu 2024; signed as in Yeom
    et al. 2021).

    Args:
        images, labels: [N, ...] and the explained classes [N]; labels None explains the top logits.
        layers: names of linear layers or convolutions; relevance is that of their outputs.
        batch: images at a time, which bounds the memory and changes nothing else.
        settings: those of klrp.explain, such as ``semiring="boolean"``.

    Raises:
        KlrpError: as klrp.explain, and for no images, or a layer that is no such module.

    Example:
        >>> relevance_scores(model, images, labels, ["1", "3"], semiring="viterbi").lowest(0.5)
    """
    semiring = find_semiring(settings.get("semiring", REAL))
    size = semiring.linear and not signed

    def measure(x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        relevance = explain(model, x, y, keep=layers, **settings)
        sums = {k: _over_positions(semiring.score(relevance[k])) for k in layers}
        return {k: v.abs() if size else v for k, v in sums.items()}

    return _mean(semiring.name, measure, model, layers, images, labels, batch, progress)


def taylor_scores(
    model: nn.Module, images: Tensor, labels: Tensor, layers: Sequence[str], *, batch: int = 100, progress: bool = True
) -> Scores:
    r"""First-order Taylor: by how much the loss would change, to first order, were the unit zero.

    .. math:: s_j = \frac{1}{N} \sum_n \Bigl| \sum_p a_{jp} \frac{∂L}{∂a_{jp}} \Bigr|

    with the cross entropy L of image n (Molchanov et al. 2017). On ReLU networks this is LRP-0 that starts
    with :math:`z_c \, ∂L/∂z_c` at the logits z, and so it is computed; other activation functions make it
    another score. Arguments and errors are those of relevance_scores.
    """
    network = models.eval_copy(model)

    def measure(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            z = network(x)
        start = z * (z.softmax(1) - functional.one_hot(y, z.shape[1]))
        relevance = explain(model, x, y, rule=rules.lrp0(), start=start, keep=layers)
        return {k: _over_positions(relevance[k]).abs() for k in layers}

    return _mean("taylor", measure, model, layers, images, labels, batch, progress)


def activation_scores(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, batch: int = 100, progress: bool = True
) -> Scores:
    r"""The mean activation :math:`\frac{1}{N} \sum_n \sum_p |a_{jp}|`, behind the activation function.

    Arguments and errors are those of relevance_scores.
    """

    def measure(x: Tensor, _: None) -> dict[str, Tensor]:
        network = trace(model, x)
        ends = {k: _layer(network, k).active for k in layers}
        return {k: _over_positions(network.value(end).abs()) for k, end in ends.items()}

    return _mean("activation", measure, model, layers, images, None, batch, progress)


def norm_scores(model: nn.Module, layers: Sequence[str], *, p: float = 2) -> Scores:
    """The l_p norm of each unit's row of weights, without its bias; a KlrpError unless p > 0."""
    if not p > 0:
        raise KlrpError.value(f"p: got {p!r}; expected a number > 0, such as 1 or 2.")
    rows = {k: w.flatten(1).double() for k, w in _weights(model, layers).items()}
    return Scores(f"l{p:g}", {k: w.norm(p, dim=1) for k, w in rows.items()})


def random_scores(model: nn.Module, layers: Sequence[str], *, seed: int = 0) -> Scores:
    """A random order of the units: scores drawn uniformly from [0, 1)."""
    g = torch.Generator().manual_seed(seed)
    sizes = {k: len(w) for k, w in _weights(model, layers).items()}
    return Scores("random", {k: torch.rand(n, generator=g).double() for k, n in sizes.items()})


# --- pruned copies ----------------------------------------------------------------------------------------


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
            _weights(model, [step.name])
            layer = _layer(network, step.name)
        except KlrpError:
            continue
        readers = ", ".join(reader.name for reader, _ in layer.readers)
        rows.append((step.name, step.kind.__name__, layer.size, readers))
    return Table(("layer", "kind", "units", "read by"), tuple(rows))


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
            for value in (part.bias, getattr(part, "running_mean", None)):
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
            if bias == "kept":
                kept = columns.reshape(-1, *(1,) * (value.ndim - 1))
                _take_up(value.masked_fill(kept, 0), module, layer.name, reader.name)
            _cut(module, "weight", columns, dim=1)
        module, *norms = (small.get_submodule(name) for name in (layer.name, *layer.norms))
        for name in ("weight", "bias"):
            _cut(module, name, keep)
        for part in norms:
            for name in ("weight", "bias", "running_mean", "running_var"):
                _cut(part, name, keep)
    return small


def _take_up(constant: Tensor, module: nn.Module, name: str, reader: str) -> None:
    """Add to the bias of ``module`` what it makes of a constant input."""
    sent = (module(constant[None]) - module(torch.zeros_like(constant)[None]))[0]
    sent = sent.reshape(len(sent), -1)
    if not torch.allclose(sent, sent[:, :1], rtol=1e-4, atol=1e-5):
        raise KlrpError.value(
            f'bias: got "kept", but {name} would go on sending constants to {reader}, which does not see them '
            'in its padding, so that no bias can stand for them. Use bias="pruned", or mask.'
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
    outer, inner = ("out_features", "out_channels", "num_features"), ("in_features", "in_channels")
    for size in (outer, inner)[dim]:
        if hasattr(module, size):
            setattr(module, size, kept.shape[dim])


def _to_remove(model: nn.Module, inputs: Tensor, removed: Removed, bias: str) -> dict[Unit, Tensor]:
    """The layers in the order of computation, each with the sorted indices of the units that go."""
    if bias not in ("pruned", "kept"):
        raise KlrpError.value(f'bias: got {bias!r}; expected "pruned" or "kept".')
    _weights(model, list(removed))
    network, modules = trace(model, inputs[:1]), dict(model.named_modules())
    order = {step.name: place for place, step in enumerate(network.steps)}
    found = {}
    for name in sorted(removed, key=lambda name: order.get(name, -1)):
        layer = _layer(network, name)
        for other in (*layer.norms, *(reader.name for reader, _ in layer.readers)):
            if not isinstance(modules.get(other), (*PRUNABLE, _BatchNorm)):
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


def _layer(network: Trace, name: str) -> Unit:
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


# --- what pruning costs -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Curves:
    """Accuracy and mean cross entropy over the pruned fraction: [runs, criteria, fractions].

    A run is a network, or one resampling of the test images. It prints as a table of accuracies.
    """

    labels: tuple[str, ...]
    fractions: tuple[float, ...]
    accuracy: Tensor = field(repr=False)
    loss: Tensor = field(repr=False)

    def curve(self, label: str, what: str = "accuracy") -> Tensor:
        """One curve: [runs, fractions]. A KlrpError names a label or a quantity that is none."""
        if label not in self.labels or what not in ("accuracy", "loss"):
            raise KlrpError.value(
                f"curve: got {label!r}, {what!r}; expected one of {', '.join(self.labels)}, and accuracy or loss."
            )
        return getattr(self, what)[:, self.labels.index(label)]

    def table(self, what: str = "accuracy", at: Sequence[float] | None = None) -> Table:
        """Reduce ± standard deviation over the runs, at some of the fractions; accuracies in per cent."""
        at = self.fractions if at is None else at
        if not set(at) <= set(self.fractions):
            raise KlrpError.value(f"at: got {list(at)}; expected some of {list(self.fractions)}.")
        scale, digits = (100, 1) if what == "accuracy" else (1, 2)
        rows = []
        for label in self.labels:
            runs = [scale * self.curve(label, what)[:, self.fractions.index(f)] for f in at]
            rows.append((label, *(_spread(v, digits) for v in runs)))
        return Table((what, *(f"{100 * f:.3g} %" for f in at)), tuple(rows))

    def plot(self, what: str = "accuracy", labels: Sequence[str] | None = None, ax: Any = None) -> Any:
        """A figure of the means, with bands of one standard deviation over the runs to each side."""
        runs = {label: self.curve(label, what) for label in labels or self.labels}
        means = {label: v.mean(0) for label, v in runs.items()}
        bands = {label: (means[label] - v.std(0), means[label] + v.std(0)) for label, v in runs.items() if len(v) > 1}
        xs = [100 * f for f in self.fractions]
        return plot.curves(xs, means, ax, bands=bands, xlabel="pruned, %", ylabel=what).figure

    def __str__(self) -> str:
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def curves(
    model: nn.Module,
    scores: Mapping[str, Scores],
    fractions: Sequence[float],
    images: Tensor,
    labels: Tensor,
    *,
    bias: str = "pruned",
    finetune: Callable[[nn.Module], nn.Module] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
    batch: int = 1000,
    progress: bool = True,
) -> Curves:
    """Accuracy and mean cross entropy of pruned copies, for each criterion and fraction.

    Args:
        scores: the criteria by label; each prunes the layers that it has scores of.
        fractions: of the units of each layer, in [0, 1).
        images, labels: [N, ...] and [N]; best not those of the scores.
        finetune: a function from a pruned copy to a trained one, with klrp.models.train for instance.
        bootstrap: 0 gives one run; B > 0 gives B runs, each on N images drawn with replacement, the
            same ones for all criteria. ``seed`` is that of the draws.

    Raises:
        KlrpError: no scores, fractions or images, and as ``Scores.lowest`` and ``prune``.

    Example:
        >>> curves(model, {"l2": norm_scores(model, ["1"])}, [0, 0.5], x, y).plot()
    """
    from tqdm import tqdm

    if not scores or not len(fractions) or not len(images) == len(labels) > 0:
        raise KlrpError.value(
            f"curves: got {len(scores)} scores, {len(fractions)} fractions, {len(images)} images and "
            f"{len(labels)} labels; expected some of each, and a label for every image."
        )
    n, known = len(images), {}
    weights = torch.ones(1, n, dtype=torch.float64)
    if bootstrap:
        drawn = torch.randint(n, (bootstrap, n), generator=torch.Generator().manual_seed(seed))
        weights = torch.stack([torch.bincount(row, minlength=n) for row in drawn]).double()

    def result(removed: dict[str, Tensor]) -> Tensor:
        gone = tuple((layer, *rows.tolist()) for layer, rows in removed.items())
        key = gone if any(len(rows) > 1 for rows in gone) else None  # nothing pruned: all the same
        if key not in known:
            small = prune(model, images, removed, bias=bias)
            small = small if finetune is None else finetune(small)
            known[key] = _evaluate(small, images, labels, weights, batch)
        return known[key]

    jobs = [s.lowest(fraction) for s in scores.values() for fraction in fractions]
    bar = tqdm(jobs, desc="prune", leave=False, mininterval=0.5, disable=not progress)
    found = torch.stack([result(removed) for removed in bar])  # [jobs, 2, runs]
    accuracy, loss = found.unflatten(0, (len(scores), len(fractions))).permute(2, 3, 0, 1)
    return Curves(tuple(scores), tuple(map(float, fractions)), accuracy, loss)


def join(several: Sequence[Curves]) -> Curves:
    """The curves of several networks as the runs of one; a KlrpError unless labels and fractions agree."""
    if len({(c.labels, c.fractions) for c in several}) != 1:
        raise KlrpError.value("several: expected Curves, all with the same labels and fractions.")
    accuracy, loss = (torch.cat([getattr(c, what) for c in several]) for what in ("accuracy", "loss"))
    return Curves(several[0].labels, several[0].fractions, accuracy, loss)


@torch.no_grad()
def costs(networks: Mapping[str, nn.Module], inputs: Tensor, *, repeats: int = 7) -> Table:
    """The size and speed of networks: parameters, kB of weights and buffers, ms for ``inputs``.

    The time is the shortest of ``repeats`` forward passes in eval mode, the networks taking turns.
    """
    shadows = {name: models.eval_copy(network) for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in shadows}
    for name, network in list(shadows.items()) * max(repeats, 1):
        before = time.perf_counter()
        network(inputs)
        times[name].append(1000 * (time.perf_counter() - before))
    rows = []
    for name, network in shadows.items():
        parameters = sum(p.numel() for p in network.parameters())
        tensors = (*network.parameters(), *network.buffers())
        size = sum(t.numel() * t.element_size() for t in tensors) / 1000
        rows.append((name, parameters, size, min(times[name])))
    return Table(("network", "parameters", "kB", "ms"), tuple(rows))


@torch.no_grad()
def _evaluate(model: nn.Module, images: Tensor, labels: Tensor, weights: Tensor, batch: int) -> Tensor:
    """[2, runs]: accuracy and mean cross entropy, each image counted as often as ``weights`` says."""
    network, total = models.eval_copy(model), torch.zeros(2, len(weights), dtype=torch.float64)
    parts = (t.split(batch, t.ndim - 1 if t is weights else 0) for t in (images, labels, weights))
    for x, y, w in zip(*parts, strict=True):
        z = network(x)
        right, loss = z.argmax(1) == y, functional.cross_entropy(z, y, reduction="none")
        total += torch.stack([right.double(), loss.double()]).cpu() @ w.T
    return total / weights.sum(1)


def _mean(
    name: str,
    measure: Callable[[Tensor, Any], dict[str, Tensor]],
    model: nn.Module,
    layers: Sequence[str],
    images: Tensor,
    labels: Tensor | None,
    batch: int,
    progress: bool,
) -> Scores:
    """The mean over the images of what ``measure`` gives for a batch, {layer: [n, units]}."""
    from tqdm import tqdm

    _weights(model, layers)
    if not len(images) or batch < 1 or (labels is not None and len(labels) != len(images)):
        raise KlrpError.value(
            f"images: got {len(images)} of them, {'no' if labels is None else len(labels)} labels and "
            f"batch={batch}; expected one image or more, as many labels, and batch >= 1."
        )
    totals: dict[str, Any] = dict.fromkeys(layers, 0)
    starts = range(0, len(images), batch)
    for i in tqdm(starts, desc="score", leave=False, mininterval=0.5, disable=not progress):
        y = None if labels is None else labels[i : i + batch]
        for layer, found in measure(images[i : i + batch], y).items():
            totals[layer] = totals[layer] + found.sum(0).cpu()
    return Scores(name, {layer: total / len(images) for layer, total in totals.items()})


def _over_positions(x: Tensor) -> Tensor:
    """[N, units, ...] summed over the positions, as float64 [N, units]."""
    return x.double().reshape(*x.shape[:2], -1).sum(2)


def _spread(v: Tensor, digits: int) -> str:
    mean = f"{v.mean():.{digits}f}"
    return f"{mean} ± {v.std():.{digits}f}" if len(v) > 1 else mean


def _weights(model: nn.Module, layers: Sequence[str]) -> dict[str, Tensor]:
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
