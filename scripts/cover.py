"""Draw the picture of the front page and of the README: one digit, explained in four semirings."""

import sys
from pathlib import Path

import klrp
from klrp import conversions, plot

PATH = Path(__file__).resolve().parents[1] / "book" / "assets" / "cover.png"
SETTINGS = {
    "how much?": {"rule": klrp.rules.epsilon(0.01, std=0.25)},
    "any path?": {"semiring": "boolean", "theta": conversions.threshold(0.04)},
    "how many paths?": {"semiring": "counting", "theta": conversions.threshold(0.01)},
    "the best path?": {"semiring": "viterbi"},
}


def main() -> None:
    digits = klrp.data.digits()
    if digits.source != "mnist":
        sys.exit("The picture shows a digit of MNIST: set KLRP_DATA to a folder that holds it.")
    model = klrp.models.digit_mlp(digits, seed=0)
    x = digits.train_images[(digits.train_labels == 0).nonzero()[0]]
    maps = [klrp.explain(model, x, 0, **settings) for settings in SETTINGS.values()]
    figure = plot.panel([lambda ax: plot.image(x[0], ax), *maps], ["a zero", *SETTINGS], width=7.5)
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_bytes(plot.png(figure, dpi=170))


if __name__ == "__main__":
    main()
