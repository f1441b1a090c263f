"""Networks for digits: a perceptron, a transformer and a recurrent network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from klrp.data import Digits
from klrp.errors import KlrpError
from klrp.models.shipped import loaded, shipped
from klrp.models.training import seeded, train

# One pass over MNIST is 1875 steps, one over the embedded digits only 45.
EPOCHS = {"mnist": 1, "sklearn-digits": 30}
NAMES = {"mnist": "MNIST", "sklearn-digits": "scikit-learn's digits"}
SEEDS = range(5)  # of the perceptrons that are shipped for either set
PATCH, PLACES = 7, 17  # sixteen patches of a digit, and the class token


def mlp(
    sizes: Sequence[int] = (784, 300, 100, 10), *, seed: int = 0, dtype: torch.dtype | None = None
) -> nn.Sequential:
    """An untrained network Flatten, Linear, ReLU, Linear, ..., Linear with ``sizes`` neurons.

    ``seed`` fixes the initial weights; the caller's random state stays as it is. ``dtype`` is that of the
    weights, torch's default dtype unless it is given. A KlrpError says that ``sizes`` are not two or more integers >= 1.

    Example:
        >>> logits = klrp.models.mlp()(torch.rand(5, 1, 28, 28))  # [5, 10]
    """
    if len(sizes) < 2 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise KlrpError.value(f"mlp: sizes is {sizes}; give two or more integers >= 1.")
    layers: list[nn.Module] = [nn.Flatten()]
    with seeded(seed):
        for lower, upper in itertools.pairwise(sizes):
            layers += [nn.Linear(lower, upper, device="cpu", dtype=dtype), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def digit_mlp(
    digits: Digits | None = None, *, seed: int = 0, epochs: int | None = None, progress: bool = True
) -> nn.Module:
    """The paper's MLP 784-300-100-10, shipped or trained: on MNIST, or on ``digits``.

    For ``seed`` 0 to 4 and ``epochs=None`` it is a shipped one, frozen, with weights rounded to float16, and with
    ``progress`` a line says so: it gives the same maps on every machine. It was trained for one pass over MNIST, and has
    95.4 to 95.7 % of the test images right, or for 30 passes over the embedded digits, which are 40 times fewer, with
    96.4 to 97.2 %.

    Any other is trained here, on ``digits``, with step size 0.1 and batches of 32; ``epochs=None`` takes as many passes.
    ``seed`` fixes the initial weights and the order of the images. A KlrpError says that ``digits`` is something else, or
    missing where they are needed, or ``epochs`` negative.

    Example:
        >>> model = klrp.models.digit_mlp(seed=0)
        >>> trained = klrp.models.digit_mlp(klrp.data.digits(), epochs=1)
    """
    if not isinstance(digits, Digits | None):
        raise KlrpError.type(f"digit_mlp: digits is a {type(digits).__name__}; give what klrp.data.digits() returns.")
    source = "mnist" if digits is None else digits.source
    if epochs is None and source in EPOCHS and seed in SEEDS:
        if progress:
            print(f"digit_mlp: the shipped network of seed {seed}, trained on {NAMES[source]}")
        dtype = torch.get_default_dtype() if digits is None else digits.train_images.dtype
        return loaded(mlp(), shipped(f"digit_mlp_{source}_{seed}.safetensors"), dtype)
    if digits is None:
        raise KlrpError.value(
            f"digit_mlp: seed={seed}, epochs={epochs}: seeds 0 to 4 are shipped. Any other is trained, on digits: give "
            "digits=klrp.data.digits()."
        )
    epochs = EPOCHS.get(source, 1) if epochs is None else epochs
    images, labels = digits.train_images, digits.train_labels
    return train(mlp(seed=seed, dtype=images.dtype), images, labels, epochs=epochs, seed=seed, progress=progress)


class Attention(nn.Module):
    """Each token collects values of all tokens, by weights that the softmax makes, and each head does so by itself."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.join = (nn.Linear(dim, dim) for _ in range(4))
        self.softmax, self.mixed = nn.Softmax(-1), nn.Identity()  # an Identity is a place whose relevance one wants

    def by_head(self, x: Tensor) -> Tensor:
        """[n, tokens, dim] as [n, heads, tokens, dim / heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def weights(self, x: Tensor) -> Tensor:
        """What each token, the last axis but one, takes of each [n, heads, tokens, tokens]."""
        q, k = self.by_head(self.query(x)), self.by_head(self.key(x))
        return self.softmax(q @ k.mT / math.sqrt(q.shape[-1]))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mixed(self.weights(x) @ self.by_head(self.value(x)))
        return self.join(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention between tokens, then two layers for each token; both are added to what they read."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(dim), Attention(dim, heads), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.out = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return self.out(x + self.mlp(self.norm2(x)))


class DigitViT(nn.Module):
    """A Vision Transformer: each patch of 7 x 7 pixels becomes a token, and the class token, which stands first, is read."""

    def __init__(self, dim: int, heads: int, blocks: int):
        super().__init__()
        self.patches = nn.Conv2d(1, dim, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.place = nn.Parameter(0.02 * torch.randn(1, PLACES, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def tokens(self, x: Tensor) -> Tensor:
        """The class token and the patches [n, 17, dim], before the first block."""
        patches = self.patches(x).flatten(2).mT
        return torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.place

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(x))[:, 0]))

    @torch.no_grad()
    def attention(self, x: Tensor) -> Tensor:
        """What each token attends to [blocks, n, heads, 17, 17]; the last axis sums to 1."""
        found, x = [], self.tokens(x)
        for block in self.blocks:
            found.append(block.attention.weights(block.norm1(x)))
            x = block(x)
        return torch.stack(found)


class DigitLSTM(nn.Module):
    """An LSTM that reads a digit row by row, from the top; the class is read from its last state."""

    def __init__(self, hidden: int):
        super().__init__()
        self.lstm = nn.LSTM(28, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, 0])[0][:, -1])


def vit(dim: int = 32, heads: int = 4, blocks: int = 2, *, seed: int = 0) -> DigitViT:
    """An untrained Vision Transformer for digits: [n, 1, 28, 28] to logits [n, 10].

    Sixteen patches and a class token are ``dim`` numbers each; ``heads`` divides ``dim``. ``seed`` fixes the initial
    weights; the caller's random state stays as it is. A KlrpError says which of these does not fit.

    Example:
        >>> klrp.models.vit()(torch.rand(5, 1, 28, 28))  # [5, 10]
    """
    sizes = (dim, heads, blocks)
    if not all(isinstance(n, int) and n > 0 for n in sizes) or dim % heads:
        raise KlrpError.value(f"vit: dim, heads and blocks are {sizes}; give integers >= 1, and heads that divide dim.")
    with seeded(seed):
        return DigitViT(*sizes)


def lstm(hidden: int = 64, *, seed: int = 0) -> DigitLSTM:
    """An untrained LSTM of ``hidden`` neurons that reads digits [n, 1, 28, 28] row by row, to logits [n, 10].

    ``seed`` fixes the initial weights; the caller's random state stays as it is. A KlrpError says that ``hidden`` is no
    integer >= 1.

    Example:
        >>> klrp.models.lstm()(torch.rand(5, 1, 28, 28))  # [5, 10]
    """
    if not isinstance(hidden, int) or hidden < 1:
        raise KlrpError.value(f"lstm: hidden is {hidden!r}; give an integer >= 1.")
    with seeded(seed):
        return DigitLSTM(hidden)


def digit_vit(path: str | Path | None = None) -> DigitViT:
    """``vit`` trained on MNIST and the embedded digits, in float32, frozen, in eval mode.

    It has 97.95 % of MNIST's test images right. The file, of 43 kB, comes with the package, or is the same in ``path``;
    its hash is checked. ``scripts/train_digits.py`` made it. A KlrpError says that it is another one.

    Example:
        >>> klrp.models.digit_vit()(klrp.data.digits().test_images[:5]).argmax(1)
    """
    return loaded(vit(), shipped("digit_vit.safetensors", path))


def digit_lstm(path: str | Path | None = None) -> DigitLSTM:
    """``lstm`` trained on MNIST and the embedded digits, in float32, frozen, in eval mode.

    It has 98.3 % of MNIST's test images right. All else is as with ``digit_vit``; the file has 50 kB.

    Example:
        >>> klrp.models.digit_lstm()(klrp.data.digits().test_images[:5]).argmax(1)
    """
    return loaded(lstm(), shipped("digit_lstm.safetensors", path))
