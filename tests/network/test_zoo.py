"""Published networks, as their packages write them: of torchvision, and of timm with its subclassed layers.

The parameters are random and the pictures small. In float64, LRP-0 from the logit is gradient x input, and the
captured network gives the logits of the network. That law holds where an activation of no input is zero and of a
positive multiple is the multiple, so that the networks with ReLU6 get a ReLU.
"""

import pytest
import torch
import torchvision
from networks import close, gradient_times_input, hollow, randomise
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import klrp
from klrp import rules

CLASSES = 13
LAYERS = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, _BatchNorm)


pytestmark = pytest.mark.usefixtures("one_thread")


# Each network with the size of its pictures.
TORCHVISION = {
    "alexnet": 64, "vgg11": 32, "vgg13_bn": 32, "resnet18": 33, "resnet34": 32, "resnet50": 32, "resnext50_32x4d": 32,
    "squeezenet1_0": 33, "squeezenet1_1": 32, "densenet121": 32, "inception_v3": 75, "googlenet": 33,
    "shufflenet_v2_x0_5": 33, "shufflenet_v2_x1_5": 32, "mobilenet_v2": 33, "mnasnet0_5": 32, "mnasnet1_0": 33,
    "regnet_x_400mf": 32,
}  # fmt: skip
# Layers of torch's own types.
TIMM = {
    "resnet10t": 32, "resnet18d": 33, "resnet26t": 32, "resnetblur18": 32, "resnetaa34d": 32, "selecsls42": 64,
    "dla46_c": 32, "dla46x_c": 32, "res2net50_48w_2s": 32, "legacy_xception": 33, "test_resnet": 33,
}  # fmt: skip
# With layers whose types are derived from torch's: a BatchNorm with its activation inside, a convolution with "same"
# padding or standardised weights, a pool that pads, a Linear that casts.
SUBCLASSED = {
    "darknet17": 32, "darknet21": 32, "darknet53": 32, "cspresnet50": 33, "cspresnext50": 32, "cspdarknet53": 32,
    "resnetv2_18": 33, "resnetv2_50d": 32, "nf_resnet26": 32, "nf_resnet50": 32, "regnetx_002": 33, "repvgg_a0": 32,
    "mobileone_s0": 32, "mobilenetv1_100": 32, "mobilenetv2_100": 33, "mobilenetv2_050": 32, "dpn68": 32,
    "densenet121": 33, "fbnetc_100": 32, "spnasnet_100": 32, "mnasnet_050": 33, "mobilenetv4_conv_small_035": 32,
    "mobilenet_edgetpu_v2_xs": 32, "efficientnet_es": 32, "tf_efficientnet_es": 33, "efficientnet_lite0": 32,
    "tf_efficientnet_lite0": 33, "tf_mobilenetv3_small_minimal_100": 33, "tf_mobilenetv3_large_minimal_100": 32,
    "inception_v3": 75, "vovnet39a": 32, "gernet_s": 32, "fasternet_s": 32, "nasnetalarge": 33,
}  # fmt: skip
SETTINGS = {"nasnetalarge": dict(stem_size=24, num_features=384)}


def of_torchvision(name):
    """The network, its ReLU6 replaced, and the first layer of a large classifier made small."""
    build, extra = getattr(torchvision.models, name), {}
    if name in ("googlenet", "inception_v3"):
        extra = dict(init_weights=False)
    if name.startswith("regnet"):
        return build(num_classes=CLASSES)  # reads its weights while it is built
    model = hollow(lambda: build(num_classes=CLASSES, **extra))
    if name.startswith(("vgg", "alexnet")):
        model.avgpool = nn.AdaptiveAvgPool2d(2)
        places = [i for i, m in enumerate(model.classifier) if isinstance(m, nn.Linear)]
        channels = {"v": 512, "a": 256}[name[0]]
        for i, (lower, upper) in zip(places, [(4 * channels, 64), (64, 32), (32, CLASSES)], strict=True):
            model.classifier[i] = nn.Linear(lower, upper)
    return without_ceilings(model)


def of_timm(name):
    timm = pytest.importorskip("timm")
    return without_ceilings(timm.create_model(name, pretrained=False, num_classes=CLASSES, **SETTINGS.get(name, {})))


def without_ceilings(model):
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, nn.ReLU(inplace=True))
    return model


def has_subclassed_layers(model):
    return any(isinstance(m, LAYERS) and not type(m).__module__.startswith("torch.nn.") for m in model.modules())


def assert_is_gradient_times_input(model, size):
    model = randomise(model, bias=0.05).double().eval()
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        logits = model(x)
    found = klrp.explain(model, x, rule=rules.lrp0(), start="logit", keep="input")
    close(found.logits, logits)
    close(found.input, gradient_times_input(model, x, logits.argmax(1)), 1e-8)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_are_gradient_times_input(name):
    assert_is_gradient_times_input(of_torchvision(name), TORCHVISION[name])


@pytest.mark.parametrize("name", TIMM)
def test_timms_networks_are_gradient_times_input(name):
    model = of_timm(name)
    assert not has_subclassed_layers(model)
    assert_is_gradient_times_input(model, TIMM[name])


@pytest.mark.parametrize("name", SUBCLASSED)
def test_timms_networks_with_layers_of_their_own_are_gradient_times_input(name):
    model = of_timm(name)
    assert has_subclassed_layers(model)
    assert_is_gradient_times_input(model, SUBCLASSED[name])


def test_the_zoo_is_large():
    assert len(TORCHVISION) + len(TIMM) + len(SUBCLASSED) >= 39 and len(SUBCLASSED) >= 20


# Networks with gates, norms or attention, for which gradient x input is no law: the account closes, and a sample alone
# is explained as in its batch. Those of torchvision stand in test_products.
CURVED = {
    "convit_tiny": 224, "cpubone_nano": 224, "deit_tiny_patch16_224": 224, "edgenext_xx_small": 64, "efficientformer_l1": 224,
    "efficientvit_b0": 64, "efficientvit_m0": 224, "eva02_tiny_patch14_224": 224, "fbnetv3_b": 64, "ghostnet_050": 64,
    "hardcorenas_a": 64, "lcnet_050": 64, "lowformer_b0": 64, "mobilenetv3_small_050": 64, "mobilevit_xxs": 64,
    "mobilevitv2_050": 64, "pit_ti_224": 224, "pvt_v2_b0": 64, "regnety_002": 64, "rexnet_100": 64, "seresnet18": 64,
    "skresnet18": 64, "tf_efficientnetv2_b0": 64, "tinynet_e": 64, "xcit_nano_12_p16_224": 224,
}  # fmt: skip


@pytest.mark.parametrize("name", CURVED)
def test_timms_networks_with_gates_norms_and_attention_close_their_account(name):
    model, size = of_timm(name), CURVED[name]
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1 and not p.any():  # a last layer that begins with zeros has nothing to explain
                p.normal_(0, p[0].numel() ** -0.5, generator=torch.Generator().manual_seed(0))
    model, x = model.double().eval(), torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    found = klrp.explain(model, x)
    with torch.no_grad():
        close(found.logits, model(x), 1e-9)
    assert found.conservation().worst()[1] < 1e-4 and found.input.any()
    alone = klrp.explain(model, x[:1], keep="input").input
    torch.testing.assert_close(alone, found.input[:1], rtol=1e-3, atol=1e-5 * float(found.input.abs().amax()))
