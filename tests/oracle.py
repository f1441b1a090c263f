"""The slow truth: loops over connected pairs that look like the formulas. Nothing of klrp is used here.

A layer is a dictionary {k: [(j, w_jk), ...]} over flat indices of one sample; semirings are Python
operations on scalars or tuples; Θ is a Python function.
"""

import itertools
import math
from collections import defaultdict
from typing import NamedTuple

from hypothesis import strategies as st


class PySemiring(NamedTuple):
    """Python operations, and a Hypothesis strategy for elements."""

    zero: object
    one: object
    add: object
    mul: object
    elements: object = None


def log_add(x, y):
    top = max(x, y)
    return top if top == -math.inf else top + math.log(math.exp(x - top) + math.exp(y - top))


def pairwise(first, second):
    """The product of two semirings, whose elements are pairs."""
    return PySemiring(
        (first.zero, second.zero),
        (first.one, second.one),
        lambda x, y: (first.add(x[0], y[0]), second.add(x[1], y[1])),
        lambda x, y: (first.mul(x[0], y[0]), second.mul(x[1], y[1])),
        st.tuples(first.elements, second.elements),
    )


def plus(x, y):
    return x + y


def times(x, y):
    return x * y


UNIT, COUNTS, LARGE = st.floats(0, 1), st.integers(0, 2**15), st.floats(-100, 100)
SIXTY_FOURTHS = st.integers(0, 64).map(lambda n: n / 64)  # x + y - 1 is exact

# Every shipped semiring has its row here; those of the package are tested against them.
SEMIRINGS = {
    "real": PySemiring(0.0, 1.0, plus, times, LARGE),
    "boolean": PySemiring(False, True, lambda x, y: x or y, lambda x, y: x and y, st.booleans()),
    "counting": PySemiring(0, 1, plus, times, COUNTS.map(float)),
    "counting_int": PySemiring(0, 1, plus, times, COUNTS),
    "viterbi": PySemiring(0.0, 1.0, max, times, UNIT),
    "tropical": PySemiring(math.inf, 0.0, min, plus, LARGE | st.just(math.inf)),
    "max_plus": PySemiring(-math.inf, 0.0, max, plus, LARGE | st.just(-math.inf)),
    "log": PySemiring(-math.inf, 0.0, log_add, plus, LARGE | st.just(-math.inf)),
    "fuzzy": PySemiring(0.0, 1.0, max, min, UNIT),
    "lukasiewicz": PySemiring(0.0, 1.0, max, lambda x, y: max(0.0, x + y - 1), SIXTY_FOURTHS),
}
SEMIRINGS["pair"] = pairwise(SEMIRINGS["counting"], SEMIRINGS["viterbi"])


class PyRule(NamedTuple):
    """Parts (scale, numerator of a pair (a, w), map of the bias), with the stabiliser and normaliser."""

    parts: list
    eps: float = 0.0
    std: float = 0.0
    maximum: bool = False


def positive(x):
    return max(x, 0.0)


def negative(x):
    return min(x, 0.0)


def none(b):
    return 0.0


def same(b):
    return b


def lrp0():
    return PyRule([(1, lambda a, w: a * w, same)])


def epsilon(eps, std=0.0):
    return PyRule([(1, lambda a, w: a * w, same)], eps, std)


def gamma(g):
    return PyRule([(1, lambda a, w: a * (w + g * positive(w)), lambda b: b + g * positive(b))])


def zplus():
    return PyRule([(1, lambda a, w: positive(a * w), positive)])


def alpha_beta(alpha, beta):
    return PyRule([(alpha, lambda a, w: positive(a * w), positive), (-beta, lambda a, w: negative(a * w), negative)])


def zbox(low, high):
    return PyRule([(1, lambda a, w: a * w - low * positive(w) - high * negative(w), none)])


def flat():
    return PyRule([(1, lambda a, w: 1.0, none)])


def wsquare():
    return PyRule([(1, lambda a, w: w * w, none)])


def max_share():
    return PyRule([(1, lambda a, w: abs(a * w), none)], maximum=True)


def shares(rule, a, layer, bias):
    """{(j, k): d_jk} for one sample: a[j], layer {k: [(j, w)]}, bias[k]."""
    d = defaultdict(float)
    for scale, numerator, of_bias in rule.parts:
        z = {}
        for k, incoming in layer.items():
            terms = [numerator(a[j], w) for j, w in incoming]
            z[k] = max(terms) if rule.maximum else sum(terms) + of_bias(bias[k])
        rms = math.sqrt(sum(v * v for v in z.values()) / len(z))
        for k, incoming in layer.items():
            eps = rule.eps + rule.std * rms
            divisor = z[k] + (eps if z[k] >= 0 else -eps)
            for j, w in incoming:
                d[j, k] += scale * numerator(a[j], w) / divisor if divisor != 0 else 0.0
    return d


def propagate(d, r, count, semiring, theta):
    """R_j = ⊕_k Θ(d_jk) ⊗ R_k for j = 0 .. count - 1."""
    below = [semiring.zero] * count
    for (j, k), share in d.items():
        below[j] = semiring.add(below[j], semiring.mul(theta(share), r[k]))
    return below


# --- layers as pairs ------------------------------------------------------------------------------------


def linear_pairs(weight):
    return {k: list(enumerate(row)) for k, row in enumerate(weight.tolist())}


def flat_index(position, shape):
    index = 0
    for p, size in zip(position, shape, strict=True):
        index = index * size + p
    return index


def conv_pairs(weight, inputs, outputs, stride, padding, dilation, groups):
    """Convolution over any number of axes; inputs and outputs are [C, *spatial]."""
    layer, weight = defaultdict(list), weight.detach()
    out_per_group, in_per_group = outputs[0] // groups, inputs[0] // groups
    for o in itertools.product(*map(range, outputs)):
        for i in range(in_per_group):
            channel = (o[0] // out_per_group) * in_per_group + i
            for t in itertools.product(*map(range, weight.shape[2:])):
                at = [c * s - p + x * d for c, s, p, x, d in zip(o[1:], stride, padding, t, dilation, strict=True)]
                if all(0 <= x < n for x, n in zip(at, inputs[1:], strict=True)):
                    w = float(weight[(o[0], i, *t)])
                    layer[flat_index(o, outputs)].append((flat_index((channel, *at), inputs), w))
    return layer


def window(o, kernel, stride, padding, dilation, inputs):
    """The input positions of one pooling window that are neurons, in scan order."""
    spans = [
        [x for x in (c * s - p + t * d for t in range(k)) if 0 <= x < n]
        for c, k, s, p, d, n in zip(o, kernel, stride, padding, dilation, inputs, strict=True)
    ]
    return list(itertools.product(*spans))


def adaptive_window(o, inputs, outputs):
    spans = [
        range(math.floor(c * n / m), math.ceil((c + 1) * n / m)) for c, n, m in zip(o, inputs, outputs, strict=True)
    ]
    return list(itertools.product(*spans))


def pool_pairs(inputs, outputs, window_of, divisor_of):
    """{k: [(j, 1 / divisor)]} channel by channel; inputs and outputs are [C, *spatial]."""
    layer = {}
    for o in itertools.product(*map(range, outputs)):
        members = window_of(o[1:])
        divisor = divisor_of(o[1:], members)
        layer[flat_index(o, outputs)] = [(flat_index((o[0], *m), inputs), 1 / divisor) for m in members]
    return layer


def winner_pairs(a, inputs, outputs, window_of):
    """{k: j of the winner}: the first of the largest in scan order."""
    winners = {}
    for o in itertools.product(*map(range, outputs)):
        members = [flat_index((o[0], *m), inputs) for m in window_of(o[1:])]
        winners[flat_index(o, outputs)] = max(members, key=lambda j: a[j])
    return winners
