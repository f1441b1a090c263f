"""Digits, photographs, reviews and weights: with ``models``, the only place that touches files.

A thing is looked up in ``$KLRP_DATA`` (a folder that is only read), in the cache (``$KLRP_CACHE``,
by default ``~/.cache/klrp``), on the network, and at last in what scikit-learn carries with it.
``KLRP_DATA=none`` goes straight to the last. What is written appears whole or not at all.
"""

from klrp.data.mnist import MNIST_BYTES, Digits, digits
from klrp.data.photographs import EMBEDDED_PHOTOS, IMAGENETTE, Photo, Photos, imagenet_normalise, imagenette, photo
from klrp.data.reviews import Reviews, reviews, tokenise
from klrp.data.weights import load_weights, save_weights

__all__ = [
    "Digits", "EMBEDDED_PHOTOS", "IMAGENETTE", "MNIST_BYTES", "Photo", "Photos", "Reviews", "digits", "imagenet_normalise",
    "imagenette", "load_weights", "photo", "reviews", "save_weights", "tokenise",
]  # fmt: skip
