"""Digits, photographs and weights: with ``models``, the only place that touches files.

A thing is looked up in ``$KLRP_DATA`` (a folder that is only read), in the cache (``$KLRP_CACHE``,
by default ``~/.cache/klrp``), on the network, and at last in what scikit-learn carries with it.
``KLRP_DATA=none`` goes straight to the last. What is written appears whole or not at all.
"""

from klrp.data.handwriting import MNIST_BYTES, Digits, digits
from klrp.data.photographs import (
    EMBEDDED_PHOTOS,
    IMAGENETTE,
    REFETCH,
    Photo,
    Photos,
    imagenet_normalise,
    imagenette,
    photo,
)
from klrp.data.places import PROBE_SECONDS, STALL_SECONDS
from klrp.data.weights import CONVERT, load_weights, save_weights

__all__ = [
    "CONVERT",
    "Digits",
    "EMBEDDED_PHOTOS",
    "IMAGENETTE",
    "MNIST_BYTES",
    "PROBE_SECONDS",
    "Photo",
    "Photos",
    "REFETCH",
    "STALL_SECONDS",
    "digits",
    "imagenet_normalise",
    "imagenette",
    "load_weights",
    "photo",
    "save_weights",
]
