"""Checkers of chapter 3, semirings and provenance."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product

import torch
from torch import Tensor

from klrp.exercises.checking import Check, NotYet, function, same, shown, value

Sets = frozenset[frozenset[str]]

# ex-03-byhand: what 2n² + np is for the values of the exercise, and what helps.
BY_HAND = {
    "Boolean": (False, "n is false, and it stands in every monomial."),
    "counting": (14, "Here ⊕ is + and ⊗ is ×, as at school."),
    "Viterbi": (0.81, "The coefficient 2 says n² ⊕ n², and ⊕ is the maximum."),
    "tropical": (5, "⊗ is +, so n² is 4 + 4; and ⊕ is the minimum."),
}


def by_hand(answer) -> str:
    """Four elements, in the order of `BY_HAND`."""
    if not isinstance(answer, Sequence | Tensor) or len(answer) != len(BY_HAND):
        raise NotYet(f"A list of four is asked for: {', '.join(BY_HAND)}. Your answer is {shown(answer)}.")
    for got, (name, (right, hint)) in zip(answer, BY_HAND.items(), strict=True):
        if not same(got, right) and not same(got, float(right), 1e-6):
            raise NotYet(f"In the {name} semiring your answer is {shown(got)}. {hint}")
    return "in four semirings"


def still(why: Sets, T: set[str]) -> bool:
    """Set by set, and in it fact by fact."""
    for needed in why:
        if all(fact in T for fact in needed):
            return True
    return False


def of_whys() -> list[tuple[Sets, set[str]]]:
    """Every set of facts for one answer, and for no derivation, for one that needs nothing, for a third one."""
    facts = ("e1", "s3", "t2")
    whys = [[{"e1"}, {"s3", "t2"}], [], [set()], [{"s3"}, {"s3", "t2"}]]
    every = [set(T) for n in range(4) for T in combinations(facts, n)]
    return [(frozenset(map(frozenset, why)), T) for why in whys for T in every]


def is_idempotent(kind: str) -> bool:
    """Whether 1 ⊕ 1 = 1."""
    from klrp.semirings import SEMIRINGS

    K = SEMIRINGS[kind]
    one = K.full((1,), "one", torch.zeros(1))
    return torch.equal(K.plus(one, one), one)


def of_semirings() -> list[tuple[str]]:
    from klrp.semirings import SEMIRINGS

    return [(kind,) for kind in SEMIRINGS]


def largest_threshold(layers: list[Tensor], y: int) -> Tensor:
    """Try every share as the threshold, from the largest down, and walk with truth values."""
    found = torch.zeros(len(layers[0])).to(layers[0])
    for t in sorted({float(d) for layer in layers for d in layer.flatten()}):
        R = [k == y for k in range(layers[-1].shape[1])]
        for d in reversed(layers):
            R = [any(R[k] and float(d[j, k]) >= t for k in range(len(R))) for j in range(len(d))]
        for j, relevant in enumerate(R):
            found[j] = t if relevant and t > 0 else found[j]
    return found


def of_shares() -> list[tuple[list[Tensor], int]]:
    draw = torch.Generator().manual_seed(0)

    def rand(*size: int) -> Tensor:
        d = torch.rand(size, generator=draw, dtype=torch.float64)
        return torch.where(d < 0.2, 0, d)

    lower = torch.tensor([[0.75, 0.25], [0.0, 0.5]], dtype=torch.float64)
    small = [lower, torch.tensor([[0.5, 0.0], [1.0, 1.0]], dtype=torch.float64)]
    return [(small, 0), *(([rand(5, 3), rand(3, 7), rand(7, 2)], n % 2) for n in range(9))]


def probability(paths: list[frozenset[str]], p: Mapping[str, float]) -> float:
    """All cases: every edge is open or closed."""
    edges = sorted(set().union(*paths))
    total = 0.0
    for case in product([False, True], repeat=len(edges)):
        is_open = dict(zip(edges, case, strict=True))
        if any(all(is_open[e] for e in path) for path in paths):
            total += math.prod(p[e] if is_open[e] else 1 - p[e] for e in edges)
    return total


def of_paths() -> list[tuple[list[frozenset[str]], dict[str, float]]]:
    """Paths apart, paths with a common edge, the eight edges of the text, none, one without edges, and random ones."""
    draw = torch.Generator().manual_seed(1)
    texts = [["ab", "cd"], ["ab", "ac"], ["acg", "adh", "beg", "bfh"], [], [""], ["a", "ab"]]
    cases = [([frozenset(path) for path in paths], dict.fromkeys("".join(paths), 0.5)) for paths in texts]
    for n in range(6):
        p = {e: round(float(torch.rand(1, generator=draw)), 3) for e in "abcdefgh"}
        paths = [frozenset("abcdefgh"[i] for i in torch.randperm(8, generator=draw)[:3]) for _ in range(2 + n % 3)]
        cases.append((paths, p))
    return cases


# ex-03-laws: the addition, the multiplication, zero, one, and the ends of the set.
PAIRS: dict[int, tuple[Callable, Callable, float, float, tuple[float, float]]] = {
    1: (lambda x, y: min(1.0, x + y), lambda x, y: x * y, 0.0, 1.0, (0.0, 1.0)),
    2: (lambda x, y: (x + y) / 2, lambda x, y: x * y, 0.0, 1.0, (-math.inf, math.inf)),
    3: (max, min, 0.0, math.inf, (0.0, math.inf)),
}


def broken(number: int, x: float, y: float, z: float) -> list[str]:
    """The laws that these three elements break, by name."""
    add, mul, zero, one, _ = PAIRS[number]
    sides = {
        "associativity of ⊕": (add(add(x, y), z), add(x, add(y, z))),
        "commutativity of ⊕": (add(x, y), add(y, x)),
        "0 is neutral": (add(x, zero), x),
        "associativity of ⊗": (mul(mul(x, y), z), mul(x, mul(y, z))),
        "1 is neutral": (mul(x, one), x),
        "distributivity from the left": (mul(x, add(y, z)), add(mul(x, y), mul(x, z))),
        "distributivity from the right": (mul(add(x, y), z), add(mul(x, z), mul(y, z))),
        "0 annihilates": (mul(x, zero), zero),
    }
    return [law for law, (left, right) in sides.items() if not math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-12)]


def laws(answer) -> str:
    """Three elements that break a law, for each of the pairs that is no semiring."""
    if not isinstance(answer, Mapping) or not set(answer) <= set(PAIRS):
        raise NotYet(f"A dictionary from 1, 2 or 3 to three elements is asked for; your answer is {shown(answer)}.")
    for number, elements in answer.items():
        low, high = PAIRS[number][-1]
        if not isinstance(elements, Sequence) or len(elements) != 3 or not all(low <= v <= high for v in elements):
            raise NotYet(f"For {number}: three elements of the set are asked for; yours are {shown(elements)}.")
        if not broken(number, *map(float, elements)):
            raise NotYet(f"For {number}: all laws hold for x, y, z = {shown(elements)}.")
    if missing := {1, 2} - set(answer):
        raise NotYet(f"Two of the three are no semirings; {missing.pop()} is one of them.")
    return "; ".join(f"{n} breaks {broken(n, *map(float, v))[0]}" for n, v in sorted(answer.items()))


CHECKS: dict[str, Check] = {
    "ex-03-predict": value(
        "c",
        hints=[
            ("a", "In two of them 1 ⊗ 1 = 1 or c ⊗ c = c, so that a longer path is worth as much as a short one."),
            ("b", "Counting stays. But what is the minimum of twenty equal numbers?"),
            ("d", "The best path of twenty edges is worth 0.5 to the power of twenty."),
        ],
    ),
    "ex-03-byhand": by_hand,
    "ex-03-exponents": value(
        [2, 2, 8],
        hints=[
            ([1, 2, 8], "The two derivations of Ana can stand on either side."),
            ([2, 2, 6], "Six is the number of monomials; each counts as often as its coefficient says."),
            ([2, 1, 8], "The fact e1 serves on both sides."),
        ],
    ),
    "ex-03-laws": laws,
    "ex-03-why": function(still, of_whys),
    "ex-03-idempotent": function(is_idempotent, of_semirings),
    "ex-03-fuzzy": function(largest_threshold, of_shares),
    "ex-03-probability": function(probability, of_paths),
}
