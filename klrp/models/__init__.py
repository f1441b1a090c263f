"""The networks of the book: small ones, trained in seconds and seeded, or shipped, and two for photographs."""

from klrp.data import IMAGENETTE
from klrp.models.digits import digit_lstm, digit_mlp, digit_vit, lstm, mlp, vit
from klrp.models.photographs import efficientnet_lite0, imagenette_vgg, vgg16_half
from klrp.models.training import accuracy, check_labelled, eval_copy, train

__all__ = [
    "IMAGENETTE", "accuracy", "check_labelled", "digit_lstm", "digit_mlp", "digit_vit", "efficientnet_lite0", "eval_copy",
    "imagenette_vgg", "lstm", "mlp", "train", "vgg16_half", "vit",
]  # fmt: skip
