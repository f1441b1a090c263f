"""Train the networks for sentences that are shipped, on Pang and Lee's reviews in $KLRP_DATA: half a minute on one core.

    KLRP_DATA=folder python scripts/train_words.py

Weights are rounded to float16. The same call gives the same bits on one machine, and nearly the same network on another.
"""

import sys

import torch
import weights

from klrp import data
from klrp.models import sentences


def main() -> None:
    torch.set_num_threads(1)
    reviews = data.reviews()
    if reviews.source != "rt-polarity":
        sys.exit("Set KLRP_DATA to a folder with rt-polarity/rt-polarity.pos and .neg.")
    for kind, epochs in sentences.EPOCHS.items():
        network = sentences.review_words(kind, reviews, epochs=epochs)
        network.load_state_dict({name: x.half().float() for name, x in network.state_dict().items()})
        right = (network(reviews.test_tokens).argmax(1) == reviews.test_labels).double().mean()
        path = weights.WEIGHTS / f"words_{kind}_rt.safetensors"
        weights.write(network, path)
        print(f"{path.name}: {right:.1%} of the held-out reviews, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
