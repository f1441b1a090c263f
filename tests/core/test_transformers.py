"""Attention, norms and softmax against two packages that explain transformers: LXT and autoLRP.

klrp explains the modules of torch and torchvision. Relevance starts from 1 at the logit and is compared for every pixel
and every token, in double precision. What had to be aligned, from the sources of both:

- LXT is of AttnLRP's authors (Achtibat et al. 2024); its functions are written out here by hand on the same weights,
  biases included. Like klrp's ``half`` and ``softmax_taylor`` it shares a product equally and takes a softmax's Jacobian
  without ε; relevance goes through GELU and tanh, and a norm passes it on or is centred with a constant deviation. It
  adds ε without the sign of z (``_stabilize``), which does not matter where ε is tiny, and to no constant factor.
- autoLRP walks back the graph of autograd. A bias and a mean take shares by magnitude there, which no rule of klrp does,
  and so does a residual add unless it is given a rule: no biases, no positions, no mean, and the ε-rule for adds. It
  starts from 1 at a scalar, and a sum over samples would share that: one sample at a time.
"""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import close, randomise, signed
from torch import nn

import klrp
from klrp import rules

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = 1e-12
NORMS = {"identity": rules.identity, "centre": rules.centre}


class Lxt:
    """The layers of torch in LXT's functions, with one ε and one rule for norms."""

    def __init__(self, eps, norm):
        self.eps, self.kind = eps, norm
        self.functions, self.rules = (pytest.importorskip(f"lxt.explicit.{name}") for name in ("functional", "rules"))

    def linear(self, x, weight, bias):
        return self.functions.linear_epsilon(x, weight, bias, self.eps)

    def norm(self, layer, x):
        if self.kind == "identity":
            return self.rules.identity(layer, x)
        return self.functions.layer_norm_grad_fn.apply(x, layer.weight, layer.bias, layer.eps, self.eps)

    def add(self, a, b):
        return self.functions.add2(a, b, False, self.eps)

    def attention(self, layer, x, mask=None):
        projected = self.linear(x, layer.in_proj_weight, layer.in_proj_bias)
        q, k, v = projected.unflatten(-1, (3, layer.num_heads, layer.head_dim)).permute(2, 0, 3, 1, 4)
        scores = self.functions.mul2(self.functions.matmul(q, k.mT, False, self.eps), 1 / math.sqrt(layer.head_dim))
        if mask is not None:
            hidden = mask.isneginf()  # add2 would make nan of it
            scores = self.add(scores, mask.masked_fill(hidden, 0)).masked_fill(hidden, -math.inf)
        weights = self.functions.softmax(scores, -1)
        heads = self.functions.matmul(weights, v, False, self.eps).transpose(1, 2).flatten(2)
        return self.linear(heads, layer.out_proj.weight, layer.out_proj.bias)

    def dense(self, lower, upper, x, activation=F.gelu):
        hidden = self.rules.identity(activation, self.linear(x, lower.weight, lower.bias))
        return self.linear(hidden, upper.weight, upper.bias)

    def vision_transformer(self, net, x):
        tokens = self.rules.epsilon_lrp(net.conv_proj, self.eps, x).flatten(2).transpose(1, 2)
        tokens = torch.cat([net.class_token.expand(len(x), -1, -1), tokens], 1)
        y = self.add(tokens, net.encoder.pos_embedding)
        for block in net.encoder.layers:
            y = self.add(self.attention(block.self_attention, self.norm(block.ln_1, y)), y)
            y = self.add(y, self.dense(block.mlp[0], block.mlp[3], self.norm(block.ln_2, y)))
        return self.linear(self.norm(net.encoder.ln, y)[:, 0], net.heads.head.weight, net.heads.head.bias)

    def encoder(self, net, vectors):
        y = self.norm(net.norm, self.add(vectors, net.positions.weight))
        for block in net.encoder.layers:
            y = self.norm(block.norm1, self.add(y, self.attention(block.self_attn, y, net.mask)))
            y = self.norm(block.norm2, self.add(y, self.dense(block.linear1, block.linear2, y)))
        first = self.linear(y[:, 0], net.pooler.weight, net.pooler.bias)
        return self.linear(self.rules.identity(torch.tanh, first), net.head.weight, net.head.bias)


class Bert(nn.Module):
    """Token and position embeddings, post-norm blocks, a tanh of the first token, a classifier."""

    mask = None

    def __init__(self, words=17, length=6, width=12, heads=3):
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        block = nn.TransformerEncoderLayer(width, heads, 20, 0.0, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, tokens):
        return self.behind(self.words(tokens))

    def behind(self, vectors):
        y = self.norm(vectors + self.positions.weight)
        return self.head(torch.tanh(self.pooler(self.encoder(y, mask=self.mask)[:, 0])))


def attn_lrp(eps, norm):
    by = rules.epsilon(eps)
    return klrp.Composite([
        ("mul*", rules.lrp0(), None),  # 1 / √d; to LXT a constant factor is no layer
        (nn.Softmax, rules.softmax_taylor(by=rules.lrp0()), None),
        (klrp.PRODUCT, rules.half(by=by), None),
        (klrp.NORM, NORMS[norm]() if norm == "identity" else NORMS[norm](by=by), None),
        (klrp.ANY, by, None),
    ])  # fmt: skip


def picture_case():
    net = torchvision.models.VisionTransformer(
        image_size=12, patch_size=4, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=20, num_classes=5
    )
    return randomise(net.double().eval(), seed=2), signed(2, 3, 12, 12)


def text_case(mask=None):
    net = randomise(Bert().double().eval(), seed=2)
    net.mask = mask
    return net, torch.randint(0, 17, (3, 6), generator=torch.Generator().manual_seed(1))


def by_lxt(run, leaf, target):
    leaf = leaf.detach().clone().requires_grad_()
    logits = run(leaf)
    return logits, torch.autograd.grad(logits, leaf, torch.zeros_like(logits).scatter_(1, target[:, None], 1))[0]


@pytest.fixture(params=[TINY, 0.01])
def eps(request, monkeypatch):
    """Tiny as LXT has it, or large with the sign of z."""
    if request.param != TINY:
        for name in ("functional", "rules"):
            monkeypatch.setattr(pytest.importorskip(f"lxt.explicit.{name}"), "_stabilize", with_sign)
    return request.param


def with_sign(z, epsilon=1e-6, inplace=False):
    return z + torch.where(z < 0, -epsilon, epsilon)


@pytest.mark.parametrize("norm", NORMS)
def test_every_pixel_of_a_vision_transformer_has_lxts_relevance(norm, eps):
    net, x = picture_case()
    found = klrp.explain(net, x, composite=attn_lrp(eps, norm))
    reference = Lxt(eps, norm)
    logits, expected = by_lxt(lambda leaf: reference.vision_transformer(net, leaf), x, found.target)
    close(found.logits, logits.detach(), 1e-12)
    close(found.input, expected, 1e-6)


HIDDEN = torch.full((6, 6), -math.inf, dtype=torch.float64).triu(1)  # from each token the later ones, but for the first
HIDDEN[0] = 0
MASKS = [
    pytest.param(None, id="no mask"),
    pytest.param(signed(6, 6, seed=5).clamp_max(0) * 4, id="damped"),
    pytest.param(HIDDEN, id="hidden"),
]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("norm", NORMS)
def test_every_token_of_a_text_encoder_has_lxts_relevance(norm, eps, mask):
    net, tokens = text_case(mask)
    found = klrp.explain(net, tokens, composite=attn_lrp(eps, norm))
    reference = Lxt(eps, norm)
    logits, expected = by_lxt(lambda leaf: reference.encoder(net, leaf), net.words(tokens), found.target)
    close(found.logits, logits.detach(), 1e-12)
    close(found["words"], expected, 1e-6)
    close(found.input, expected.sum(-1), 1e-6)


def share_by_epsilon(a, b, r, eps, *_, attribute="both"):
    """The ε-rule for autoLRP's adds."""
    z = a + b
    z = z + torch.where(z < 0, -eps, eps)
    return (r, None) if attribute == "lhs" else (None, r) if attribute == "rhs" else (a / z * r, b / z * r)


def by_autolrp(run, inputs, target, preset):
    autolrp = pytest.importorskip("autolrp")
    rule = {**autolrp.BASE, **getattr(autolrp, preset), "AddBackward": share_by_epsilon}
    found = []
    for x, label in zip(inputs, target.tolist(), strict=True):
        leaf = autolrp.tensor(x[None].clone())
        run(leaf)[0, label].lrp(config=autolrp.LRPConfig(rule=rule, eps=TINY))
        found.append(leaf.relevance.detach())
    return torch.cat(found)


@torch.no_grad()
def without_biases(net):
    """Nor positions; norms have factors of their own."""
    randomise(net, seed=2, bias=0)
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    (net.positions.weight if isinstance(net, Bert) else net.encoder.pos_embedding).zero_()
    return net


PRESETS = {
    "CPLRP": klrp.Composite([(klrp.ANY, rules.epsilon(TINY), None)]),  # what klrp does without a composite
    "ATTNLRP": attn_lrp(TINY, "identity"),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_pixel_of_a_vision_transformer_has_autolrps_relevance(preset):
    net, x = picture_case()
    found = klrp.explain(without_biases(net), x, composite=PRESETS[preset])
    close(found.input, by_autolrp(net, x, found.target, preset), 1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_token_of_a_text_encoder_has_autolrps_relevance(preset):
    net, tokens = text_case()
    found = klrp.explain(without_biases(net), tokens, composite=PRESETS[preset])
    expected = by_autolrp(net.behind, net.words(tokens).detach(), found.target, preset)
    close(found["words"], expected, 1e-6)
