"""What becomes of a prediction when pixels are perturbed: flipping curves, attack zones, learned masks.

A map of relevance claims that some pixels matter more than others. Here the claim is tested: pixels are
replaced by noise in the order of the map, and the network is asked again. Images are [n, c, h, w].

Noise is what takes the place of a pixel: ``"zero"``, ``"invert"`` (1 − x), ``"mean"`` (of the image's channel),
``"uniform"`` (in [0, 1]), ``"blur"`` (see `blur`), or a function from images to images that treats each one
by itself.
"""

from klrp.experiments import bootstrap
from klrp.perturbation.attacks import Zones, attack_maps, learned_mask, zones
from klrp.perturbation.flipping import SCORES, Curves, flip, scores
from klrp.perturbation.noise import NOISES, Noise, blur, replace

__all__ = [
    "Curves", "NOISES", "Noise", "SCORES", "Zones", "attack_maps", "blur", "bootstrap", "flip", "learned_mask",
    "replace", "scores", "zones",
]  # fmt: skip
