"""The networks of the book: small ones, trained in seconds and seeded, and one for photographs."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from klrp.data import IMAGENETTE, Digits, load_weights
from klrp.errors import KlrpError
from klrp.sentences import glove, review_words, train_words, words  # noqa: F401  sentences have a module of their own

# One pass over MNIST is 1875 steps, one over the embedded digits only 45.
EPOCHS = {"mnist": 1, "sklearn-digits": 30}
# Half of VGG-16's channels; 0 stands for a pooling that halves the picture.
WIDTHS = (32, 32, 0, 64, 64, 0, 128, 128, 128, 0, 256, 256, 256, 0, 256, 256, 256, 0)
VGG_FILE = "vgg16_half_imagenette.safetensors"
VGG_SHA256 = "2b938e022683a9d4e3def2e0ff20abd9bc133cdbe49d39e76a242ec6957e1a55"


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
    with _seeded(seed):
        for lower, upper in itertools.pairwise(sizes):
            layers += [nn.Linear(lower, upper, device="cpu", dtype=dtype), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.enable_grad()
def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int = 1,
    lr: float = 0.1,
    batch: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """A trained copy of ``model`` in eval mode; ``model`` itself is not changed.

    Plain gradient descent, step size ``lr``, on the mean cross entropy of ``batch`` images at a
    time. On one machine's CPU the same call gives the same bits.

    Args:
        model: takes ``images`` and returns logits [n, c].
        images: [n, ...], of the dtype and on the device of the weights.
        labels: [n] int64 in 0..c-1.
        seed: of the order of the images, and of dropout.
        progress: whether a bar on stderr counts the steps; it goes when training ends.

    A KlrpError says what of these does not fit together, or is out of range.

    Example:
        >>> network = klrp.models.train(klrp.models.mlp(), d.train_images, d.train_labels)
    """
    # Not tqdm.auto: in a notebook it leaves a widget behind, which no built page can show.
    from tqdm import tqdm

    check_labelled("train", model, images, labels)
    if epochs < 0 or batch < 1 or not lr > 0:
        raise KlrpError.value(
            f"train: epochs={epochs}, batch={batch}, lr={lr}; expected epochs >= 0, batch >= 1 and lr > 0."
        )
    network = copy.deepcopy(model).train()
    weights = [p for p in network.parameters() if p.requires_grad]
    if not weights:
        raise KlrpError.value("train: all weights are frozen; call model.requires_grad_(True).")
    optimiser = torch.optim.SGD(weights, lr=lr)
    steps = epochs * -(-len(images) // batch)
    bar = tqdm(total=steps, desc="train", leave=False, mininterval=0.5, disable=not progress)
    with _seeded(seed), bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(images), device="cpu").to(images.device).split(batch):
                optimiser.zero_grad()
                functional.cross_entropy(network(images[rows]), labels[rows]).backward()
                optimiser.step()
                bar.update()
    optimiser.zero_grad()
    return network.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, *, batch: int = 1000) -> float:
    """The fraction in [0, 1] of the images whose largest logit is that of their label.

    Shapes and errors are those of ``train``. ``batch`` images are taken at a time, which bounds the
    memory; dropout is off, and ``model`` is left as it was.

    Example:
        >>> klrp.models.accuracy(network, d.test_images, d.test_labels)  # about 0.957 on MNIST
    """
    check_labelled("accuracy", model, images, labels)
    network = eval_copy(model)
    if batch < 1:
        raise KlrpError.value(f"accuracy: batch={batch}; expected an integer >= 1.")
    parts = zip(images.split(batch), labels.split(batch), strict=True)
    return sum(int((network(x).argmax(1) == y).sum()) for x, y in parts) / len(images)


def digit_mlp(digits: Digits, *, seed: int = 0, epochs: int | None = None, progress: bool = True) -> nn.Module:
    """The paper's MLP 784-300-100-10, trained on ``digits``: step size 0.1, batches of 32.

    ``epochs=None`` takes one pass over MNIST, which reaches about 95.7 % of its test images, and 30
    over the embedded digits, which are 40 times fewer, to about 97 %. ``seed`` fixes the initial
    weights and the order of the images. A KlrpError says that ``digits`` is something else, or
    ``epochs`` negative.

    Example:
        >>> model = klrp.models.digit_mlp(klrp.data.digits(), seed=0)
    """
    if not isinstance(digits, Digits):
        raise KlrpError.type(f"digit_mlp: digits is a {type(digits).__name__}; give what klrp.data.digits() returns.")
    epochs = EPOCHS.get(digits.source, 1) if epochs is None else epochs
    images, labels = digits.train_images, digits.train_labels
    network = mlp(seed=seed, dtype=images.dtype)
    return train(network, images, labels, epochs=epochs, seed=seed, progress=progress)


def vgg16_half(classes: int = 10, *, seed: int = 0) -> nn.Sequential:
    """An untrained VGG-16 with BatchNorm and half the channels: [n, 3, h, w] to logits [n, classes].

    The layers have the names of torchvision's ``vgg16_bn``, ``features.0`` to ``classifier.6``; the
    two hidden layers of the classifier have 256 neurons. It takes pictures from 32 pixels on.
    ``seed`` fixes the initial weights; the caller's random state stays as it is. A KlrpError says
    that ``classes`` is no integer >= 1.

    Example:
        >>> logits = klrp.models.vgg16_half()(torch.rand(2, 3, 224, 224))  # [2, 10]
    """
    if not isinstance(classes, int) or classes < 1:
        raise KlrpError.value(f"vgg16_half: classes is {classes!r}; give an integer >= 1.")
    layers: list[nn.Module] = []
    parts = nn.Sequential()
    with _seeded(seed):
        channels = 3
        for width in WIDTHS:
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        parts.features = nn.Sequential(*layers)
        parts.avgpool = nn.AdaptiveAvgPool2d(7)
        parts.flatten = nn.Flatten()
        parts.classifier = nn.Sequential(
            *(nn.Linear(channels * 7 * 7, 256), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(256, 256), nn.ReLU(), nn.Dropout()),
            nn.Linear(256, classes),
        )
    return parts


def imagenette_vgg(path: str | Path | None = None) -> nn.Sequential:
    """``vgg16_half`` trained on the ten classes ``IMAGENETTE``, in float32, frozen, in eval mode.

    It takes photographs [n, 3, 224, 224] after ``klrp.data.imagenet_normalise``, and has 86.3 % of
    Imagenette's 3925 validation photographs right. The file, of 14 MB,
    is the first ``vgg16_half_imagenette.safetensors`` in ``$KLRP_DATA/weights``, ``./assets``,
    ``./book/assets`` and the ``book/assets`` beside the package, or ``path``; whichever it is, its
    hash is checked. ``scripts/train_vgg.py`` made it. A KlrpError says that there is no such file,
    or that it is another one.

    Example:
        >>> x = klrp.data.imagenet_normalise(klrp.data.photo("china").image)
        >>> klrp.models.IMAGENETTE[klrp.models.imagenette_vgg()(x).argmax()]  # 'church'
    """
    network = vgg16_half(len(IMAGENETTE))
    network.load_state_dict(load_weights(_vgg_file() if path is None else path, VGG_SHA256))
    return network.eval().requires_grad_(False)


def _vgg_file() -> Path:
    given = os.environ.get("KLRP_DATA", "none")
    folders = [] if given in ("", "none") else [Path(given).expanduser() / "weights"]
    here, repository = Path.cwd(), Path(__file__).resolve().parents[1]
    folders += [here / "assets", here / "book" / "assets", repository / "book" / "assets"]
    for folder in folders:
        if (folder / VGG_FILE).is_file():
            return folder / VGG_FILE
    raise KlrpError.value(
        f"imagenette_vgg: there is no {VGG_FILE} in {', '.join(map(str, folders))}. Fetch it from "
        "book/assets of the repository, and give its path or put it into $KLRP_DATA/weights."
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's generator, and give it back as it was."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every GPU too, and nothing would restore those.
        torch.default_generator.manual_seed(seed)
        yield


@torch.no_grad()
def eval_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in eval mode that shares its parameters and buffers; ``model`` stays in its mode."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())}).eval()


@torch.no_grad()
def check_labelled(caller: str, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """A KlrpError in the name of ``caller`` unless the model makes logits for these images and labels [n]."""
    weight = next(model.parameters(), images)
    came, wanted = (f"{t.dtype} on {t.device}" for t in (images, weight))
    if not images.is_floating_point() or came != wanted:
        raise KlrpError.type(
            f"{caller}: images are {came}, and the weights {wanted}; bring the images there with "
            "images.to(dtype) or .to(device)."
        )
    if labels.dtype != torch.int64 or labels.device != images.device:
        raise KlrpError.type(
            f"{caller}: labels are {labels.dtype} on {labels.device}; expected torch.int64 on "
            f"{images.device}; call labels.to(images.device).long()."
        )
    if labels.ndim != 1 or images.shape[:1] != labels.shape or not len(labels):
        raise KlrpError.value(
            f"{caller}: images have shape {tuple(images.shape)}, labels {tuple(labels.shape)}; "
            "expected [n, ...] and [n] with the same n >= 1."
        )
    try:
        classes = eval_copy(model)(images[:1]).shape[1]
    except (RuntimeError, IndexError) as error:
        raise KlrpError.value(
            f"{caller}: the model makes no logits [n, c] of images of shape {tuple(images.shape)} "
            f"({error}); give the shape that its first layer takes."
        ) from None
    if labels.min() < 0 or labels.max() >= classes:
        raise KlrpError.value(
            f"{caller}: labels run from {labels.min()} to {labels.max()}; "
            f"expected 0..{classes - 1}, since the model has {classes} outputs."
        )
