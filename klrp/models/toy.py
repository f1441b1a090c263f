"""The network for pencil and paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# w[j][k] of the two layers, from a drawing in Groudiev and Maniu's report, and the input.
LOWER = [[0.1, 3.4, 1.9], [-1.2, -2.3, -0.3]]
UPPER = [[-0.5, -1.7], [2.4, 0.8], [-3.4, -2.1]]
INPUT = [1.0, 0.05]


def toy() -> tuple[nn.Sequential, Tensor]:
    """The network Linear, ReLU, Linear with two inputs, three hidden neurons and two outputs, and an input [1, 2].

    Its weights w[j][k], from neuron j to neuron k, are those of a drawing in the report of Groudiev and Maniu (2024);
    it has no biases, is frozen, in eval mode and of torch's default dtype. On the input (1, 0.05) all three hidden
    neurons are active, 0.04, 3.285 and 1.885, and the outputs are 1.455 and −1.3985.

    Example:
        >>> network, x = klrp.models.toy()
        >>> w = network[0].weight.T  # w[j, k], as in the equations
        >>> klrp.explain(network, x, 0, rule=klrp.rules.lrp0()).input
    """
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)).requires_grad_(False)
    for layer, w in zip(network[::2], (LOWER, UPPER), strict=True):
        layer.weight.copy_(torch.tensor(w).T)
    return network.eval(), torch.tensor([INPUT])
