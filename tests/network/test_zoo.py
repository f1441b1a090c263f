"""Networks of torchvision and timm: LRP-0 from the logit is gradient x input, and the logits are the network's.

They are of convolutions, BatchNorms, piecewise linear activations, pools, concatenations and sums alone, and half of
them of layers with a forward of their own, such as a norm with its activation inside.
"""

import pytest
import torch
import torchvision
from networks import close, gradient_times_input, hollow, randomise
from torch import nn

import klrp
from klrp import rules


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The size of the pictures, by name; smaller ones would leave some branches of a network with nothing, or unequal.
TORCHVISION = {
    "alexnet": 63, "densenet121": 33, "googlenet": 33, "inception_v3": 75, "mnasnet0_5": 33, "mobilenet_v2": 33,
    "regnet_x_400mf": 33, "resnet18": 33, "resnext50_32x4d": 33, "shufflenet_v2_x0_5": 33, "squeezenet1_1": 33,
}  # fmt: skip
TIMM_PLAIN = {
    "dla34": 32, "dla46x_c": 64, "dla60_res2net": 32, "res2net50_14w_8s": 33, "resnet10t": 33,
    "resnet18d": 33, "resnet26t": 33, "resnet50c": 33, "resnetaa50": 33, "selecsls42": 33,
}  # fmt: skip
# Of layers that inherit from torch's and have a forward of their own, such as BatchNormAct2d and Conv2dSame.
TIMM_SUBCLASSED = {
    "cspdarknet53": 33, "cspresnet50": 33, "cspresnext50": 33, "darknet17": 33, "darknet53": 33, "densenet121": 33,
    "densenetblur121d": 32, "dpn68": 33, "dpn68b": 33, "efficientnet_es": 33, "efficientnet_lite0": 33,
    "fbnetc_100": 33, "gernet_s": 33, "inception_v4": 75, "mnasnet_050": 33, "mobilenetv2_035": 33,
    "mobilenetv4_conv_small_050": 33, "mobileone_s1": 33, "regnetx_002": 33, "regnetx_004": 33, "repvgg_a0": 33,
    "resnetv2_18": 33, "resnetv2_18d": 33, "spnasnet_100": 33, "tf_efficientnet_lite0": 33,
    "tf_mobilenetv3_small_minimal_100": 33, "vovnet39a": 33, "xception41p": 33,
}  # fmt: skip
TIMM = TIMM_PLAIN | TIMM_SUBCLASSED
DRAWN = {"regnet_x_400mf", "densenetblur121d"}  # they compute with their tensors while they are built


def built(build, seed=0):
    """A random network in float64; where there are ReLU6, no value reaches the 6, where they stop being the identity."""
    model = randomise(build(), seed).double().eval()
    if any(isinstance(module, nn.ReLU6) for module in model.modules()):
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.mul_(0.3)
    return model


def of_torchvision(name):
    settings = dict(init_weights=False) if name in ("googlenet", "inception_v3") else {}

    def build():
        return getattr(torchvision.models, name)(num_classes=7, **settings)

    return built(build if name in DRAWN else lambda: hollow(build))


def of_timm(name):
    timm = pytest.importorskip("timm")

    def build():
        return timm.create_model(name, num_classes=7)

    return built(build if name in DRAWN else lambda: hollow(build))


def subclassed(model):
    """The layers whose class inherits from one of torch's layers and has a forward of its own."""
    own = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, own) and type(module).forward not in [kind.forward for kind in own]
    ]


def assert_law(model, size):
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        logits = model(x.clone())
    found = klrp.explain(model, x, rule=rules.lrp0(), start="logit", keep="input")
    close(found.logits, logits, 1e-12)
    close(found.input, gradient_times_input(model, x, found.target))


@pytest.mark.parametrize("name", TORCHVISION)
def test_lrp0_is_gradient_times_input_in_torchvisions(name):
    assert_law(of_torchvision(name), TORCHVISION[name])


@pytest.mark.parametrize("name", TIMM)
def test_lrp0_is_gradient_times_input_in_timms(name):
    model = of_timm(name)
    assert bool(subclassed(model)) == (name in TIMM_SUBCLASSED)
    assert_law(model, TIMM[name])


def test_there_are_39_networks_and_20_with_subclassed_layers():
    timm = pytest.importorskip("timm")
    assert set(TIMM) <= set(timm.list_models()) and set(TORCHVISION) <= set(torchvision.models.list_models())
    assert len(TORCHVISION) + len(TIMM) >= 39 and len(TIMM_SUBCLASSED) >= 20
