"""Pictures that move: a slider that needs no kernel, a live explorer for Jupyter, and a digit to draw.

`frames` is plain HTML with the pictures inside: it works wherever a page's own scripts run, and is
the picture that it starts with where they do not. `explorer` computes on every change of a control. `draw` takes a
digit that the reader draws, and computes in the browser.
"""

from klrp.widgets.drawing import draw
from klrp.widgets.exploring import explorer
from klrp.widgets.sliders import LARGEST, frames

__all__ = ["LARGEST", "draw", "explorer", "frames"]
