"""Semiring Layer-wise Relevance Propagation for PyTorch.

    R_j = ⊕_k Θ(d_jk) ⊗ R_k,    d_jk = Σ_t α_t(a_j) ω_t(w_jk) / z_k

``klrp.explain(model, inputs)`` propagates relevance in any semiring through a feed-forward network: it is
run once, and its calls become steps, weighted layers and moves.
"""

from importlib import import_module
from typing import Any

from klrp import circuits, composites, conversions, homomorphisms, paths, rules, symbolic, thresholds
from klrp.aggregates import entropy, expectation, kbest
from klrp.composed import dial, product, signed
from klrp.composites import ADD, ANY, ATTENTION, FIRST, NORM, PRODUCT, Composite
from klrp.errors import KlrpError
from klrp.explain import explain, explain_many, kernel_for
from klrp.laws import check_laws
from klrp.network.vocabulary import register
from klrp.relevance import Relevance
from klrp.semirings import (
    BOOLEAN,
    COUNTING,
    COUNTING_INT,
    FUZZY,
    LOG,
    LUKASIEWICZ,
    MAX_PLUS,
    REAL,
    TROPICAL,
    VITERBI,
    Semiring,
)  # fmt: skip

__version__ = "0.1.0"

__all__ = [
    "ADD", "ANY", "ATTENTION", "BOOLEAN", "COUNTING", "COUNTING_INT", "Composite", "FIRST", "FUZZY",
    "KlrpError", "LOG", "LUKASIEWICZ", "MAX_PLUS", "NORM", "PRODUCT", "REAL", "Relevance", "Semiring",
    "TROPICAL", "VITERBI", "__version__", "check_laws", "circuits", "composites", "conversions", "data",
    "dial", "entropy", "expectation", "explain", "explain_many", "gathering", "homomorphisms", "kbest", "kernel_for",
    "masks", "models", "paths", "perturbation", "plot", "product", "pruning", "quality", "register", "rules", "signed",
    "symbolic", "thresholds", "widgets",
]  # fmt: skip

# They bring torchvision, matplotlib, ipywidgets along.
_ON_USE = ("data", "gathering", "masks", "models", "perturbation", "plot", "pruning", "quality", "widgets")


def __getattr__(name: str) -> Any:
    if name in _ON_USE:
        return import_module(f"klrp.{name}")
    raise AttributeError(f"module 'klrp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
