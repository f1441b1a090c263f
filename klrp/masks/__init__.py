"""Masks over a data set: which neurons were relevant for a class in all, some or most of its samples.

Maps are joined batch by batch, so that memory does not grow with the data set: numbers of samples, sums
and extremes take one pass. Quantiles take a second pass, which counts scores on a grid between these
extremes. A mask may then be laid on the input or on hidden neurons, and the network asked what it
still knows.
"""

from klrp.masks.collected import Masks, collect, from_maps
from klrp.masks.networks import Curves, curves, masked, top

__all__ = ["Curves", "Masks", "collect", "curves", "from_maps", "masked", "top"]
