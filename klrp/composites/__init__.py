"""Which rule and which Θ each layer gets: composites, their selectors, and those of the literature."""

from klrp.composites.assignment import ANY, ATTENTION, FIRST, NORM, PRODUCT, Assignment, Composite, assign, check_rule
from klrp.composites.presets import (
    BOOLEAN_THRESHOLDS,
    COUNTING_THRESHOLDS,
    epsilon_alpha2_beta1,
    epsilon_gamma_box,
    epsilon_plus_flat,
    vgg16_boolean,
    vgg16_counting,
    vgg16_montavon,
)
from klrp.network.vocabulary import ADD

__all__ = [
    "ADD", "ANY", "ATTENTION", "Assignment", "BOOLEAN_THRESHOLDS", "COUNTING_THRESHOLDS", "Composite", "FIRST", "NORM", "PRODUCT", "assign",
    "check_rule", "epsilon_alpha2_beta1", "epsilon_gamma_box", "epsilon_plus_flat", "vgg16_boolean", "vgg16_counting",
    "vgg16_montavon",
]  # fmt: skip
