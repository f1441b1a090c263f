"""Composites: which rule and which Θ each layer gets; those of the literature by name."""

from klrp.composites.assignment import ANY, FIRST, Composite
from klrp.composites.presets import (
    BOOLEAN_THRESHOLDS,
    COUNTING_THRESHOLDS,
    epsilon_alpha2_beta1,
    epsilon_gamma_box,
    epsilon_plus_flat,
    vgg16_boolean,
    vgg16_counting,
    vgg16_montavon,
)  # fmt: skip
from klrp.network.vocabulary import ADD

__all__ = [
    "ADD", "ANY", "BOOLEAN_THRESHOLDS", "COUNTING_THRESHOLDS", "Composite", "FIRST", "epsilon_alpha2_beta1",
    "epsilon_gamma_box", "epsilon_plus_flat", "vgg16_boolean", "vgg16_counting", "vgg16_montavon",
]  # fmt: skip
