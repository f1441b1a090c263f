"""Functions and modules of torch that are taken apart into functions of the vocabulary, as their documentation says."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from klrp.errors import KlrpError


def _embedding_bag(input, weight, offsets=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, mode="mean",
                   sparse=False, per_sample_weights=None, include_last_offset=False, padding_idx=None):  # fmt: skip
    if input.ndim != 2 or mode == "max" or padding_idx is not None or per_sample_weights is not None:
        raise KlrpError.value(
            "an embedding bag is explained for bags [N, T] in the mode mean or sum, without padding_idx"
        )
    vectors = F.embedding(input, weight, None, max_norm, norm_type)
    return vectors.mean(1) if mode == "mean" else vectors.sum(1)


def _addmm(input, first, second, *, beta=1, alpha=1):
    product = first @ second
    return beta * input + (product if alpha == 1 else alpha * product)


def _addcmul(input, first, second, *, value=1):
    product = first * second
    return input + (product if value == 1 else value * product)


def _einsum(equation, *operands):
    """A product of two operands: their shared axes first, then those of each alone; one operand is rearranged."""
    operands = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    plain = arrow and len(terms) == len(operands) <= 2 and "." not in equation
    if not plain or any(len(set(term)) != len(term) for term in (*terms, output)):
        raise KlrpError.value(f"einsum({equation!r}) is explained for two operands, named axes and an explicit output")
    if len(operands) == 1:
        terms, operands = [*terms, ""], (operands[0], None)
    if output and output[0] not in terms[0]:  # the samples' axis comes first in the result, and is the second's
        terms, operands = terms[::-1], operands[::-1]
    (first, a), (second, b) = (_summed(*pair, output) for pair in zip(terms, terms[::-1], operands, strict=True))
    if b is None:
        return a.permute([first.index(c) for c in output])
    size = dict(zip(first, a.shape, strict=True)) | dict(zip(second, b.shape, strict=True))
    both = [c for c in first if c in second and c in output]
    inner = [c for c in first if c in second and c not in output]
    left, right = [c for c in first if c not in second], [c for c in second if c not in first]
    outer = left[: first[:1] == left[:1]]  # the samples', if the other factor is a constant
    left = left[len(outer) :]

    def grouped(x: Tensor, axes: list[str], alone: list[str], *groups: list[str]) -> Tensor:
        order = [axes.index(c) for group in (alone, *groups) for c in group]
        return x.permute(order).reshape(*(size[c] for c in alone), *(math.prod(size[c] for c in g) for g in groups))

    product = grouped(a, first, outer + both, left, inner) @ grouped(b, second, both, inner, right)
    axes = [*outer, *both, *left, *right]
    return product.reshape([size[c] for c in axes]).permute([axes.index(c) for c in output])


def _summed(term: str, other: str, operand: Tensor, output: str) -> tuple[list[str], Tensor]:
    """An operand's axes and itself, without those that it alone has and that are summed over."""
    alone = [c for c in term if c not in other and c not in output]
    kept = [c for c in term if c not in alone]
    return kept, operand.sum([term.index(c) for c in alone]) if alone else operand


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """softmax(q kᵀ · scale + mask) v."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return _masked(scores, None if attn_mask is None else _inverted(attn_mask)).softmax(-1) @ value


def _inverted(mask: Tensor) -> Tensor:
    """A mask that is True where attention goes, as one that is True where it does not."""
    return ~mask if mask.dtype == torch.bool else mask


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores without those where a mask is True, or with a mask of numbers added."""
    if mask is None:
        return scores
    return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def _glu(input, dim=-1):
    signal, gate = input.chunk(2, dim)
    return signal * gate.sigmoid()


def rewritten(function: Callable, name: str, args: tuple, kwargs: dict) -> Callable | None:
    """The same call made of functions of the vocabulary, None if it is one of them, in a form that its builder knows."""
    if name in FUNCTIONS:
        return partial(FUNCTIONS[name], *args, **kwargs)
    return _over_last(function, name, args, kwargs) or _expanded(function, name, args)


def _expanded(function: Callable, name: str, args: tuple) -> Callable | None:
    """A product of matrices that are as many in both factors, where one is the same for several heads."""
    if name != "matmul" or not all(isinstance(x, Tensor) and x.ndim > 2 for x in args) or len(args) != 2:
        return None
    a, b = args
    if a.shape[:-2] == b.shape[:-2] or a.shape[0] != b.shape[0] or a.ndim != b.ndim:
        return None
    between = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return lambda: function(*(x.expand(*between, -1, -1) for x in args))


def _over_last(function: Callable, name: str, args: tuple, kwargs: dict) -> Callable | None:
    """A mean, sum or extreme over the first axis as one over the last.

    Of a stack, as of an ensemble's answers, the first axis is not that of the samples: once it has been moved, that shows.
    """
    x, dim = args[0] if args else None, args[1] if len(args) == 2 else kwargs.get("dim", kwargs.get("axis"))
    if name not in ("mean", "sum", "amax", "amin") or len(args) > 2 or not isinstance(x, Tensor) or x.ndim < 2:
        return None
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    if 0 not in (d % x.ndim for d in dims) or kwargs.get("keepdim") or kwargs.get("keepdims"):
        return None
    last, more = list(range(-len(dims), 0)), {k: v for k, v in kwargs.items() if k == "dtype"}
    return lambda: function(x.movedim(dims, last), last, **more)


def _normalize(input, p=2.0, dim=1, eps=1e-12, out=None):
    return input / torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps)


def _local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0):
    square = input * input
    flat = square.reshape(len(square), 1, square.shape[1], -1)
    mean = F.avg_pool2d(F.pad(flat, (0, 0, size // 2, (size - 1) // 2)), (size, 1), stride=1)
    return input / (mean.reshape(input.shape) * alpha + k) ** beta


def _interpolate(input, size=None, scale_factor=None, mode="nearest", align_corners=None,
                 recompute_scale_factor=None, antialias=False):  # fmt: skip
    """Along one axis after the other: nearest neighbours are picked; else it is a matrix, what it makes of unit vectors.

    The zeros of a matrix are weights too: they take no share under rules that look at products, and an equal one under
    flat.
    """
    spatial = input.ndim - 2
    modes = {"linear": "bilinear", "trilinear": "bilinear"}
    given = size if size is not None else scale_factor
    given = (given,) * spatial if isinstance(given, int | float) else tuple(given)
    for axis, (n, wanted) in enumerate(zip(input.shape[2:], given, strict=True), start=2):
        if mode.startswith("nearest"):
            line = torch.arange(n, dtype=torch.float64, device=input.device)[None, None]
            sizes = (wanted, None) if size is not None else (None, float(wanted))
            places = F.interpolate(line, *sizes, mode, recompute_scale_factor=recompute_scale_factor)
            input = input.index_select(axis, places[0, 0].long())
            continue
        unit = torch.eye(n, dtype=input.dtype, device=input.device)[None, None]
        plane, factor = (None, (1.0, float(wanted))) if size is None else ((n, wanted), None)
        matrix = F.interpolate(
            unit, plane, factor, modes.get(mode, mode), align_corners, recompute_scale_factor, antialias
        )
        input = (input.movedim(axis, -1) @ matrix[0, 0]).movedim(-1, axis)
    return input


def named(x: Tensor, name: str) -> Tensor:
    """x, whose step is to have the name of the module that runs and this one behind it; a bare "@t" is numbered."""
    if has_torch_function_unary(x):  # it is recorded, as a function of torch is
        return handle_torch_function(named, (x,), x, name)
    return x.view_as(x)


def _named_cell(cell: Callable) -> Callable:
    """One step of a recurrent network, whose hidden state is named by the number of its call: "cell@t0"."""

    def run(*args, **kwargs):
        state = cell(*args, **kwargs)
        return (named(state[0], "@t"), *state[1:]) if isinstance(state, tuple) else named(state, "@t")

    return run


def _fold(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Overlapping patches [N, C K, L], added up: a transposed convolution of each channel's places in the patch."""
    if input.ndim != 3:
        raise KlrpError.value("fold is explained for patches [N, C K, L]")
    pairs = [(v, v) if isinstance(v, int) else tuple(v) for v in (output_size, kernel_size, dilation, padding, stride)]
    axes = list(zip(*pairs, strict=True))
    counts = [(o + 2 * p - d * (k - 1) - 1) // s + 1 for o, k, d, p, s in axes]
    more = [o + 2 * p - d * (k - 1) - 1 - (n - 1) * s for (o, k, d, p, s), n in zip(axes, counts, strict=True)]
    _, (high, wide), dilation, padding, stride = pairs
    channels = input.shape[1] // (high * wide)
    places = torch.eye(high * wide, dtype=input.dtype, device=input.device).reshape(-1, 1, high, wide)
    weight, patches = places.repeat(channels, 1, 1, 1), input.unflatten(2, counts)
    return F.conv_transpose2d(patches, weight, None, stride, padding, more, channels, dilation)


def _recurrent(cell: Callable) -> Callable:
    """A recurrent network of several layers and directions, unrolled over time; hidden states are named ".0@t5"."""

    def run(input, hx, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first):
        if not isinstance(weights, list | tuple):
            raise KlrpError.value("a packed sequence has no axis of samples; give padded sequences [N, T, F]")
        x, states = (input if batch_first else input.transpose(0, 1)), (hx if isinstance(hx, list | tuple) else (hx,))
        directions, ends = (1 + bidirectional), []
        each = len(weights) // (num_layers * directions)
        for layer in range(num_layers):
            found = []
            for direction in range(directions):
                at = layer * directions + direction
                own = list(weights[at * each : (at + 1) * each])
                w = (*own[:2], *(own[2:4] if has_biases else (None, None)))
                projection = own[-1] if len(own) % 2 else None
                state, steps = tuple(s[at] for s in states), []
                for t in reversed(range(x.shape[1])) if direction else range(x.shape[1]):
                    state = cell(x[:, t], state if len(state) > 1 else state[0], *w)
                    state = state if isinstance(state, tuple) else (state,)
                    hidden = state[0] if projection is None else F.linear(state[0], projection)
                    state = (named(hidden, f".{layer}{'.reverse' * direction}@t{t}"), *state[1:])
                    steps.append(state[0])
                found.append(torch.stack(steps[::-1] if direction else steps, 1))
                ends.append(state)
            x = torch.cat(found, -1) if directions > 1 else found[0]
        last = tuple(torch.stack(end, 0) for end in zip(*ends, strict=True))
        return (x if batch_first else x.transpose(0, 1), *last)

    return run


def _lstm_cell(x, state, w_ih, w_hh, b_ih=None, b_hh=None):
    h, c = state
    i, f, g, o = (F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru_cell(x, h, w_ih, w_hh, b_ih=None, b_hh=None):
    (r, z, n), (r_h, z_h, n_h) = F.linear(x, w_ih, b_ih).chunk(3, 1), F.linear(h, w_hh, b_hh).chunk(3, 1)
    z = (z + z_h).sigmoid()
    return (1 - z) * (n + (r + r_h).sigmoid() * n_h).tanh() + z * h


def _plain_cell(activation: Callable) -> Callable:
    return lambda x, h, w_ih, w_hh, b_ih=None, b_hh=None: activation(F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh))


_CELLS = {
    "lstm": _lstm_cell,
    "gru": _gru_cell,
    "rnn_tanh": _plain_cell(torch.tanh),
    "rnn_relu": _plain_cell(torch.relu),
}
FUNCTIONS: dict[str, Callable] = {
    "embedding_bag": _embedding_bag, "addmm": _addmm, "addcmul": _addcmul, "baddbmm": _addmm, "einsum": _einsum, "glu": _glu,
    "scaled_dot_product_attention": _attention, "normalize": _normalize, "local_response_norm": _local_response_norm,
    "interpolate": _interpolate, "upsample": _interpolate, "fold": _fold,
    **{f"{name}_cell": _named_cell(cell) for name, cell in _CELLS.items()},
    **{name: _recurrent(cell) for name, cell in _CELLS.items()},
}  # fmt: skip


def _multi_head(
    module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Attention with several heads: the projections, one product for each head, and the projection of what they give."""
    if not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    if module.in_proj_weight is None:
        weights = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    else:
        weights = module.in_proj_weight.chunk(3)
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    if module.bias_k is not None:
        k, v = (torch.cat([x, b.expand(len(x), 1, -1)], 1) for x, b in ((k, module.bias_k), (v, module.bias_v)))
    if module.add_zero_attn:
        k, v = (torch.cat([x, torch.zeros_like(x[:, :1])], 1) for x in (k, v))
    heads = (module.num_heads, module.head_dim)
    q, k, v = (x.unflatten(2, heads).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) * (1 / math.sqrt(module.head_dim))
    more = scores.shape[3] - key.shape[1]
    if attn_mask is not None:
        if attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (-1, module.num_heads))
        scores = _masked(scores, F.pad(attn_mask, (0, more)))
    if key_padding_mask is not None:
        scores = _masked(scores, F.pad(key_padding_mask, (0, more))[:, None, None])
    attention = scores.softmax(3)
    out = F.linear((attention @ v).transpose(1, 2).flatten(2), module.out_proj.weight, module.out_proj.bias)
    out = out if module.batch_first else out.transpose(0, 1)
    if not need_weights:
        return out, None
    return out, attention.mean(1) if average_attn_weights else attention


# By the forward that is replaced: a subclass with one of its own runs that.
FORWARDS: dict[Any, Callable] = {nn.MultiheadAttention.forward: _multi_head}


def forward_of(module: nn.Module) -> Callable:
    """What runs in the place of a module's forward: mostly that."""
    if type(module) is nn.Identity:  # it calls nothing, and is a step all the same: a place whose map one wants
        return _marked
    known = FORWARDS.get(getattr(module.forward, "__func__", None))
    return module.forward if known is None else partial(known, module)


def _marked(input: Any) -> Any:
    """What an Identity does: a tensor leaves a mark, and anything else goes through."""
    return torch.positive(input) if isinstance(input, Tensor) and input.dtype != torch.bool else input
