"""Thresholds that a network chooses: against all Boolean maps one by one, and against the rows written by hand."""

import pytest
import torch
from torch import nn

import klrp
from klrp import conversions, rules, thresholds

pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4)).eval().requires_grad_(False)


def images(n=5):
    return torch.rand(n, 3, 11, 13, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rule", [rules.max_share(), rules.zplus()])
@pytest.mark.parametrize("part", [0.05, 0.1, 0.5])
def test_that_part_of_each_picture_is_relevant(part, rule):
    model, x = network().double(), images().double()
    composite = thresholds.even(model, x, part, rule=rule)
    lit = klrp.explain(model, x, semiring="boolean", composite=composite).input.any(1).flatten(1).sum(1)
    cut = composite.rows[0][2].form[1]
    wanted = int(part * 143 + 1e-9)
    for sample, (count, t) in enumerate(zip(lit.tolist(), cut.tolist(), strict=True)):
        one = x[sample : sample + 1]

        def at(t, one=one):  # the Boolean map at one threshold for all layers, by its own walk
            theta = conversions.threshold(t)
            return int(klrp.explain(model, one, semiring="boolean", rule=rule, theta=theta).input.any(1).sum())

        assert count == at(t) >= wanted
        assert at(t * (1 + 1e-9)) < wanted  # the largest θ that leaves so many


def test_counts_are_positive_on_the_same_places():
    model, x = network(), images()
    composite = thresholds.even(model, x)
    counts = klrp.explain(model, x, semiring="counting", composite=composite).input
    assert torch.equal(counts > 0, klrp.explain(model, x, semiring="boolean", composite=composite).input)


def test_what_no_path_reaches_stays_outside():
    model, x = network(), images(2)
    x[:, :, 3:] = 0  # a share of 0 is the zero of the fuzzy semiring
    lit = klrp.explain(model, x, semiring="boolean", composite=thresholds.even(model, x, 1.0)).input
    assert not lit[:, :, 3:].any() and lit[:, :, :3].any()


def test_the_gate_is_the_last_pooling_and_its_cut_a_multiple_of_the_mean_share():
    model, x = network(), images()
    composite = thresholds.gate(model, x, 3.0, rule=rules.zplus())
    assert [row[0] for row in composite.rows] == ["4", klrp.ANY]
    by_hand = klrp.Composite([("4", rules.zplus(), conversions.keep(3 / 99)), (klrp.ANY, rules.zplus(), None)])
    found, wanted = (klrp.explain(model, x, composite=c, start="logit").input for c in (composite, by_hand))
    assert torch.equal(found, wanted)
    pool = klrp.explain(model, x, composite=composite, start="logit")["3"]
    assert 0 < (pool != 0).float().mean() < 0.9  # some places are dropped, some stay


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 7, 3), nn.Linear(7, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).mean((2, 3)))


def test_a_mean_over_places_is_a_gate():
    torch.manual_seed(0)
    name, rule, theta = thresholds.gate(Mean().eval(), images(), cut="threshold").rows[0]
    assert name.startswith("mean") and rule is None and theta == conversions.threshold(2 / 99)


def test_errors_say_what_to_do():
    model, x = network(), images()
    for part in (0, 1.5, "all"):
        with pytest.raises(klrp.KlrpError, match="^even: part"):
            thresholds.even(model, x, part)
    with pytest.raises(klrp.KlrpError, match="^gate: cut"):
        thresholds.gate(model, x, cut="drop")
    with pytest.raises(klrp.KlrpError, match="no average pooling"):
        thresholds.gate(nn.Sequential(nn.Flatten(), nn.Linear(429, 4)), x)
