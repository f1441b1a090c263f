"""Training, accuracy, and what both check."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from klrp.errors import KlrpError


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
    with seeded(seed), bar:
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
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
