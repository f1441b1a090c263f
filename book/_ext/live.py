"""The live figure: a page that has a div of class klrp-live gets the network's weights and the script that runs it."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS, SCRIPT, STYLE = "klrp-weights.js", "klrp-draw.js", "klrp-draw.css"


def write_scripts(app):
    """The weights as one plain script, and draw.js with its style, among the site's static files."""
    if app.builder.format != "html":
        return
    from klrp.widgets import drawing

    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    (static / WEIGHTS).write_text(
        f'var klrpWeights = "{drawing.weights()}";\n', "ascii"
    )
    shutil.copyfile(drawing.SCRIPT, static / SCRIPT)
    shutil.copyfile(drawing.STYLE, static / STYLE)


def add_scripts(app, page, template, context, doctree):
    """Only pages with a live figure load it; the weights come first, and both wait until the page has been read."""
    if 'class="klrp-live"' in context.get("body", ""):
        app.add_js_file(WEIGHTS, loading_method="defer")
        app.add_js_file(SCRIPT, loading_method="defer")
        app.add_css_file(STYLE)


def setup(app):
    sys.path.insert(0, str(ROOT))  # the numbers are those of this klrp
    app.connect("builder-inited", write_scripts)
    app.connect("html-page-context", add_scripts)
    return {
        "version": "1",
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
