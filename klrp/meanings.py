"""What each module, function and method of torch means: a table from it to an operation.

A builder takes the arguments of the function it stands for, with a Live in the place of every value that
depends on the network's input, and gives the operation and the Lives it reads.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from klrp.errors import KlrpError
from klrp.network.layers import AdaptiveWindows, Affine, Conv, Layer, Linear, Pool, Reduce, Windows, window_sizes
from klrp.network.moves import Concat, Lookup, Pass, Rearrange, Winner

Operation = Layer | Winner | Pass | Concat | Rearrange | Lookup


class ADD:
    """Selects every residual add (and subtraction) in a klrp.Composite."""


class Live(NamedTuple):
    """A value that depends on the input, and the step that made it.

    ``taken`` is how a value that is no step was taken from the step's output (a chunk); ``pool`` marks
    the pair (values, indices) of a max-pool.
    """

    source: str
    value: Any
    taken: Callable[[Tensor], Any] | None = None
    pool: bool = False


# --- what each function means; arguments as torch's own, a Live where the input is involved ------------


def _linear(x: Live, weight: Tensor, bias: Tensor | None = None) -> tuple[Operation, list[Live]]:
    _check_batched(x, x.value.ndim >= 2)
    output = (*x.value.shape[:-1], weight.shape[0])
    return Linear((weight,), bias, (tuple(x.value.shape),), output), [x]


def _conv(spatial: int) -> Callable:
    def build(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        _check_batched(x, x.value.ndim == spatial + 2)
        kernel, dilation = weight.shape[2:], _tuple(dilation, spatial)
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            pads = tuple((t // 2, t - t // 2) for t in total)
        else:
            padding = 0 if padding == "valid" else padding
            pads = tuple((p, p) for p in _tuple(padding, spatial))
        windows = Windows(tuple(kernel), _tuple(stride, spatial), pads, dilation)
        inputs = tuple(x.value.shape)
        output = (inputs[0], len(weight), *windows.outputs(inputs[2:]))
        conv = Conv((weight,), _channels(bias, spatial), (inputs,), output, windows, groups)
        return conv, [x]

    return build


def _avg_pool(spatial: int) -> Callable:
    def build(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
        _check_batched(x, x.value.ndim == spatial + 2)
        windows = _pool_windows(spatial, kernel_size, stride, padding, 1)
        inputs = tuple(x.value.shape)
        ones = torch.ones(1, 1, *inputs[-spatial:], dtype=x.value.dtype, device=x.value.device)
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]
        arguments = (windows.kernel, windows.stride, _tuple(padding, spatial), ceil_mode, count_include_pad)
        extra = () if divisor_override is None else (divisor_override,)
        share = pool(ones, *arguments, *extra)[0, 0]  # real neurons in the window / its divisor
        weight = share / window_sizes(windows, inputs[-spatial:], tuple(share.shape)).to(share)
        return Pool((weight,), None, (inputs,), (*inputs[:-spatial], *share.shape), windows), [x]

    return build


def _adaptive_avg_pool(spatial: int) -> Callable:
    def build(x, output_size):
        _check_batched(x, x.value.ndim == spatial + 2)
        inputs = tuple(x.value.shape)
        outputs = _adaptive_size(output_size, inputs[-spatial:])
        windows = _adaptive_windows(inputs[-spatial:], outputs)
        weight = 1 / window_sizes(windows, inputs[-spatial:], outputs).to(x.value)
        return Pool((weight,), None, (inputs,), (*inputs[:-spatial], *outputs), windows), [x]

    return build


def _max_pool(spatial: int) -> Callable:
    def build(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        _check_batched(x, x.value.ndim == spatial + 2)
        windows = _pool_windows(spatial, kernel_size, stride, padding, dilation)
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spatial - 1]
        arguments = (windows.kernel, windows.stride, _tuple(padding, spatial), windows.dilation)
        value, indices = pool(x.value, *arguments, ceil_mode=ceil_mode, return_indices=True)
        return Winner(windows, indices, tuple(x.value.shape), tuple(value.shape)), [x]

    return build


def _adaptive_max_pool(spatial: int) -> Callable:
    def build(x, output_size, return_indices=False):
        _check_batched(x, x.value.ndim == spatial + 2)
        inputs = tuple(x.value.shape)
        outputs = _adaptive_size(output_size, inputs[-spatial:])
        pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[spatial - 1]
        value, indices = pool(x.value, outputs, return_indices=True)
        windows = _adaptive_windows(inputs[-spatial:], outputs)
        return Winner(windows, indices, inputs, tuple(value.shape)), [x]

    return build


def _batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if running_mean is None or training:
        raise KlrpError.value(
            "a BatchNorm without running statistics makes a sample depend on its batch. Use track_running_stats=True."
        )
    scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
    shift = -running_mean * scale + (0 if bias is None else bias)
    spatial = x.value.ndim - 2
    weight, bias = (_channels(v, spatial)[None] for v in (scale, shift))
    return Affine((weight,), bias, (tuple(x.value.shape),), tuple(x.value.shape)), [x]


def _add(a, b, *, alpha=1):
    return _sum([(a, 1), (b, alpha)])


def _sub(a, b, *, alpha=1):
    return _sum([(a, 1), (b, -alpha)])


def _neg(a):
    return _mul(a, -1)


def _mul(a, b):
    if isinstance(a, Live) and isinstance(b, Live):
        raise KlrpError.value("it multiplies two values that depend on the input, and no rule shares that")
    return _sum([(a, b) if isinstance(a, Live) else (b, a)])


def _div(a, b, *, rounding_mode=None):
    if isinstance(b, Live) or rounding_mode is not None:
        raise KlrpError.value("it divides by a value that depends on the input, and no rule shares that")
    return _sum([(a, 1 / b)])


def _sum(terms: list[tuple[Any, Any]]) -> tuple[Operation, list[Live]]:
    """Σ factor · term: the live terms are the inputs, the constant ones the bias."""
    live = [(x, factor) for x, factor in terms if isinstance(x, Live)]
    first = live[0][0].value
    shape = torch.broadcast_shapes(*(x.value.shape if isinstance(x, Live) else _shape(x) for x, _ in terms),
                                   *(_shape(factor) for _, factor in terms))  # fmt: skip
    if any(x.value.ndim != len(shape) for x, _ in live):
        raise KlrpError.value("it broadcasts a value along a new leading axis, which is the samples'")

    def aligned(value: Any) -> Tensor:
        value = torch.as_tensor(value, dtype=first.dtype, device=first.device)
        return value.reshape(*(1,) * (len(shape) - value.ndim), *value.shape)

    weights = tuple(aligned(factor) for _, factor in live)
    constants = [aligned(x) * factor for x, factor in terms if not isinstance(x, Live)]
    inputs = tuple(tuple(x.value.shape) for x, _ in live)
    return Affine(weights, sum(constants) if constants else None, inputs, tuple(shape)), [x for x, _ in live]


def _reduce(average: bool) -> Callable:
    """The mean or the sum over axes other than the samples'."""

    def build(x, dim=None, keepdim=False, *, dtype=None):
        shape = tuple(x.value.shape)
        dims = [] if dim is None else [d % len(shape) for d in ([dim] if isinstance(dim, int) else dim)]
        if dim is None or 0 in dims:
            raise KlrpError.value("it joins the samples; name the other axes")
        kept = tuple(1 if axis in dims else n for axis, n in enumerate(shape))
        output = kept if keepdim else tuple(n for axis, n in enumerate(shape) if axis not in dims)
        weight = 1 / math.prod(shape[d] for d in dims) if average else 1.0
        return Reduce((x.value.new_tensor(weight),), None, (shape,), output, kept), [x]

    return build


def _cat(tensors, dim=0):
    shapes = tuple(tuple((t.value if isinstance(t, Live) else t).shape) for t in tensors)
    dim %= len(shapes[0])
    if dim == 0:
        raise KlrpError.value("it concatenates along the axis of the samples")
    live = tuple(isinstance(t, Live) for t in tensors)
    return Concat(dim, shapes, live), [t for t in tensors if isinstance(t, Live)]


def _embedding(x, weight, *args, **kwargs):
    return Lookup(x.value.ndim), [x]


def _pass(x, *args, **kwargs):
    return Pass(tuple(x.value.shape)), [x]


def _refuse(why: str) -> Callable:
    def build(*args, **kwargs):
        raise KlrpError.value(why)

    return build


def _check_batched(x: Live, batched: bool) -> None:
    if not batched:
        raise KlrpError.value(
            f"inputs: a layer got {tuple(x.value.shape)}; expected [N, ...]. Add the axis of samples: inputs[None]"
        )


def _tuple(value: Any, n: int) -> tuple[int, ...]:
    return (value,) * n if isinstance(value, int) else tuple(value)


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if isinstance(x, Tensor) else ()


def _channels(x: Tensor | None, spatial: int) -> Tensor | None:
    return None if x is None else x.reshape(-1, *(1,) * spatial)


def _pool_windows(spatial: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Windows:
    kernel = _tuple(kernel, spatial)
    stride = kernel if stride is None or stride == [] else _tuple(stride, spatial)
    pads = tuple((p, p) for p in _tuple(padding, spatial))
    return Windows(kernel, stride, pads, _tuple(dilation, spatial))


def _adaptive_size(output_size: Any, inputs: tuple[int, ...]) -> tuple[int, ...]:
    size = (output_size,) * len(inputs) if isinstance(output_size, int | None) else output_size
    return tuple(n if o is None else o for o, n in zip(size, inputs, strict=True))


def _adaptive_windows(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Windows | AdaptiveWindows:
    """Equal windows side by side where they divide the input: fewer, larger taps."""
    if any(n % o for n, o in zip(inputs, outputs, strict=True)) or math.prod(outputs) <= 1:
        return AdaptiveWindows()
    kernel = tuple(n // o for n, o in zip(inputs, outputs, strict=True))
    return Windows(kernel, kernel, ((0, 0),) * len(kernel), (1,) * len(kernel))


# --- which operation is which ---------------------------------------------------------------------------

REARRANGE = object()  # replayed on the indices of the input's neurons
# What only takes a shape from the input.
CONSTANTS = {f"{n}_like" for n in ("zeros", "ones", "full", "empty", "rand", "randn")}
CONSTANTS |= {f"new_{n}" for n in ("zeros", "ones", "full", "empty", "tensor")}
_EXPLAIN_LOGITS = (
    "no rule takes relevance through it. At the end of a network leave it out and explain the logits, the values "
    "before it; a gate inside a network cannot be explained yet"
)


class Entry(NamedTuple):
    kind: type
    build: Any
    arguments: Callable[[nn.Module], tuple] = lambda m: ()
    registered: bool = False


# Module types with the name of their function: relevance passes through the first kind unchanged.
_ACTIVATIONS = {
    nn.Identity: "contiguous", nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu", nn.PReLU: "prelu",
    nn.RReLU: "rrelu", nn.ELU: "elu", nn.CELU: "celu", nn.SELU: "selu", nn.GELU: "gelu", nn.SiLU: "silu",
    nn.Mish: "mish", nn.Hardswish: "hardswish", nn.Hardtanh: "hardtanh", nn.Tanh: "tanh",
    nn.Tanhshrink: "tanhshrink", nn.Softplus: "softplus", nn.Softsign: "softsign", nn.Threshold: "threshold",
    nn.Dropout: "dropout", nn.Dropout1d: "dropout1d", nn.Dropout2d: "dropout2d", nn.Dropout3d: "dropout3d",
    nn.AlphaDropout: "alpha_dropout", nn.FeatureAlphaDropout: "feature_alpha_dropout",
}  # fmt: skip
# Those that may draw at random, even in evaluation mode where a function is told to.
RANDOM = {nn.RReLU, *(kind for kind in _ACTIVATIONS if "Dropout" in kind.__name__)}
_SQUASHING = {
    nn.Sigmoid: "sigmoid", nn.Hardsigmoid: "hardsigmoid", nn.LogSigmoid: "logsigmoid", nn.Softmax2d: "softmax",
    nn.Softmax: "softmax", nn.LogSoftmax: "log_softmax", nn.Softmin: "softmin",
}  # fmt: skip


def _modules() -> dict[type, Entry]:
    table = {
        nn.Linear: Entry(nn.Linear, _linear, lambda m: (m.weight, m.bias)),
        nn.Embedding: Entry(nn.Embedding, _embedding, lambda m: (m.weight,)),
        nn.Flatten: Entry(nn.Flatten, REARRANGE),
        nn.Unflatten: Entry(nn.Unflatten, REARRANGE),
        nn.ChannelShuffle: Entry(nn.ChannelShuffle, REARRANGE),
    }
    pads = ("ConstantPad", "ZeroPad", "ReflectionPad", "ReplicationPad")
    for name in (*(f"{pad}{n}d" for pad in pads for n in (1, 2, 3)), "PixelShuffle", "PixelUnshuffle"):
        if hasattr(nn, name):
            table[getattr(nn, name)] = Entry(getattr(nn, name), REARRANGE)
    for n in (1, 2, 3):
        conv, norm = getattr(nn, f"Conv{n}d"), getattr(nn, f"BatchNorm{n}d")
        avg, big = getattr(nn, f"AvgPool{n}d"), getattr(nn, f"MaxPool{n}d")
        adaptive, adaptive_max = (getattr(nn, f"AdaptiveAvgPool{n}d"), getattr(nn, f"AdaptiveMaxPool{n}d"))
        table[conv] = Entry(conv, _conv(n), _conv_arguments)
        table[norm] = Entry(norm, _batch_norm, _norm_arguments)
        table[avg] = Entry(avg, _avg_pool(n), _avg_arguments)
        table[big] = Entry(big, _max_pool(n), lambda m: (m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode))
        table[adaptive] = Entry(adaptive, _adaptive_avg_pool(n), lambda m: (m.output_size,))
        table[adaptive_max] = Entry(adaptive_max, _adaptive_max_pool(n), lambda m: (m.output_size,))
    table |= {kind: Entry(kind, _pass) for kind in _ACTIVATIONS}
    table |= {kind: Entry(kind, _refuse(_EXPLAIN_LOGITS)) for kind in _SQUASHING}
    return table


def _conv_arguments(m: nn.Module) -> tuple:
    if m.padding_mode != "zeros":
        raise KlrpError.value(
            f"padding_mode={m.padding_mode!r} has no rule; put a padding module before a convolution without padding"
        )
    return m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups


def _norm_arguments(m: nn.Module) -> tuple:
    return m.running_mean, m.running_var, m.weight, m.bias, False, 0.0, m.eps


def _avg_arguments(m: nn.Module) -> tuple:
    divisor = getattr(m, "divisor_override", None)
    return m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor


def _functions() -> dict[Any, Entry]:
    """Functions by object, methods by name."""
    table: dict[Any, Entry] = {}

    def enter(kind: type, build: Any, *names: Any) -> None:
        for name in names:
            homes = (torch, F, torch._C._nn) if isinstance(name, str) else ()
            table.update({getattr(h, name): Entry(kind, build) for h in homes if hasattr(h, name)})
            table[name] = Entry(kind, build)

    for module, name in _ACTIVATIONS.items():
        enter(module, _pass, name)
    for module, name in _SQUASHING.items():
        enter(module, _refuse(_EXPLAIN_LOGITS), name)
    enter(nn.Hardtanh, _pass, "clamp", "clamp_min", "clamp_max")
    enter(nn.Identity, _pass, "clone", "detach", "stochastic_depth", "to", "float", "double")
    enter(nn.Linear, _linear, "linear")
    enter(nn.Embedding, _embedding, "embedding")
    for n in (1, 2, 3):
        enter(getattr(nn, f"Conv{n}d"), _conv(n), f"conv{n}d")
        enter(getattr(nn, f"AvgPool{n}d"), _avg_pool(n), f"avg_pool{n}d")
        enter(getattr(nn, f"MaxPool{n}d"), _max_pool(n), f"max_pool{n}d", f"max_pool{n}d_with_indices")
        enter(getattr(nn, f"AdaptiveAvgPool{n}d"), _adaptive_avg_pool(n), f"adaptive_avg_pool{n}d")
        enter(getattr(nn, f"AdaptiveMaxPool{n}d"), _adaptive_max_pool(n), f"adaptive_max_pool{n}d")
    enter(nn.BatchNorm2d, _batch_norm, "batch_norm")
    enter(ADD, _add, "add", operator.add)
    enter(ADD, _sub, "sub", operator.sub)
    enter(Reduce, _reduce(average=True), "mean")
    enter(Reduce, _reduce(average=False), "sum")
    enter(Affine, _mul, "mul", operator.mul)
    enter(Affine, _div, "div", operator.truediv)
    enter(Affine, _neg, "neg", operator.neg)
    enter(Concat, _cat, "cat", "concat", "concatenate")
    enter(nn.Flatten, REARRANGE, "flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten", "permute",
          "transpose", "t", "movedim", "swapaxes", "expand", "expand_as", "repeat", "chunk", "split", "tensor_split",
          "unbind", "select", "narrow", "flip", "roll", "pad", "pixel_shuffle", "pixel_unshuffle",
          "channel_shuffle", operator.getitem)  # fmt: skip
    return table


MODULES = _modules()
FUNCTIONS = _functions()


def register(target: type[nn.Module] | Callable | str, like: type[nn.Module] | Callable | str) -> None:
    """Treat a module type, a function or a tensor method as another that klrp knows.

    When a network is explained, what was registered is compared with what it computes: an activation has
    to act on each neuron by itself, a layer to be the linear map of its ``weight`` and ``bias``.

    Args:
        target: what to register: a module type (which then is one step), a function, or a method's name.
        like: what it behaves like, of the same kind; ``torch.nn.Identity`` for an activation that hands
            relevance on unchanged, ``torch.nn.Linear`` for a module with ``weight`` and ``bias``.

    Example:
        >>> klrp.register(MyActivation, like=torch.nn.ReLU)
    """
    table = MODULES if isinstance(target, type) else FUNCTIONS
    known = find_module(like) if isinstance(like, type) else find_function(like)
    if known is None or isinstance(target, type) != isinstance(like, type):
        raise KlrpError.value(
            f"like: got {like!r}; expected an operation of the same kind as {target!r} that klrp knows, such as "
            f"torch.nn.ReLU for a module or torch.relu for a function."
        )
    if target in table and not table[target].registered:
        raise KlrpError.value(f"target: klrp knows {target!r} already; give your own first, then like=.")
    table[target] = known._replace(registered=True)


def find_module(kind: type) -> Entry | None:
    """What a module type means, by itself or by the type it derives from."""
    return next((MODULES[base] for base in kind.__mro__ if base in MODULES), None)


def find_function(target: Any) -> Entry | None:
    """What a function, or a tensor's method by name, means; torchvision's functions go by their names."""
    if str(getattr(target, "__module__", "")).startswith("torchvision"):
        target = getattr(target, "__name__", target)
    return FUNCTIONS.get(target)
