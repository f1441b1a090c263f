"""The example of chapter 14: Torch-Pruning takes its importance from klrp, and so prunes residual networks."""

import re
from pathlib import Path

import pytest
import torch
from networks import close, conv, graph
from run_notebooks import read
from torch import nn
from torchvision.models import resnet18

import klrp
from klrp import pruning

tp = pytest.importorskip("torch_pruning")
pytestmark = pytest.mark.usefixtures("one_thread")
CHAPTER = Path(__file__).resolve().parents[2] / "book" / "14_pruning.ipynb"


@pytest.fixture(scope="module")
def blocks():
    """What the chapter shows and does not execute: the class, and how it is used."""
    text = "\n".join(cell.source for cell in read(CHAPTER).cells if cell.cell_type == "markdown")
    found = [code for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "Relevance" in code]
    assert len(found) == 2
    return found


@pytest.fixture
def relevance(blocks):
    names = dict(torch=torch)
    exec(blocks[0], names)
    return names["Relevance"]


def forward(n, x):
    stream = n.a(x).relu()
    stream = (n.b(n.inside(stream).relu()) + stream).relu()
    return n.fc(stream.mean((2, 3)))


def residual():
    """Four channels of a stream, which two convolutions write, and a layer inside that is read once."""
    return graph(forward, a=conv(3, 4), inside=conv(4, 6), b=conv(6, 4), fc=nn.Linear(4, 3)).float()


IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
CONVOLUTIONS = ["a", "inside", "b"]


def scored(model, images=IMAGES, labels=LABELS):
    return pruning.relevance_scores(model, images, labels, CONVOLUTIONS, start="logit", progress=False)


def groups_of(model):
    graph = tp.DependencyGraph().build_dependency(model, IMAGES[:1])
    return list(graph.get_all_groups(ignored_layers=[model.fc], root_module_types=[nn.Conv2d]))


def test_the_importance_of_a_group_is_the_relevance_of_all_that_goes_with_it(relevance):
    model = residual()
    scores = scored(model)
    found = sorted((relevance(model, scores)(group) for group in groups_of(model)), key=len)
    assert [len(importance) for importance in found] == [4, 6]
    close(found[0], scores["a"] + scores["b"])
    close(found[1], scores["inside"])


def test_channels_that_nobody_reads_go_and_the_answers_stay(relevance):
    model = residual()
    with torch.no_grad():
        model.fc.weight[:, [0, 2]] = 0
        model.inside.weight[:, [0, 2]] = 0
        model.b.weight[:, [1, 3, 4]] = 0
    logits = model(IMAGES)
    importance = relevance(model, scored(model))
    pruner = tp.pruner.BasePruner(model, IMAGES[:1], importance, pruning_ratio=0.5, ignored_layers=[model.fc])
    pruner.step()
    assert (model.a.out_channels, model.inside.out_channels, model.fc.in_features) == (2, 3, 2)
    torch.testing.assert_close(model(IMAGES), logits)


def test_a_resnet_is_pruned_as_the_chapter_shows(blocks):
    torch.manual_seed(0)
    model = resnet18(num_classes=10).eval()
    before = sum(p.numel() for p in model.parameters())
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    names = dict(model=model, images=images, labels=labels, torch=torch, klrp=klrp, pruning=pruning)
    for block in blocks:
        exec(block, names)
    assert sum(p.numel() for p in model.parameters()) < 0.6 * before
    assert model(images).isfinite().all() and model(images).shape == (4, 10)
    assert model.layer1[0].conv2.out_channels == model.conv1.out_channels < 64  # they write the same stream
