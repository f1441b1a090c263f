"""What each function of torch means: a table from its name to its builder.

A function, a method, an operator and its in-place form have one name: ``torch.add``, ``x.add``, ``x + y`` and
``x += y`` are all "add".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from klrp.errors import KlrpError
from klrp.network import builders, products
from klrp.network.builders import Built, Traced
from klrp.network.layers import Affine, Reduce
from klrp.network.linearised import Product
from klrp.network.moves import Concat, Extreme, Held, Pass


class ADD:
    """Selects every residual add (and subtraction) in a klrp.Composite."""


class Entry(NamedTuple):
    """What a function means: the module type it counts as, and its builder (``rearrange``: see klrp.network.rearranging)."""

    kind: type
    build: Callable[..., Built]
    registered: bool = False


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
_COPIES = "clone contiguous to type type_as float double half bfloat16 long int cpu cuda positive named"
_ELEMENTWISE = "abs pow square sqrt rsqrt exp exp2 expm1 log log2 log10 log1p reciprocal"
# At the end of a network what they read is explained.
SQUASHING = {
    "softmax": nn.Softmax, "log_softmax": nn.LogSoftmax, "sigmoid": nn.Sigmoid, "logsigmoid": nn.LogSigmoid,
    "log_sigmoid": nn.LogSigmoid, "softmin": nn.Softmin, "hardsigmoid": nn.Hardsigmoid,
}  # fmt: skip
# How much what comes out of a function is a gate, which scales another factor of a product and is held constant: of two
# factors the one with the higher rank.
ATTENTION, GATE, SCALE = 3, 2, 1
GATES = dict.fromkeys(("softmax", "softmin"), ATTENTION)
GATES |= dict.fromkeys(("sigmoid", "hardsigmoid", "exp"), GATE)
GATES |= dict.fromkeys(
    "relu6 rsqrt reciprocal rdiv std var norm vector_norm linalg_norm linalg_vector_norm".split(), SCALE
)
# Made of gates alone, it is one.
KEEPS_GATES = {nn.Identity, nn.Dropout, nn.Hardtanh, nn.Flatten, Affine, Reduce, Concat, ADD}
_REARRANGING = """flatten reshape view squeeze unsqueeze unflatten ravel view_as reshape_as permute transpose t T mT
    swapaxes swapdims movedim moveaxis expand expand_as broadcast_to repeat tile repeat_interleave chunk split
    split_with_sizes tensor_split hsplit vsplit dsplit unbind select narrow getitem index_select gather take_along_dim flip fliplr flipud
    roll rot90 pad pixel_shuffle pixel_unshuffle channel_shuffle unfold stack hstack vstack dstack column_stack
    masked_fill where tril triu diagonal setitem"""
# Whose second argument lends its shape or type alone.
LENDS_SHAPE = {"expand_as", "view_as", "reshape_as", "type_as", "to"}
# That change the order of axes.
PERMUTING = set("permute transpose t T mT swapaxes swapdims movedim moveaxis".split())
# In the same order of neurons as their input: relevance is handed on as it is.
KEEPS_ORDER = set("flatten reshape view squeeze unsqueeze unflatten ravel view_as reshape_as".split())
# What only takes a shape from the input, or cuts it off.
CONSTANTS = {f"{n}_like" for n in ("zeros", "ones", "full", "empty", "rand", "randn")}
CONSTANTS |= {f"new_{n}" for n in ("zeros", "ones", "full", "empty", "tensor")} | {"detach", "data"}
# Of whole numbers, they are masks of tokens, and constants.
COMPARISONS = set("eq ne lt le gt ge".split())
# That may draw at random in evaluation mode too, so that they must not be computed twice.
RANDOM = {"rrelu"}
# Python values made from a tensor's numbers: a branch on them cannot be one graph for all inputs.
VALUES = set("__bool__ __float__ __int__ __complex__ __index__ __array__ __contains__ __dlpack__ item tolist numpy equal "
              "allclose is_nonzero".split())  # fmt: skip
# What asks for the shape or the kind of a tensor alone.
SHAPES = set("shape size dim ndim ndimension numel nelement len dtype device layout stride is_floating_point is_contiguous "
              "is_complex is_cuda requires_grad is_leaf grad_fn names itemsize element_size get_device".split())  # fmt: skip


def _moving() -> dict[str, Entry]:
    """What acts on each neuron by itself, or only moves neurons."""
    table = {name: Entry(kind, builders.activation) for name, kind in (_ACTIVATIONS | SQUASHING).items()}
    table |= {name: Entry(nn.Identity, builders.activation) for name in _COPIES.split()}
    table |= {name: Entry(Pass, builders.activation) for name in _ELEMENTWISE.split()}
    table |= {name: Entry(nn.Flatten, builders.rearrange) for name in _REARRANGING.split()}
    table |= {name: Entry(Concat, builders.cat) for name in ("cat", "concat", "concatenate")}
    table |= {name: Entry(Extreme, builders.extreme(1)) for name in ("amax", "max")}
    return table | {name: Entry(Extreme, builders.extreme(-1)) for name in ("amin", "min")}


def _windowed() -> dict[str, Entry]:
    """Convolutions and pools."""
    table = {}
    for n in (1, 2, 3):
        table[f"max_unpool{n}d"] = Entry(getattr(nn, f"MaxUnpool{n}d"), builders.max_unpool(n))
        names = ("Conv", "ConvTranspose", "AvgPool", "AdaptiveAvgPool", "MaxPool", "AdaptiveMaxPool")
        conv, transposed, average, adaptive, largest, adaptive_max = (getattr(nn, f"{name}{n}d") for name in names)
        table |= {
            f"conv{n}d": Entry(conv, builders.conv(n)),
            f"conv_transpose{n}d": Entry(transposed, builders.conv_transpose(n)),
            f"avg_pool{n}d": Entry(average, builders.avg_pool(n)),
            f"adaptive_avg_pool{n}d": Entry(adaptive, builders.adaptive_avg_pool(n)),
        }
        for suffix in ("", "_with_indices"):
            table[f"max_pool{n}d{suffix}"] = Entry(largest, builders.max_pool(n))
            table[f"adaptive_max_pool{n}d{suffix}"] = Entry(adaptive_max, builders.adaptive_max_pool(n))
    return table


def _linear() -> dict[str, Entry]:
    """Sums, products with constants, and layers with a matrix."""
    table = {name: Entry(ADD, builders.sub) for name in ("sub", "subtract")}
    table |= {name: Entry(Affine, products.mul) for name in ("mul", "multiply")}
    table |= {name: Entry(Affine, products.div) for name in ("div", "divide", "true_divide")}
    table |= {name: Entry(Affine, builders.neg) for name in ("neg", "negative")}
    return table | {
        "add": Entry(ADD, builders.add), "rsub": Entry(ADD, builders.rsub), "rdiv": Entry(Affine, products.rdiv),
        "linear": Entry(nn.Linear, builders.linear), "batch_norm": Entry(nn.BatchNorm2d, builders.batch_norm),
        "mean": Entry(Reduce, builders.reduce(average=True)), "sum": Entry(Reduce, builders.reduce(average=False)),
        "embedding": Entry(nn.Embedding, builders.embedding), "one_hot": Entry(nn.Embedding, builders.one_hot),
    }  # fmt: skip


def _linear_for_given_values() -> dict[str, Entry]:
    """Products of two activations, normalisations, softmax, and statistics that are held."""
    table = {name: Entry(Product, products.matmul) for name in ("matmul", "bmm", "mm")}
    table |= {name: Entry(Held, products.statistic(0)) for name in ("std", "var")}
    norms = ("norm", "vector_norm", "linalg_norm", "linalg_vector_norm")
    table |= {name: Entry(Held, products.statistic(1)) for name in norms}
    return table | {
        "softmax": Entry(nn.Softmax, products.softmax()), "softmin": Entry(nn.Softmin, products.softmax(sign=-1)),
        "log_softmax": Entry(nn.LogSoftmax, products.softmax(logarithm=True)),
        "layer_norm": Entry(nn.LayerNorm, products.layer_norm), "rms_norm": Entry(nn.RMSNorm, products.rms_norm),
        "group_norm": Entry(nn.GroupNorm, products.group_norm),
        "instance_norm": Entry(nn.InstanceNorm2d, products.instance_norm),
    }  # fmt: skip


FUNCTIONS = _moving() | _windowed() | _linear() | _linear_for_given_values()
MODULES: dict[type, Entry] = {}  # what was registered: such a module is one step


# --- names and registration ---------------------------------------------------------------------------------

_SPELLINGS = {
    "rdiv": "rdiv",
    "rtruediv": "rdiv",
    "truediv": "div",
    "rpow": "rpow",
    "radd": "add",
    "rmul": "mul",
    "rmatmul": "matmul",
}


def name_of(function: Any) -> str:
    """The name of a torch function: of its pure form, without the underscores of operators and in-place methods."""
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__"):  # a tensor's attribute
        return getattr(function.__self__, "__name__", name)
    name = name.split(".")[0]  # an overload of torch.ops
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        return _SPELLINGS.get(name, name)
    return name.strip("_") or name


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
    if found is None or not issubclass(like, nn.Module) or found.build in (builders.activation, builders.rearrange):
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
