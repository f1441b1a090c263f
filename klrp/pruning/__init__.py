r"""Pruning: rank the neurons of a layer, and take the least important ones out of a copy of the network.

A *unit* is a neuron of a linear layer or a channel of a convolution. Scores rank the units of each layer;
`prune` gives the smaller network without the lowest, `mask` one of the old shape that computes the same,
`curves` what each choice costs. The rows of a weight are a layer's units, and columns of the next weight
read them; a BatchNorm between the two goes along, and so does a flatten behind a pool.
"""

from klrp.pruning.copies import Removed, mask, prune
from klrp.pruning.layers import PRUNABLE, Unit, units
from klrp.pruning.results import Curves, costs, curves, join
from klrp.pruning.scores import (
    Scores,
    activation_scores,
    norm_scores,
    random_scores,
    relevance_scores,
    taylor_scores,
)  # fmt: skip

__all__ = [
    "Curves", "PRUNABLE", "Removed", "Scores", "Unit", "activation_scores", "costs", "curves", "join", "mask",
    "norm_scores", "prune", "random_scores", "relevance_scores", "taylor_scores", "units",
]  # fmt: skip
