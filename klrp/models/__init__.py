"""The networks of the book: a toy, small ones for digits and sentences, shipped or trained in seconds, two for photographs."""

from klrp.data import IMAGENETTE
from klrp.models.digits import digit_lstm, digit_mlp, digit_vit, lstm, mlp, vit
from klrp.models.photographs import efficientnet_lite0, imagenette_vgg, squeezenet, vgg16_half
from klrp.models.sentences import glove, review_words, train_words, words
from klrp.models.toy import toy
from klrp.models.training import accuracy, check_labelled, eval_copy, train

__all__ = [
    "IMAGENETTE", "accuracy", "check_labelled", "digit_lstm", "digit_mlp", "digit_vit", "efficientnet_lite0", "eval_copy",
    "glove", "imagenette_vgg", "lstm", "mlp", "review_words", "squeezenet", "toy", "train", "train_words", "vgg16_half", "vit", "words",
]  # fmt: skip
