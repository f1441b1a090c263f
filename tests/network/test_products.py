"""Products of two activations, normalisations, attention, recurrence, decoders: networks of them, whole.

The captured logits are the network's, the account of the reals closes at every step, and a sample alone is explained
as in its batch. Where gates, softmax and deviations are held constant and each activation f(x) is taken as x · f(x)/x,
LRP-0 from the logit is gradient x input; ``Frozen`` computes that gradient without any of klrp.
"""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import X, close, conv, graph, randomise, signed
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.models import convnext, swin_transformer

import klrp
from klrp import rules
from klrp.network.factors import Deferred
from klrp.network.tracing import trace
from klrp.network.vocabulary import name_of

pytestmark = pytest.mark.usefixtures("one_thread")

SEQUENCE = signed(3, 5, 7)
LRP0 = klrp.Composite([(klrp.NORM, rules.centre(rules.lrp0()), None), (klrp.ANY, rules.lrp0(), None)])


class Frozen(TorchFunctionMode):
    """Gates, softmax and deviations without a gradient, and activations as factors: what LRP-0 holds constant."""

    ACTIVATIONS = {"gelu", "silu", "hardswish", "tanh", "relu6"}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, name_of(func)
        if name == "layer_norm":
            x, shape, weight, bias, eps = (*args, None, None, 1e-5)[:5]
            weight, bias, eps = (kwargs.get(k, v) for k, v in (("weight", weight), ("bias", bias), ("eps", eps)))
            axes = tuple(range(-len(shape), 0))
            centred = x - x.mean(axes, keepdim=True)
            y = centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt().detach()
            return y * weight + bias if weight is not None else y
        x = args[0].clone() if name in self.ACTIVATIONS else None  # some work in place
        out = func(*args, **kwargs)
        if name in ("softmax", "sigmoid", "hardsigmoid", "linalg_vector_norm"):
            return out.detach()
        if name in self.ACTIVATIONS:
            return x * torch.where(x == 0, 0, out / torch.where(x == 0, 1, x)).detach()
        return out


def frozen_gradient_times_input(model, x, target):
    x = x.clone().requires_grad_(True)
    with Frozen():
        at_one_place(model(x)).gather(1, target[:, None]).sum().backward()
    return (x * x.grad).detach()


def attention(net, x):
    q, k, v = (net.qkv(x).unflatten(2, (3, 2, 4))).permute(2, 0, 3, 1, 4).unbind(0)
    y = (q @ k.transpose(-2, -1) / 2 + net.bias).softmax(-1) @ v
    return x + net.out(y.transpose(1, 2).flatten(2))


def vision_transformer(net, x):
    tokens = net.patches(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([net.cls.expand(len(x), 1, 8), tokens], 1) + net.positions
    h = attention(net, net.norm1(tokens))
    h = h + net.mlp2(F.gelu(net.mlp1(net.norm2(h))))
    return net.head(h[:, 0])


class WithParameters(nn.Module):
    """A network whose forward is a function, with parameters that stand alone."""

    def __init__(self, forward, parameters, **modules):
        super().__init__()
        self.function = forward
        for name, shape in parameters.items():
            setattr(self, name, nn.Parameter(signed(*shape, seed=len(name)) / 3))
        for name, module in modules.items():
            setattr(self, name, module)
        randomise(self.double().eval())

    def forward(self, x):
        return self.function(self, x)


def _swin(block, merge):
    return torchvision.models.SwinTransformer(
        [4, 4],
        12,
        [2, 2],
        [2, 3],
        [3, 3],
        num_classes=5,
        block=block,
        downsample_layer=merge,
        stochastic_depth_prob=0.0,
    )


def unet(net, x):
    """Two levels: down by a max-pool and a stride, up by bilinear resizing and a transposed convolution, joined."""
    high = F.gelu(net.in1(x))
    middle = F.silu(net.in2(net.pool(high)))
    low = F.relu(net.bottom(net.down(middle)))
    middle = F.relu(net.norm(net.out2(torch.cat([net.upsample(low), middle], 1))))
    return net.head(F.relu(net.out1(torch.cat([net.transposed(middle), high], 1))))


def at_one_place(y):
    """Logits [N, C]: of a segmentation those of one pixel, near a corner so that not all of the input is seen."""
    return y[:, :, 5, 9] if y.ndim == 4 else y


def lstm_by_hand(net, x):
    h = c = x.new_zeros(len(x), 5)
    for t in range(x.shape[1]):
        i, f, g, o = (net.ih(x[:, t]) + net.hh(h)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return net.fc(h)


PICTURE = signed(2, 3, 32, 32)
FROZEN = {
    "a vision transformer": lambda: (
        WithParameters(
            vision_transformer, {"cls": (1, 1, 8), "positions": (1, 13, 8), "bias": (2, 13, 13)},
            patches=nn.Conv2d(3, 8, 3, 3), qkv=nn.Linear(8, 24), out=nn.Linear(8, 8), norm1=nn.LayerNorm(8),
            norm2=nn.LayerNorm(8), mlp1=nn.Linear(8, 11), mlp2=nn.Linear(11, 8), head=nn.Linear(8, 5),
        ),
        signed(2, 3, 9, 12),
    ),
    "Swin": lambda: (_swin(None, swin_transformer.PatchMerging), PICTURE),
    "Swin v2": lambda: (_swin(swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2), PICTURE),
    "ConvNeXt": lambda: (
        torchvision.models.ConvNeXt([convnext.CNBlockConfig(8, 12, 2), convnext.CNBlockConfig(12, None, 1)], num_classes=5),
        PICTURE,
    ),
    "EfficientNet": lambda: (torchvision.models.efficientnet_b0(num_classes=5), PICTURE),
    "MobileNetV3": lambda: (torchvision.models.mobilenet_v3_small(num_classes=5), PICTURE),
    "RegNet-Y": lambda: (torchvision.models.regnet_y_400mf(num_classes=5), PICTURE),
    "a U-Net": lambda: (
        WithParameters(
            unet, {}, in1=conv(3, 4), pool=nn.MaxPool2d(2), in2=conv(4, 6), down=nn.Conv2d(6, 6, 2, 2), bottom=conv(6, 8),
            upsample=nn.Upsample(scale_factor=2, mode="bilinear"), out2=conv(14, 6), norm=nn.BatchNorm2d(6),
            transposed=nn.ConvTranspose2d(6, 5, 2, 2), out1=conv(9, 4), head=nn.Conv2d(4, 5, 1),
        ),
        signed(2, 3, 24, 32),
    ),
    "an LSTM by hand": lambda: (
        WithParameters(lstm_by_hand, {}, ih=nn.Linear(7, 20), hh=nn.Linear(5, 20), fc=nn.Linear(5, 3)), SEQUENCE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FROZEN)
def test_with_gates_and_deviations_held_lrp0_is_gradient_times_input(case):
    torch.manual_seed(0)
    model, x = FROZEN[case]()
    if not isinstance(model, WithParameters):
        randomise(model.double().eval())
    found = klrp.explain(model, x, composite=LRP0, start="logit", output=at_one_place)
    with torch.no_grad():
        close(found.logits, at_one_place(model(x)), 1e-9)
    expected = frozen_gradient_times_input(model, x, found.target)
    assert expected.any()
    close(found.input, expected, 1e-9)


def over_time(net, x):
    state = None
    for t in range(x.shape[1]):
        state = net.cell(x[:, t], state)
    return net.fc(state[0] if isinstance(state, tuple) else state)


def recurrent(kind, **settings):
    width = settings.get("proj_size", 11) * (1 + settings.get("bidirectional", False))
    return graph(
        lambda n, x: n.fc(n.r(x)[0][:, -1]), r=getattr(nn, kind)(7, 11, batch_first=True, **settings),
        fc=nn.Linear(width, 3),
    )  # fmt: skip


def resized(**settings):
    width = F.interpolate(X, **settings)[0].numel()
    return graph(lambda n, x: n.fc(F.interpolate(x, **settings).flatten(1)), fc=nn.Linear(width, 3))


def encoder(forward=lambda n, x: n.fc(n.e(n.i(x)).mean(1)), **settings):
    layer = nn.TransformerEncoderLayer(12, 3, 17, batch_first=True, **settings)
    return graph(
        forward, i=nn.Linear(7, 12), e=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), fc=nn.Linear(12, 3)
    )


def heads(forward, **settings):
    return graph(forward, i=nn.Linear(7, 12), a=nn.MultiheadAttention(12, 3, **settings), fc=nn.Linear(12, 3))


def time_first(n, x):
    y = n.i(x).transpose(0, 1)
    return n.fc(n.a(y, y, y)[0].transpose(0, 1).mean(1))


CAUSAL = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
FC = nn.Linear(7, 3)
# Networks on sequences [3, 5, 7].
SEQUENCES = {
    **{f"{kind}, {layers} layers, both directions: {both}": lambda kind=kind, layers=layers, both=both: recurrent(
        kind, num_layers=layers, bidirectional=both
    ) for kind in ("LSTM", "GRU", "RNN") for layers, both in ((1, False), (2, True))},
    "RNN with ReLU": lambda: recurrent("RNN", nonlinearity="relu"),
    "LSTM without biases, projected": lambda: recurrent("LSTM", bias=False, proj_size=5),
    "LSTM, time first": lambda: graph(lambda n, x: n.fc(n.r(x.transpose(0, 1))[0][-1]), r=nn.LSTM(7, 11), fc=nn.Linear(11, 3)),
    "LSTM, its last state": lambda: graph(lambda n, x: n.fc(n.r(x)[1][0][-1]), r=nn.LSTM(7, 11, batch_first=True), fc=nn.Linear(11, 3)),
    **{kind: lambda kind=kind: graph(over_time, cell=getattr(nn, kind)(7, 11), fc=nn.Linear(11, 3)) for kind in ("LSTMCell", "GRUCell", "RNNCell")},
    "encoder": encoder, "encoder, norms first": lambda: encoder(norm_first=True, activation="gelu"),
    "encoder with a mask": lambda: encoder(lambda n, x: n.fc(n.e(n.i(x), mask=CAUSAL, is_causal=True).mean(1))),
    "encoder with padding": lambda: encoder(lambda n, x: n.fc(n.e(n.i(x), src_key_padding_mask=(torch.arange(5) > 3).expand(len(x), 5)).mean(1))),
    "attention, time first": lambda: heads(time_first, add_bias_kv=True, add_zero_attn=True),
    "attention with its weights": lambda: heads(lambda n, x: n.fc(n.a(n.i(x), n.i(x), n.i(x))[1] @ n.i(x)).mean(1), batch_first=True),
    "attention of other widths": lambda: heads(lambda n, x: n.fc(n.a(n.i(x), x, x)[0].mean(1)), batch_first=True, kdim=7, vdim=7),
    "scaled_dot_product_attention": lambda: graph(lambda n, x: n.fc(F.scaled_dot_product_attention(x, x, x, is_causal=True).mean(1)), fc=FC),
    "a Boolean mask": lambda: graph(lambda n, x: n.fc(F.scaled_dot_product_attention(x, x, x, torch.ones(5, 5).tril().bool()).mean(1)), fc=FC),
    "grouped queries": lambda: graph(
        lambda n, x: n.fc(F.scaled_dot_product_attention(x[:, None].expand(-1, 4, -1, -1), x[:, None].expand(-1, 2, -1, -1), x[:, None].expand(-1, 2, -1, -1), enable_gqa=True).mean((1, 2))), fc=FC),
    "einsum": lambda: graph(lambda n, x: n.fc(torch.einsum("nij,nkj->nik", x, x).softmax(2) @ x).mean(1), fc=FC),
    "einsum with sums and a constant": lambda: graph(lambda n, x: torch.einsum("nij,kj->nk", x, n.fc.weight), fc=FC),
    "einsum of one": lambda: graph(lambda n, x: n.fc(torch.einsum("nij->nj", x)), fc=FC),
    "addmm and baddbmm": lambda: graph(lambda n, x: torch.addmm(n.fc.bias, torch.baddbmm(x[:, :, :5], x, x.mT, beta=2, alpha=0.5).mean(1), n.fc.weight[:, :5].T), fc=FC),
    "addcmul": lambda: graph(lambda n, x: n.fc(torch.addcmul(x, x.sigmoid(), x, value=2).mean(1)), fc=FC),
    "learned queries": lambda: graph(lambda n, x: n.fc((n.q.weight.expand(len(x), -1, -1) @ x.mT).softmax(2) @ x).mean(1), q=nn.Linear(7, 4), fc=FC),
    "constant matrices": lambda: graph(lambda n, x: (n.m.weight @ x).mean(1) @ n.fc.weight.T, m=nn.Linear(5, 4), fc=FC),
    "normalize": lambda: graph(lambda n, x: n.fc(F.normalize(x, dim=2).mean(1)), fc=FC),
    "RMSNorm": lambda: graph(lambda n, x: n.fc(n.r(x).mean(1)), r=nn.RMSNorm(7), fc=FC),
    "RMSNorm by hand": lambda: graph(lambda n, x: n.fc((x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).mean(1)), fc=FC),
    "time folded into the samples": lambda: graph(lambda n, x: n.fc(x.flatten(0, 1)).relu().unflatten(0, (-1, 5)).mean(1), fc=FC),
    "a gated linear unit": lambda: graph(lambda n, x: n.fc(x.mean(1)) * torch.sigmoid(n.g(x.mean(1))), fc=FC, g=FC),
    "two factors, no gate": lambda: graph(lambda n, x: n.fc(x.mean(1)) * n.g(x.mean(1)), fc=FC, g=FC),
}  # fmt: skip
# Networks on X [2, 3, 5, 7].
PICTURES = {
    **{f"interpolate {mode} {how}": lambda mode=mode, how=how: resized(mode=mode, **how)
       for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
       for how in ({"size": (11, 13)}, {"scale_factor": 2}, {"scale_factor": (1.5, 0.7)})},
    "interpolate, corners aligned": lambda: resized(mode="bilinear", scale_factor=2, align_corners=True),
    "interpolate, antialiased": lambda: resized(mode="bicubic", size=(3, 4), antialias=True),
    "Upsample": lambda: graph(lambda n, x: n.fc(n.u(x).mean((2, 3))), u=nn.Upsample(scale_factor=3), fc=nn.Linear(3, 4)),
    "transposed convolution": lambda: graph(
        lambda n, x: n.fc(n.c(x).relu().mean((2, 3))), c=nn.ConvTranspose2d(3, 6, (3, 2), 2, 1, (1, 0), groups=3, dilation=(1, 2)), fc=nn.Linear(6, 4)),
    "GroupNorm and InstanceNorm": lambda: graph(
        lambda n, x: n.fc(n.i(n.g(n.c(x))).relu().mean((2, 3))), c=nn.Conv2d(3, 6, 3), g=nn.GroupNorm(3, 6), i=nn.InstanceNorm2d(6, affine=True), fc=nn.Linear(6, 4)),
    "InstanceNorm with running statistics": lambda: graph(lambda n, x: n.fc(n.i(x).relu().mean((2, 3))), i=nn.InstanceNorm2d(3, track_running_stats=True), fc=nn.Linear(3, 4)),
    "local response norm": lambda: graph(lambda n, x: n.fc(n.l(x).relu().mean((2, 3))), l=nn.LocalResponseNorm(2), fc=nn.Linear(3, 4)),
    "squeeze and excitation": lambda: graph(lambda n, x: n.fc((x * torch.sigmoid(n.s(x.mean((2, 3)))).view(-1, 3, 1, 1)).mean((2, 3))), s=nn.Linear(3, 3), fc=nn.Linear(3, 4)),
    "the largest": lambda: graph(lambda n, x: n.fc(x.amax((2, 3)) + x.max(2)[0].min(2).values), fc=nn.Linear(3, 4)),
}  # fmt: skip
NETWORKS = {name: (make, SEQUENCE) for name, make in SEQUENCES.items()} | {
    name: (make, X) for name, make in PICTURES.items()
}


@pytest.mark.parametrize("case", NETWORKS)
def test_it_is_explained_as_what_it_computes(case):
    make, x = NETWORKS[case]
    model = make()
    found = klrp.explain(model, x)
    with torch.no_grad():
        close(found.logits, model(x), 1e-12)
    assert found.conservation().worst()[1] < 1e-6 and found.input.any()
    alone = klrp.explain(model, x[:1]).input
    close(alone, found.input[:1], 1e-9)
    for batch in klrp.explain_many(model, [x, x]):
        close(batch.input, found.input, 1e-12)


@pytest.mark.parametrize("semiring", ["boolean", "counting", "viterbi"])
@pytest.mark.parametrize("case", ["LSTM, 1 layers, both directions: False", "encoder", "GroupNorm and InstanceNorm"])
def test_the_kernels_agree_on_whole_networks(case, semiring):
    make, x = NETWORKS[case]
    model = make()
    found = klrp.explain(model, x, semiring=semiring).input
    with klrp.kernels.only("blocked"):
        slow = klrp.explain(model, x, semiring=semiring).input
    torch.testing.assert_close(found, slow)


def test_attention_of_torch_is_that_of_the_formula():
    model = heads(lambda n, x: n.fc(n.a(n.i(x), n.i(x), n.i(x))[0].mean(1)), batch_first=True)

    def by_hand(n, x):
        y = n.i(x)
        w, b = n.a.in_proj_weight.chunk(3), n.a.in_proj_bias.chunk(3)
        q, k, v = (F.linear(y, *pair).unflatten(2, (3, 4)).transpose(1, 2) for pair in zip(w, b, strict=True))
        y = (q @ k.mT / math.sqrt(4)).softmax(3) @ v
        return n.fc(n.a.out_proj(y.transpose(1, 2).flatten(2)).mean(1))

    same = graph(by_hand, i=model.i, a=model.a, fc=model.fc)
    same.load_state_dict(model.state_dict())
    for semiring in ("real", "boolean", "counting", "viterbi"):
        close(klrp.explain(model, SEQUENCE, semiring=semiring).input.double(),
              klrp.explain(same, SEQUENCE, semiring=semiring).input.double())  # fmt: skip


# --- the rules ---------------------------------------------------------------------------------------------


def gated():
    return graph(
        lambda n, x: n.out(n.a(x) * torch.sigmoid(n.b(x))), a=nn.Linear(7, 5), b=nn.Linear(7, 5), out=nn.Linear(5, 3)
    )


def shared(rule, semiring="real", make=gated):
    rows = [] if rule is None else [(klrp.PRODUCT, rule, None)]
    found = klrp.explain(make(), signed(2, 7), semiring=semiring, composite=klrp.Composite(rows))
    return found["mul"], found["a"], found["b"]


@pytest.mark.parametrize("rule", [None, rules.hold(), rules.hold("auto"), rules.hold("right")])
def test_the_signal_takes_all_and_the_gate_nothing(rule):
    product, a, b = shared(rule)
    close(a, product, 1e-6)
    assert not b.any()


def test_a_rule_holds_the_other_factor_or_none():
    product, a, b = shared(rules.hold("left"))
    close(b, product, 1e-6)
    assert not a.any()
    product, a, b = shared(rules.half())
    close(a, product / 2, 1e-6)
    close(b, product / 2, 1e-6)


@pytest.mark.parametrize("semiring", ["viterbi", "counting", "boolean"])
def test_half_lets_a_path_through_each_factor(semiring):
    product, a, b = shared(rules.half(), semiring)
    assert torch.equal(a, product) and torch.equal(b, product)


def scaled(scale, factor=lambda y: y):
    model = graph(
        lambda n, x: n.out(scale(n.b(x)) * factor(n.a(x))), a=nn.Linear(7, 5), b=nn.Linear(7, 5), out=nn.Linear(5, 3)
    )
    found = klrp.explain(model, signed(2, 7))
    return found["a"], found["b"]


def rms(y):
    return y / torch.sqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)


GATES = {
    "sigmoid": torch.sigmoid, "hardsigmoid and more": lambda y: F.hardsigmoid(y) + 1, "twice a softmax": lambda y: 2 * y.softmax(1),
    "exp": torch.exp, "rsqrt": lambda y: torch.rsqrt(y * y + 1), "1 / y": lambda y: 1 / (y.abs() + 1), "dropout": lambda y: F.dropout(y.sigmoid()),
    "hardsigmoid by hand": lambda y: F.relu6(y + 3) / 6, "clamped": lambda y: y.sigmoid().clamp(0.1, 0.9), "two": lambda y: y.sigmoid() * (-y).sigmoid(),
    "summed": lambda y: y.softmax(1)[:, :3].sum(1, keepdim=True), "joined": lambda y: torch.cat([y[:, :2].sigmoid(), y[:, 2:].sigmoid()], 1),
    "softmax by hand": lambda y: y.exp() / y.exp().sum(1, keepdim=True), "a norm": lambda y: y.norm(dim=1, keepdim=True) / 3,
}  # fmt: skip
SIGNALS = {
    "itself": lambda y: y, "tanh": torch.tanh, "normalised": lambda y: F.normalize(y, dim=1), "RMSNorm by hand": rms, "silu": F.silu,
    "softsign by hand": lambda y: y / (1 + y.abs()), "sqrt": lambda y: y.abs().sqrt(), "LayerNorm": lambda y: F.layer_norm(y, (5,)),
}  # fmt: skip


@pytest.mark.parametrize("scale", GATES)
def test_what_comes_out_of_a_gate_is_held(scale):
    signal, gate = scaled(GATES[scale])
    assert not gate.any() and signal.any()


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_signal_is_no_gate_whatever_scaled_it(signal):
    taken, gate = scaled(torch.sigmoid, SIGNALS[signal])
    assert not gate.any() and taken.any()
    for one, other in (scaled(SIGNALS[signal]), scaled(lambda y: y + 1, SIGNALS[signal])):
        assert one.any() and other.any()


def test_attention_goes_before_gates():
    model = graph(
        lambda n, x: n.fc(n.a(x).softmax(2) @ n.b(x).sigmoid()).mean(1), a=nn.Linear(7, 5), b=nn.Linear(7, 7), fc=FC
    )
    found = klrp.explain(model, SEQUENCE)
    assert found["b"].any() and not found["a"].any()


def test_a_gated_linear_unit_of_torch_is_that_of_the_formula():
    model = graph(lambda n, x: n.out(F.glu(n.a(x))), a=nn.Linear(7, 10), out=nn.Linear(5, 3))
    same = graph(lambda n, x: n.out((y := n.a(x))[:, :5] * y[:, 5:].sigmoid()), a=nn.Linear(7, 10), out=nn.Linear(5, 3))
    close(klrp.explain(model, SEQUENCE[:, 0]).input, klrp.explain(same, SEQUENCE[:, 0]).input)
    assert not klrp.explain(model, SEQUENCE[:, 0])["a"][:, 5:].any()


def test_one_sample_of_folded_windows_is_described_like_two():
    model, x = FROZEN["Swin"]()
    model = model.double().eval()
    for settings in ({}, {"semiring": "boolean"}):
        assert klrp.kernel_for(model, x[:1], **settings) == klrp.kernel_for(model, x, **settings)
    assert len(LRP0.describe(model, x[:1])) == len(LRP0.describe(model, x))


def test_a_square_is_one_input_and_a_divisor_is_held():
    model = graph(
        lambda n, x: n.out(n.a(x) / (n.b(x).exp() + 1)), a=nn.Linear(7, 5), b=nn.Linear(7, 5), out=nn.Linear(5, 3)
    )
    for rule in (None, rules.half(), rules.hold("left")):
        rows = [] if rule is None else [(klrp.PRODUCT, rule, None)]
        found = klrp.explain(model, signed(2, 7), composite=klrp.Composite(rows))
        close(found["a"], found["div"], 1e-6)
        assert not found["b"].any()
    square = graph(lambda n, x: n.out(n.a(x) * n.a(x)), a=nn.Linear(7, 5), out=nn.Linear(5, 3))
    twice = graph(lambda n, x: n.out((y := n.a(x)) * y), a=nn.Linear(7, 5), out=nn.Linear(5, 3))
    assert klrp.explain(square, signed(2, 7)).conservation().worst()[1] < 1e-9
    found = klrp.explain(twice, signed(2, 7))
    assert torch.equal(found["a"], found["mul"])


def normed():
    return graph(lambda n, x: n.out(n.norm(n.a(x))), a=nn.Linear(7, 5), norm=nn.LayerNorm(5), out=nn.Linear(5, 3))


def test_a_norm_passes_relevance_or_shares_it_as_a_linear_map():
    model, x = normed(), signed(2, 7)
    for rows in ([], [(klrp.NORM, rules.identity(), None)], [(nn.LayerNorm, rules.identity(), None)]):
        found = klrp.explain(model, x, composite=klrp.Composite(rows))
        assert torch.equal(found["a"], found["norm"])
    found = klrp.explain(model, x, composite=klrp.Composite([(klrp.NORM, rules.centre(), None)]))
    a = model.a(x).detach()
    deviation = (a.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    weight = model.norm.weight.detach() * (torch.eye(5) - 1 / 5) / deviation[..., None]  # [N, j, k]
    z = model.norm(a).detach()
    expected = torch.einsum("nj,njk,nk->nj", a, weight, found["norm"] / z)
    close(found["a"], expected, 1e-5)


def test_attention_is_selected_by_its_softmax():
    model, x = FROZEN["a vision transformer"]()
    table = klrp.Composite([(klrp.ATTENTION, rules.half(), None)]).describe(model, x)
    held = {row[0]: row[2] for row in table if row[0].startswith("matmul")}
    assert [rule.startswith("half()") for rule in held.values()] == [False, True]
    with pytest.raises(klrp.KlrpError, match=r'^hold: got .middle.; expected "left", "right" or "auto"'):
        rules.hold("middle")


def test_formulas_go_through_gates_and_norms():
    model, x = normed(), signed(1, 7)
    found = klrp.symbolic.explain(
        model,
        x,
        zero=0.0,
        one=1.0,
        theta=lambda d, edge: d,
        composite=klrp.Composite([(klrp.NORM, rules.centre(), None)]),
    )
    expected = klrp.explain(model, x, composite=klrp.Composite([(klrp.NORM, rules.centre(), None)]))
    close(torch.tensor(found.input.astype(float)), expected.input[0])
    gate = klrp.symbolic.explain(gated(), x, zero=0.0, one=1.0, theta=lambda d, edge: d)
    close(torch.tensor(gate.input.astype(float)), klrp.explain(gated(), x).input[0])
    assert not gate["b"].any()


# --- names, unpooling, nearest neighbours ---------------------------------------------------------------------------


def test_hidden_states_are_named_by_time():
    model = recurrent("LSTM", num_layers=2, bidirectional=True)
    found = klrp.explain(model, SEQUENCE, semiring="viterbi")
    times = {f"r.{layer}{way}@t{t}" for layer in range(2) for way in ("", ".reverse") for t in range(5)}
    assert times <= set(found) and found["r.1@t4"].shape == (3, 11)
    with torch.no_grad():
        states = {name: trace(model, SEQUENCE).value(name) for name in times}
        outputs, _ = model.r(SEQUENCE)
    for t in range(5):
        close(torch.cat([states[f"r.1@t{t}"], states[f"r.1.reverse@t{t}"]], 1), outputs[:, t].detach(), 1e-12)
    over = klrp.explain(graph(over_time, cell=nn.GRUCell(7, 11), fc=nn.Linear(11, 3)), SEQUENCE)
    assert {f"cell@t{t}" for t in range(5)} <= set(over)
    projected = klrp.explain(recurrent("LSTM", bias=False, proj_size=5), SEQUENCE)
    assert projected["r.0@t3"].shape == (3, 5)
    # A hidden state passes on what later steps read of it, and starting there continues the explanation.
    for start in ("r.0@t1", "r.0@t4"):
        assert klrp.explain(recurrent("GRU"), SEQUENCE, start={start: torch.ones(3, 11).double()}).input.any()


def test_a_recurrent_network_that_is_called_twice_has_names_of_its_own():
    model = graph(lambda n, x: n.fc(n.r(n.r(x)[0])[0][:, -1]), r=nn.RNN(7, 7, batch_first=True), fc=nn.Linear(7, 3))
    found = klrp.explain(model, SEQUENCE)
    assert {"r.0@t0", "r.0@t0@2", "r.0@t4@2"} <= set(found)


def pooled(**settings):
    return graph(
        lambda n, x: n.fc(n.d(unpooled(n, x, **settings)).relu().mean((2, 3))), c=nn.Conv2d(3, 4, 3, padding=1),
        m=nn.Conv2d(4, 4, 1), d=nn.Conv2d(4, 5, 3, padding=1), fc=nn.Linear(5, 3),
    )  # fmt: skip


def unpooled(n, x, **settings):
    h = n.c(x).relu()
    p, indices = F.max_pool2d(h, return_indices=True, **settings)
    return F.max_unpool2d(n.m(p).relu(), indices, output_size=h.shape, **settings)


@pytest.mark.parametrize("settings", [dict(kernel_size=2), dict(kernel_size=(2, 3), stride=(2, 3), padding=(1, 0))])
def test_unpooling_hands_relevance_to_what_was_pooled(settings):
    model = pooled(**settings)
    found = klrp.explain(model, X)
    with torch.no_grad():
        close(found.logits, model(X), 1e-12)
    account = found.conservation()
    assert account.worst()[1] < 1e-6 and not found["max_pool2d.indices"].any()
    _, indices = F.max_pool2d(trace(model, X).value("relu"), return_indices=True, **settings)
    at = found["max_unpool2d"].flatten(2).gather(2, indices.flatten(2)).reshape(indices.shape)
    close(found["relu_1"], at)
    for layer in (model.c, model.m, model.d, model.fc):
        torch.nn.init.zeros_(layer.bias)
    target = model(X).argmax(1)
    free = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(free).gather(1, target[:, None]).sum(), free)
    classical = klrp.explain(model, X, target, rule=rules.lrp0(), start="logit")
    close(classical.input, gradient * X, 1e-9)
    for semiring in ("boolean", "counting", "viterbi"):
        assert klrp.explain(model, X, semiring=semiring)["relu_1"].any()
    symbols = klrp.symbolic.explain(
        model, X[:1], int(target[0]), theta=lambda d, edge: d, zero=0.0, one=1.0, rule=rules.epsilon(1e-9)
    )
    close(torch.tensor(symbols.input.astype(float)), klrp.explain(model, X[:1], int(target[0])).input[0], 1e-9)


def test_indices_of_a_pool_that_are_read_otherwise_are_refused():
    model = graph(
        lambda n, x: n.fc(F.max_pool2d(x, 2, return_indices=True)[1].double().mean((2, 3))), fc=nn.Linear(3, 4)
    )
    with pytest.raises(klrp.KlrpError, match="indices"):
        klrp.explain(model, X)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_neighbours_only_move_relevance_whatever_the_rule(mode):
    model = resized(mode=mode, size=(11, 13))
    whole = klrp.explain(model, X, rule=rules.flat())
    assert "matmul" not in set(whole) and set(klrp.kernel_for(model, X).values()) == {"gradient", "move"}
    places = [
        F.interpolate(torch.arange(n, dtype=torch.float64)[None, None], size=wanted, mode=mode)[0, 0].long()
        for n, wanted in ((5, 11), (7, 13))
    ]
    expected = torch.zeros_like(X)
    above = whole["flatten"].reshape(2, 3, 11, 13)
    for r, row in enumerate(places[0].tolist()):
        for c, column in enumerate(places[1].tolist()):
            expected[:, :, row, column] += above[:, :, r, c]
    close(whole.input, expected)


def test_amounts_go_through_a_centred_norm_without_its_pairs(monkeypatch):
    def refuse(self):
        raise AssertionError("the J² weights were made")

    monkeypatch.setattr(Deferred, "_made", property(refuse))
    model, x = nn.Sequential(nn.Linear(7, 768), nn.LayerNorm(768), nn.Linear(768, 3)), signed(2, 13, 7).float()
    model = nn.Sequential(model, nn.Flatten(), nn.Linear(39, 3))
    for by in (rules.lrp0(), rules.epsilon(), rules.gamma(0.25), rules.zplus(), rules.alpha_beta(2, 1), rules.flat()):
        klrp.explain(model, x, composite=klrp.Composite([(klrp.NORM, rules.centre(by), None)])).conservation()
    with pytest.raises(AssertionError, match="J²"):
        klrp.explain(model, x, semiring="viterbi", composite=klrp.Composite([(klrp.NORM, rules.centre(), None)]))
