"""Networks for sentences as klrp.data.reviews gives them: rows of word numbers, padded with 0 behind the words.

Padding is no neuron in any of them. Its vector is zero and stays so, the convolutions have no bias, means are taken over the
words alone, and attention does not look at it. So a sentence has the same logits, and its words the same
relevance, whatever it stands beside in a batch. Which rows are padding is read from ``tokens.detach()``: a mask is a
constant of the sentence, no path from a word to the answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from klrp.data import Reviews
from klrp.errors import KlrpError
from klrp.models.shipped import loaded, shipped
from klrp.models.training import seeded

EPOCHS = {"mean": 6, "convolution": 4, "attention": 4}


class WordMean(nn.Module):
    """The mean of the words' vectors, and a linear layer: [n, t] to logits [n, 2]."""

    def __init__(self, words: int, size: int = 50):
        super().__init__()
        self.embed, self.drop, self.out = _embedding(words, size), nn.Dropout(0.3), nn.Linear(size, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        real = tokens.detach() != 0
        return self.out(self.drop(self.embed(tokens).sum(1) / real.sum(1, keepdim=True)))


class WordConvolution(nn.Module):
    """Filters over 3, 4 and 5 words, the largest value of each, and a linear layer (Kim 2014): [n, t] to logits [n, 2]."""

    def __init__(self, words: int, size: int = 50, filters: int = 50):
        super().__init__()
        self.embed, self.drop = _embedding(words, size), nn.Dropout(0.3)
        # Without a bias a window of padding gives 0, which is no larger than the largest value after a ReLU.
        self.windows = nn.ModuleList(nn.Conv1d(size, filters, w, padding=w - 1, bias=False) for w in (3, 4, 5))
        self.drop_filters, self.out = nn.Dropout(0.5), nn.Linear(3 * filters, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        vectors = self.drop(self.embed(tokens)).mT
        found = [window(vectors).relu().amax(2) for window in self.windows]
        return self.out(self.drop_filters(torch.cat(found, 1)))


class WordAttention(nn.Module):
    """Words and positions, one block of a transformer encoder, the mean, and a linear layer: [n, t] to logits [n, 2]."""

    def __init__(self, words: int, size: int = 50, heads: int = 2, longest: int = 64):
        super().__init__()
        self.embed, self.positions = _embedding(words, size), nn.Parameter(0.02 * torch.randn(longest, size))
        self.attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.dense = nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))
        self.norms = nn.ModuleList([nn.LayerNorm(size), nn.LayerNorm(size)])
        self.drop, self.drop_mean, self.out = nn.Dropout(0.3), nn.Dropout(0.5), nn.Linear(size, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > len(self.positions):
            raise KlrpError.value(
                f"tokens: got {tokens.shape[1]} words; this network has {len(self.positions)} positions."
            )
        padding = tokens.detach() == 0
        x = self.drop(self.embed(tokens) + self.positions[: tokens.shape[1]])
        x = self.norms[0](x + self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0])
        x = self.norms[1](x + self.dense(x)).masked_fill(padding[..., None], 0)
        return self.out(self.drop_mean(x.sum(1) / (~padding).sum(1, keepdim=True)))


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "mean": WordMean, "convolution": WordConvolution, "attention": WordAttention,
}  # fmt: skip


def words(kind: str, vocabulary: int = 5000, *, seed: int = 0) -> nn.Module:
    """An untrained network for sentences: ``"mean"``, ``"convolution"`` or ``"attention"``.

    ``seed`` fixes the initial weights; the caller's random state stays as it is. A KlrpError says that there is no
    such kind, or that ``vocabulary`` is no integer >= 3.

    Example:
        >>> logits = klrp.models.words("mean")(klrp.data.reviews().test_tokens)  # [1098, 2]
    """
    if kind not in KINDS:
        raise KlrpError.value(f"words: kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    if not isinstance(vocabulary, int) or vocabulary < 3:
        raise KlrpError.value(f"words: vocabulary is {vocabulary!r}; give its size, an integer >= 3.")
    with seeded(seed):
        return KINDS[kind](vocabulary)


def train_words(
    model: nn.Module, tokens: Tensor, labels: Tensor, *, epochs: int = 5, lr: float = 1e-3, batch: int = 32, seed: int = 0,
    progress: bool = True,
) -> nn.Module:  # fmt: skip
    """A trained copy of ``model`` in eval mode; ``model`` itself is not changed.

    Adam on the mean cross entropy, in batches of sentences of about the same length. On one machine's CPU
    the same call gives the same bits.

    Args:
        tokens: [n, t] int64, padded with 0. ``labels``: [n] int64.
        seed: of the order of the batches, and of dropout.
        progress: whether a bar on stderr counts the steps; it goes when training ends.

    A KlrpError says that tokens and labels do not fit together, or what is out of range.

    Example:
        >>> network = klrp.models.train_words(klrp.models.words("mean"), r.train_tokens, r.train_labels)
    """
    from tqdm import tqdm

    if tokens.ndim != 2 or tokens.is_floating_point() or labels.shape != tokens.shape[:1] or not len(labels):
        raise KlrpError.value(
            f"train_words: tokens are {tokens.dtype} of shape {tuple(tokens.shape)}, labels of shape {tuple(labels.shape)}; "
            "expected integers [n, t] and [n], n >= 1."
        )
    if epochs < 0 or batch < 1 or not lr > 0:
        raise KlrpError.value(f"train_words: epochs={epochs}, batch={batch}, lr={lr}; expected >= 0, >= 1 and > 0.")
    network, lengths = copy.deepcopy(model).train(), (tokens != 0).sum(1)
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    steps = epochs * -(-len(labels) // batch)
    bar = tqdm(total=steps, desc="train", leave=False, mininterval=0.5, disable=not progress)
    with torch.enable_grad(), seeded(seed), bar:
        for _ in range(epochs):
            mixed = torch.randperm(len(labels))
            batches = mixed[lengths[mixed].argsort(stable=True)].split(batch)
            for number in torch.randperm(len(batches)).tolist():
                rows = batches[number]
                optimiser.zero_grad()
                logits = network(tokens[rows, : int(lengths[rows].max())])
                functional.cross_entropy(logits, labels[rows]).backward()
                optimiser.step()
                bar.update()
    optimiser.zero_grad()
    return network.eval()


def review_words(
    kind: str, reviews: Reviews, *, seed: int = 0, epochs: int | None = None, progress: bool = True
) -> nn.Module:
    """A network for sentences, trained on ``reviews``: ``"mean"``, ``"convolution"`` or ``"attention"``.

    For Pang and Lee's reviews with their vocabulary of 5000, seed 0 and ``epochs=None`` it is a shipped one, made by
    ``scripts/train_words.py``, which comes with the package, and whose hash is checked. Any other is trained here, in up
    to three minutes. A KlrpError says that there is no such kind, or that the file is another one.

    Example:
        >>> model = klrp.models.review_words("convolution", klrp.data.reviews())
    """
    if not isinstance(reviews, Reviews):
        raise KlrpError.type(
            f"review_words: reviews is a {type(reviews).__name__}; give what klrp.data.reviews() returns."
        )
    network = words(kind, len(reviews.vocabulary), seed=seed)
    if (reviews.source, len(reviews.vocabulary), seed, epochs) == ("rt-polarity", 5000, 0, None):
        return loaded(network, shipped(f"words_{kind}_rt.safetensors"))
    epochs = EPOCHS[kind] * (1 if reviews.source == "rt-polarity" else 2) if epochs is None else epochs
    found = train_words(
        network, reviews.train_tokens, reviews.train_labels, epochs=epochs, seed=seed, progress=progress
    )
    return found.requires_grad_(False)


def glove(path: str | Path, vocabulary: Container[str] | None = None) -> dict[str, Tensor]:
    """Word vectors from a text file such as those of GloVe: {word: [d] float32}, of ``vocabulary`` alone if it is given.

    A line is a word and its numbers, with spaces between. A KlrpError says that there is no such file, or which
    line is malformed: without numbers, of another length than the first, or with something that is no finite number.

    Example:
        >>> vectors = klrp.models.glove("glove.6B.50d.txt", set(reviews.vocabulary))
        >>> for number, word in enumerate(reviews.vocabulary):
        ...     if word in vectors:
        ...         network.embed.weight.data[number] = vectors[word]
    """
    path, found, size = Path(path).expanduser(), {}, None
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                word, *numbers = line.rstrip().split(" ")
                vector = _vector(numbers)
                size = len(numbers) if size is None else size
                if vector is None or len(numbers) != size:
                    expected = (
                        "a word and its numbers" if size is None or vector is None else f"a word and {size} numbers"
                    )
                    raise KlrpError.value(
                        f"glove: line {number} of {path} is {line.rstrip()[:60]!r}; expected {expected}."
                    )
                if vocabulary is None or word in vocabulary:
                    found[word] = vector
    except (OSError, UnicodeDecodeError) as error:
        raise KlrpError.value(
            f"glove: {path} cannot be read ({error}); give a text file with a word vector on each line."
        ) from None
    return found


def _vector(numbers: list[str]) -> Tensor | None:
    try:
        vector = torch.tensor([float(number) for number in numbers])
    except ValueError:
        return None
    return vector if len(vector) and bool(vector.isfinite().all()) else None


def _embedding(words: int, size: int) -> nn.Embedding:
    """Small vectors to begin with; that of padding is zero, and gets no gradient."""
    embedding = nn.Embedding(words, size, padding_idx=0)
    with torch.no_grad():
        embedding.weight.mul_(0.1)
    return embedding
