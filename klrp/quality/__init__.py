"""How good is a map of relevance? Measures on any network of images, with a standard error over the images.

A *method* is a function ``(model, images [n, c, h, w], classes [n]) -> maps [n, h, w]``; `lrp` makes one of the
arguments of klrp.explain, and any other explanation is one with a line or two. Everything is explained and scored for
the class that the network predicts, never for a label: a map that knows the label would leak it.

===================  ===========================================================================================
`grid_game`          does the relevance of a class lie where that class is? On mosaics of pictures
`relevance_gain`     does the prediction follow the map, when pixels are taken away from either end?
`survival`           how far can a fill be trusted that takes the pixels' place?
`wrong_class`        does a map of the second class make the network say the second class?
`examine`            do maps of two classes differ, do those of one class agree, do they depend on what was learnt?
`cascade`            the last of these, layer by layer
===================  ===========================================================================================
"""

from klrp.quality.examined import Examined, cascade, examine, randomised
from klrp.quality.faithfulness import Gains, relevance_gain, survival, wrong_class
from klrp.quality.maps import concentration, correlation, entropy, inside, rank_correlation
from klrp.quality.methods import Method, chance, disc, lrp, pixels, raw
from klrp.quality.mosaics import Mosaics, grid_game, mosaics

__all__ = [
    "Examined", "Gains", "Method", "Mosaics", "cascade", "chance", "concentration", "correlation", "disc", "entropy",
    "examine", "grid_game", "inside", "lrp", "mosaics", "pixels", "randomised", "rank_correlation", "raw",
    "relevance_gain", "survival", "wrong_class",
]  # fmt: skip
