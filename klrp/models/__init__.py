"""The networks of the book: small ones for digits and sentences, trained in seconds or shipped, two for photographs."""

from klrp.data import IMAGENETTE
from klrp.models.digits import digit_lstm, digit_mlp, digit_vit, lstm, mlp, vit
from klrp.models.photographs import efficientnet_lite0, imagenette_vgg, vgg16_half
from klrp.models.sentences import glove, review_words, train_words, words
from klrp.models.training import accuracy, check_labelled, eval_copy, train

__all__ = [
    "IMAGENETTE", "accuracy", "check_labelled", "digit_lstm", "digit_mlp", "digit_vit", "efficientnet_lite0", "eval_copy",
    "glove", "imagenette_vgg", "lstm", "mlp", "review_words", "train", "train_words", "vgg16_half", "vit", "words",
]  # fmt: skip
