"""Train the networks for sentences that are shipped, on Pang and Lee's reviews in $KLRP_DATA: half a minute on one core.

    KLRP_DATA=folder python scripts/train_words.py

Weights are rounded to float16 in the safetensors files of book/assets. The last lines say what belongs into
klrp.models.sentences.SHIPPED. The same call gives the same bits on one machine, and nearly the same network on another.
"""

import hashlib
import sys
from pathlib import Path

import torch

from klrp import data, sentences

ASSETS = Path(__file__).resolve().parents[1] / "book" / "assets"


def main() -> None:
    torch.set_num_threads(1)
    reviews = data.reviews()
    if reviews.source != "rt-polarity":
        sys.exit("Set KLRP_DATA to a folder with rt-polarity/rt-polarity.pos and .neg.")
    for kind, epochs in sentences.EPOCHS.items():
        network = sentences.review_words(kind, reviews, epochs=epochs)
        half = {name: x.half() for name, x in network.state_dict().items()}
        network.load_state_dict({name: x.float() for name, x in half.items()})
        right = (network(reviews.test_tokens).argmax(1) == reviews.test_labels).double().mean()
        path = ASSETS / f"words_{kind}_rt.safetensors"
        data.save_weights(path, half)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        print(
            f'    "{kind}": ("{path.name}", "{sha256}"),  # {right:.1%} of the held-out reviews, {path.stat().st_size} bytes'
        )


if __name__ == "__main__":
    main()
