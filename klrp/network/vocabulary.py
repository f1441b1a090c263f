"""What each function of torch means: a table from its name to an operation.

A builder takes the arguments of the function it stands for, with a Traced in the place of every value that depends
on the network's input, and gives the operation and the Traced values it reads. A function, a method, an operator and
its in-place form have one name: ``torch.add``, ``x.add``, ``x + y`` and ``x += y`` are all "add".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from klrp.errors import KlrpError, SampleAxisError
from klrp.network.layers import (
    AdaptiveWindows,
    Affine,
    Conv,
    Layer,
    Linear,
    Pool,
    Reduce,
    Shape,
    Windows,
    window_sizes,
)  # fmt: skip
from klrp.network.moves import Concat, Embedding, Move, Pass, Winner

Operation = Layer | Move


class ADD:
    """Selects every residual add (and subtraction) in a klrp.Composite."""


class Traced(NamedTuple):
    """A value that depends on the input: the ``item``-th output of a call, and what is known of it without it."""

    call: int
    item: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @property
    def key(self) -> tuple[int, int]:
        """What names the value."""
        return self.call, self.item


Built = tuple[Operation, Sequence[Traced]]


class Entry(NamedTuple):
    """What a function means: the module type it counts as, and its builder (REARRANGE: see klrp.network.steps)."""

    kind: type
    build: Callable[..., Built]
    registered: bool = False


def rearrange(*args: Any, **kwargs: Any) -> Built:
    """Marks what only moves neurons: it is replayed on their indices."""
    raise NotImplementedError


# --- layers -------------------------------------------------------------------------------------------------


def _linear(x: Traced, weight: Tensor, bias: Tensor | None = None) -> Built:
    _check_batched(x, x.dtype.is_floating_point and len(x.shape) >= 2)
    return Linear((weight,), bias, (tuple(x.shape),), (*x.shape[:-1], weight.shape[0])), [x]


def _conv(spatial: int) -> Callable[..., Built]:
    def build(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        _check_batched(x, len(x.shape) == spatial + 2)
        kernel, dilation = tuple(weight.shape[2:]), _tuple(dilation, spatial)
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            pads = tuple((t // 2, t - t // 2) for t in total)
        else:
            pads = tuple((p, p) for p in _tuple(0 if padding == "valid" else padding, spatial))
        windows, inputs = Windows(kernel, _tuple(stride, spatial), pads, dilation), tuple(x.shape)
        output = (inputs[0], len(weight), *windows.outputs(inputs[2:]))
        bias = None if bias is None else bias.reshape(-1, *(1,) * spatial)
        return Conv((weight,), bias, (inputs,), output, windows, groups), [x]

    return build


def _avg_pool(spatial: int) -> Callable[..., Built]:
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]

    def build(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
        _check_batched(x, len(x.shape) == spatial + 2)
        windows, inputs = _pool_windows(spatial, kernel_size, stride, padding, 1), tuple(x.shape)
        extra = () if divisor_override is None else (divisor_override,)
        ones = torch.ones(1, 1, *inputs[-spatial:], dtype=x.dtype, device=x.device)
        share = pool(
            ones, windows.kernel, windows.stride, _tuple(padding, spatial), ceil_mode, count_include_pad, *extra
        )
        share = share[0, 0]  # real neurons in the window / its divisor
        weight = share / window_sizes(windows, inputs[-spatial:], tuple(share.shape)).to(share)
        return Pool((weight,), None, (inputs,), (*inputs[:-spatial], *share.shape), windows), [x]

    return build


def _adaptive_avg_pool(spatial: int) -> Callable[..., Built]:
    def build(x, output_size):
        _check_batched(x, len(x.shape) == spatial + 2)
        inputs, outputs, windows = _adaptive(x, output_size, spatial)
        weight = 1 / window_sizes(windows, inputs[-spatial:], outputs).to(x.device, x.dtype)
        return Pool((weight,), None, (inputs,), (*inputs[:-spatial], *outputs), windows), [x]

    return build


def _batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if running_mean is None or training:
        raise KlrpError.value(
            "a BatchNorm without running statistics makes a sample depend on its batch. Use track_running_stats=True."
        )
    scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
    shift = -running_mean * scale + (0 if bias is None else bias)
    weight, bias = (v.reshape(1, -1, *(1,) * (len(x.shape) - 2)) for v in (scale, shift))
    return Affine((weight,), bias, (tuple(x.shape),), tuple(x.shape)), [x]


def _add(a, b, *, alpha=1) -> Built:
    return _sum([(a, 1), (b, alpha)])


def _sub(a, b, *, alpha=1) -> Built:
    return _sum([(a, 1), (b, -alpha)])


def _rsub(a, b, *, alpha=1) -> Built:
    return _sum([(a, -alpha), (b, 1)])


def _neg(a) -> Built:
    return _mul(a, -1)


def _mul(a, b) -> Built:
    if isinstance(a, Traced) and isinstance(b, Traced):
        raise KlrpError.value("it multiplies two values that depend on the input, and no rule shares that")
    return _sum([(a, b) if isinstance(a, Traced) else (b, a)])


def _div(a, b, *, rounding_mode=None) -> Built:
    if isinstance(b, Traced) or rounding_mode is not None:
        raise KlrpError.value("it divides by a value that depends on the input, and no rule shares that")
    return _sum([(a, 1 / b)])


def _rdiv(a, b) -> Built:
    return _div(b, a)


def _sum(terms: list[tuple[Any, Any]]) -> Built:
    """Σ factor · term: the traced terms are the inputs, the constant ones the bias."""
    live = [(x, factor) for x, factor in terms if isinstance(x, Traced)]
    first = live[0][0]
    if not first.dtype.is_floating_point and len(live) == 1:
        return Pass(tuple(first.shape)), [first]  # integers are tokens: another number for the same token
    shapes = [_shape(x) for x, _ in terms]
    shape = torch.broadcast_shapes(*shapes, *(_shape(factor) for _, factor in terms))
    if any(len(x.shape) != len(shape) for x, _ in live):
        raise KlrpError.value("it broadcasts a value along a new leading axis, which is the samples'")

    def aligned(value: Any) -> Tensor:
        value = torch.as_tensor(value, dtype=first.dtype, device=first.device)
        return value.reshape(*(1,) * (len(shape) - value.ndim), *value.shape)

    weights = tuple(aligned(factor) for _, factor in live)
    constants = [aligned(x) * factor for x, factor in terms if not isinstance(x, Traced)]
    inputs = tuple(tuple(x.shape) for x, _ in live)
    return Affine(weights, sum(constants) if constants else None, inputs, tuple(shape)), [x for x, _ in live]


def _reduce(average: bool) -> Callable[..., Built]:
    """The mean or the sum over axes other than the samples'."""

    def build(x, dim=None, keepdim=False, *, dtype=None):
        shape = tuple(x.shape)
        dims = () if dim is None else tuple(d % len(shape) for d in ([dim] if isinstance(dim, int) else dim))
        if not dims or 0 in dims:
            raise KlrpError.value("it joins the samples; name the other axes")
        kept = tuple(1 if axis in dims else n for axis, n in enumerate(shape))
        output = kept if keepdim else tuple(n for axis, n in enumerate(shape) if axis not in dims)
        weight = 1 / math.prod(shape[d] for d in dims) if average else 1.0
        weight = torch.tensor(weight, dtype=x.dtype, device=x.device)
        return Reduce((weight,), None, (shape,), output, kept), [x]

    return build


# --- moves --------------------------------------------------------------------------------------------------


def _max_pool(spatial: int) -> Callable[..., Built]:
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spatial - 1]

    def build(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        _check_batched(x, len(x.shape) == spatial + 2)
        w = _pool_windows(spatial, kernel_size, stride, padding, dilation)
        settings = dict(padding=_tuple(padding, spatial), dilation=w.dilation, ceil_mode=ceil_mode)
        winners = partial(pool, kernel_size=w.kernel, stride=w.stride, return_indices=True, **settings)
        output = winners(torch.empty(x.shape, device="meta"))[0].shape
        return Winner(winners, w, tuple(x.shape), tuple(output)), [x]

    return build


def _adaptive_max_pool(spatial: int) -> Callable[..., Built]:
    pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[spatial - 1]

    def build(x, output_size, return_indices=False):
        _check_batched(x, len(x.shape) == spatial + 2)
        inputs, outputs, windows = _adaptive(x, output_size, spatial)
        winners = partial(pool, output_size=outputs, return_indices=True)
        return Winner(winners, windows, inputs, (*inputs[:-spatial], *outputs)), [x]

    return build


def _cat(tensors, dim=0) -> Built:
    shapes = tuple(_shape(t) for t in tensors)
    dim %= len(shapes[0])
    if dim == 0:
        raise KlrpError.value("it concatenates along the axis of the samples")
    live = tuple(isinstance(t, Traced) for t in tensors)
    return Concat(dim, shapes, live), [t for t in tensors if isinstance(t, Traced)]


def _embedding(x, weight, *args, **kwargs) -> Built:
    return Embedding((*x.shape, weight.shape[1]), len(x.shape)), [x]


def _one_hot(x, num_classes=-1) -> Built:
    if num_classes < 0:
        raise KlrpError.value("it takes the number of classes from the values; name it: one_hot(x, num_classes)")
    return Embedding((*x.shape, num_classes), len(x.shape)), [x]


def activation(x, *args, **kwargs) -> Built:
    return Pass(tuple(x.shape)), [x]


def squash(x, *args, **kwargs) -> Built:
    """Softmax and its like: at the end of a network what they read is explained, elsewhere they are refused."""
    return Pass(tuple(x.shape)), [x]


# --- shapes -------------------------------------------------------------------------------------------------


def _check_batched(x: Traced, batched: bool) -> None:
    if not batched:
        raise SampleAxisError(
            f"inputs: a layer got {tuple(x.shape)}; expected [N, ...]. Add the axis of samples: inputs[None]"
        )


def _tuple(value: Any, n: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * n
    return tuple(value) * n if len(value) == 1 else tuple(value)


def _shape(x: Any) -> Shape:
    return tuple(x.shape) if isinstance(x, Tensor | Traced) else ()


def _pool_windows(spatial: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Windows:
    kernel = _tuple(kernel, spatial)
    stride = kernel if stride is None or stride == [] else _tuple(stride, spatial)
    return Windows(kernel, stride, tuple((p, p) for p in _tuple(padding, spatial)), _tuple(dilation, spatial))


def _adaptive(x: Traced, output_size: Any, spatial: int) -> tuple[Shape, Shape, Windows | AdaptiveWindows]:
    """Equal windows side by side where they divide the input: fewer, larger taps."""
    inputs = tuple(x.shape)
    size = (output_size,) * spatial if isinstance(output_size, int | None) else output_size
    outputs = tuple(n if o is None else o for o, n in zip(size, inputs[-spatial:], strict=True))
    pairs = list(zip(inputs[-spatial:], outputs, strict=True))
    if any(n % o for n, o in pairs) or math.prod(outputs) <= 1:
        return inputs, outputs, AdaptiveWindows()
    kernel = tuple(n // o for n, o in pairs)
    return inputs, outputs, Windows(kernel, kernel, ((0, 0),) * spatial, (1,) * spatial)


# --- the table ----------------------------------------------------------------------------------------------

_ACTIVATIONS = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU, "rrelu": nn.RReLU,
    "elu": nn.ELU, "celu": nn.CELU, "selu": nn.SELU, "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish,
    "hardswish": nn.Hardswish, "hardtanh": nn.Hardtanh, "tanh": nn.Tanh, "tanhshrink": nn.Tanhshrink,
    "softplus": nn.Softplus, "softsign": nn.Softsign, "threshold": nn.Threshold, "softshrink": nn.Softshrink,
    "hardshrink": nn.Hardshrink, "clamp": nn.Hardtanh, "clip": nn.Hardtanh, "clamp_min": nn.Hardtanh,
    "clamp_max": nn.Hardtanh, "dropout": nn.Dropout, "dropout1d": nn.Dropout1d, "dropout2d": nn.Dropout2d,
    "dropout3d": nn.Dropout3d, "alpha_dropout": nn.AlphaDropout, "feature_dropout": nn.Dropout2d,
    "feature_alpha_dropout": nn.FeatureAlphaDropout,
}  # fmt: skip
_COPIES = "clone contiguous to type type_as float double half bfloat16 long int cpu cuda positive"
_SQUASHING = {
    "softmax": nn.Softmax, "log_softmax": nn.LogSoftmax, "sigmoid": nn.Sigmoid, "logsigmoid": nn.LogSigmoid, "log_sigmoid": nn.LogSigmoid, "softmin": nn.Softmin,
    "hardsigmoid": nn.Hardsigmoid,
}  # fmt: skip
_REARRANGING = """flatten reshape view squeeze unsqueeze unflatten ravel view_as reshape_as permute transpose t T mT
    swapaxes swapdims movedim moveaxis expand expand_as broadcast_to repeat tile repeat_interleave chunk split
    split_with_sizes tensor_split unbind select narrow getitem index_select gather take_along_dim flip fliplr flipud
    roll rot90 pad pixel_shuffle pixel_unshuffle channel_shuffle unfold stack hstack vstack dstack column_stack
    masked_fill where tril triu diagonal"""
# Whose second argument lends its shape or type alone.
LENDS_SHAPE = {"expand_as", "view_as", "reshape_as", "type_as"}
# In the same order of neurons as their input: relevance is handed on as it is.
KEEPS_ORDER = set("flatten reshape view squeeze unsqueeze unflatten ravel view_as reshape_as".split())
# What only takes a shape from the input, or cuts it off.
CONSTANTS = {f"{n}_like" for n in ("zeros", "ones", "full", "empty", "rand", "randn")}
CONSTANTS |= {f"new_{n}" for n in ("zeros", "ones", "full", "empty", "tensor")} | {"detach", "data"}
# That may draw at random in evaluation mode too, so that they must not be computed twice.
RANDOM = {"rrelu"}


def _table() -> dict[str, Entry]:
    table = {name: Entry(kind, activation) for name, kind in _ACTIVATIONS.items()}
    table |= {name: Entry(nn.Identity, activation) for name in _COPIES.split()}
    table |= {name: Entry(kind, squash) for name, kind in _SQUASHING.items()}
    table |= {name: Entry(nn.Flatten, rearrange) for name in _REARRANGING.split()}
    for n in (1, 2, 3):
        kinds = {name: getattr(nn, f"{name}{n}d") for name in ("Conv", "AvgPool", "AdaptiveAvgPool")}
        table[f"conv{n}d"] = Entry(kinds["Conv"], _conv(n))
        table[f"avg_pool{n}d"] = Entry(kinds["AvgPool"], _avg_pool(n))
        table[f"adaptive_avg_pool{n}d"] = Entry(kinds["AdaptiveAvgPool"], _adaptive_avg_pool(n))
        for suffix in ("", "_with_indices"):
            table[f"max_pool{n}d{suffix}"] = Entry(getattr(nn, f"MaxPool{n}d"), _max_pool(n))
            kind = getattr(nn, f"AdaptiveMaxPool{n}d")
            table[f"adaptive_max_pool{n}d{suffix}"] = Entry(kind, _adaptive_max_pool(n))
    table |= {name: Entry(ADD, _add) for name in ("add",)}
    table |= {name: Entry(ADD, _sub) for name in ("sub", "subtract")} | {"rsub": Entry(ADD, _rsub)}
    table |= {name: Entry(Affine, _mul) for name in ("mul", "multiply")}
    table |= {name: Entry(Affine, _div) for name in ("div", "divide", "true_divide")} | {"rdiv": Entry(Affine, _rdiv)}
    table |= {name: Entry(Affine, _neg) for name in ("neg", "negative")}
    table |= {name: Entry(Concat, _cat) for name in ("cat", "concat", "concatenate")}
    return table | {
        "linear": Entry(nn.Linear, _linear), "batch_norm": Entry(nn.BatchNorm2d, _batch_norm),
        "mean": Entry(Reduce, _reduce(average=True)), "sum": Entry(Reduce, _reduce(average=False)),
        "embedding": Entry(nn.Embedding, _embedding), "one_hot": Entry(nn.Embedding, _one_hot),
    }  # fmt: skip


FUNCTIONS = _table()
MODULES: dict[type, Entry] = {}  # what was registered: such a module is one step


# --- what is taken apart into functions of the table ---------------------------------------------------------


def _embedding_bag(input, weight, offsets=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, mode="mean",
                   sparse=False, per_sample_weights=None, include_last_offset=False, padding_idx=None):  # fmt: skip
    if input.ndim != 2 or mode == "max" or padding_idx is not None or per_sample_weights is not None:
        raise KlrpError.value(
            "an embedding bag is explained for bags [N, T] in the mode mean or sum, without padding_idx"
        )
    vectors = F.embedding(input, weight, None, max_norm, norm_type)
    return vectors.mean(1) if mode == "mean" else vectors.sum(1)


TAKEN_APART: dict[str, Callable] = {"embedding_bag": _embedding_bag}


# --- names and registration ---------------------------------------------------------------------------------

_SPELLINGS = {"rdiv": "rdiv", "rtruediv": "rdiv", "truediv": "div", "radd": "add", "rmul": "mul"}


def name_of(function: Any) -> str:
    """The name of a torch function: of its pure form, without the underscores of operators and in-place methods."""
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__"):  # a tensor's attribute
        return getattr(function.__self__, "__name__", name)
    name = name.split(".")[0]  # an overload of torch.ops
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        return _SPELLINGS.get(name, name)
    return name[:-1] if name.endswith("_") and name[:-1].strip("_") else name


# The attributes of a module that its function takes, where register() says that another is like it.
_ATTRIBUTES = {
    nn.Linear: "weight bias", nn.Embedding: "weight",
    nn.Conv1d: "weight bias stride padding dilation groups", nn.Conv2d: "weight bias stride padding dilation groups",
    nn.Conv3d: "weight bias stride padding dilation groups",
}  # fmt: skip


def register(target: type[nn.Module] | Callable | str, like: type[nn.Module] | Callable | str) -> None:
    """Treat a module type, a function or a tensor method as another that klrp knows.

    When a network is explained, what was registered is compared with what it computes: an activation has
    to act on each neuron by itself, a layer to be the linear map of its ``weight`` and ``bias``.

    Args:
        target: what to register: a module type (which then is one step), a function of torch, or a method's name.
            A function of your own need not be registered: what it calls is seen.
        like: what it behaves like, of the same kind; ``torch.nn.Identity`` for an activation that hands
            relevance on unchanged, ``torch.nn.Linear`` for a module with ``weight`` and ``bias``.

    Example:
        >>> klrp.register(MyActivation, like=torch.nn.ReLU)
    """
    module = isinstance(target, type)
    known = _like_module(like) if isinstance(like, type) else find_function(like)
    if known is None or module != isinstance(like, type):
        raise KlrpError.value(
            f"like: got {like!r}; expected an operation of the same kind as {target!r} that klrp knows, such as "
            f"torch.nn.ReLU for a module or torch.relu for a function."
        )
    table, key = (MODULES, target) if module else (FUNCTIONS, target if isinstance(target, str) else name_of(target))
    if key in table and not table[key].registered or module and _like_module(target) and key not in table:
        raise KlrpError.value(f"target: klrp knows {target!r} already; give your own first, then like=.")
    table[key] = known._replace(registered=True)


def _like_module(like: type) -> Entry | None:
    """The entry of the functions that count as a module type; a layer's builder reads the module's attributes."""
    if like in MODULES:
        return MODULES[like]
    found = next((entry for entry in FUNCTIONS.values() if entry.kind is like and not entry.registered), None)
    if found is None or not issubclass(like, nn.Module) or found.build in (activation, rearrange):
        return found
    names = _ATTRIBUTES.get(like)
    if names is None:
        return None

    def build(x: Traced, *, module: nn.Module) -> Built:
        return found.build(x, *(getattr(module, name) for name in names.split()))

    return Entry(like, build)


def find_function(function: Any) -> Entry | None:
    """What a function, or a tensor's method by name, means."""
    return FUNCTIONS.get(function if isinstance(function, str) else name_of(function))
