"""A digit to draw in Jupyter: what the browser is sent, and what is refused."""

import base64
import subprocess
import sys

import numpy as np
import pytest
import torch

import klrp
from klrp.errors import KlrpError
from klrp.widgets import draw, drawing


def test_the_weights_are_those_that_are_shipped():
    numbers = np.frombuffer(base64.b64decode(drawing.weights()), "<f2")
    at = 0
    for p in klrp.models.digit_mlp(seed=0, progress=False).parameters():
        found = torch.from_numpy(numbers[at : at + p.numel()].astype(np.float32)).reshape(p.shape)
        assert torch.equal(found, p)
        at += p.numel()
    assert at == len(numbers) == 266_610


def test_a_drawing_brings_its_script_its_style_and_its_settings():
    found = draw("boolean", theta=0.02, example=7)
    assert found.settings == {"semiring": "boolean", "theta": "0.02", "example": "7"}
    assert found.weights == drawing.weights()
    assert found._esm.startswith(drawing.SCRIPT.read_text("utf-8")) and "export default" in found._esm
    assert found._css == drawing.STYLE.read_text("utf-8")
    assert repr(found) == "<a digit to draw, boolean>"  # not its weights


def test_by_default_it_begins_with_a_digit_in_the_reals():
    assert draw().settings == {"semiring": "real", "example": "3"}
    assert draw(example=None).settings["example"] == ""


WRONG = [
    (dict(semiring="tropical"), "semiring: got 'tropical'; expected one of real, boolean"),
    (dict(semiring=klrp.BOOLEAN), "semiring: got <Semiring boolean>"),
    (dict(theta=0), "theta: got 0; expected a number above 0"),
    (dict(theta=1.5), "theta: got 1.5"),
    (dict(theta="small"), "theta: got 'small'"),
    (dict(example=10), "example: got 10; expected a digit"),
    (dict(example=True), "example: got True"),
]


@pytest.mark.parametrize("settings, message", WRONG, ids=[message[:24] for _, message in WRONG])
def test_what_cannot_be_drawn_is_refused(settings, message):
    with pytest.raises(KlrpError) as error:
        draw(**settings)
    assert str(error.value).startswith(message)


def test_the_script_loads_nothing_and_can_be_read_in_one_sitting():
    text = drawing.SCRIPT.read_text("utf-8")
    assert len(text.splitlines()) <= 700
    for word in ("fetch(", "XMLHttpRequest", "import(", "import ", "WebAssembly", "eval(", "http"):
        assert word not in text, word


def test_importing_widgets_does_not_import_anywidget():
    code = "import sys, klrp.widgets; assert 'anywidget' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
