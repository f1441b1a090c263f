"""What the pages of this book need beside Jupyter Book's own: a small Sphinx extension."""

import json
import re
import sys
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

from docutils import nodes
from sphinx.environment.collectors.toctree import TocTreeCollector

ROOT = Path(__file__).resolve().parents[2]
CHECKED = "✓ checked"


def name_checked_cells(app, doctree):
    """The folded code of a cell that only asserts says that it holds."""
    for cell in doctree.findall(nodes.container):
        if "tag_checked" in cell["classes"]:
            cell["prompt_show"] = cell["prompt_hide"] = CHECKED


def name_pictures(app, doctree):
    """Pictures take their alternative text from the outputs' metadata, which myst-nb leaves aside.

    It names the file of a picture by the hash of its bytes, and so we find it again.
    """
    path = Path(app.env.doc2path(app.env.docname))
    cells = (
        json.loads(path.read_text("utf-8"))["cells"]
        if path.suffix == ".ipynb"
        else []
    )
    alts = {}
    for output in (
        out for cell in cells for out in cell.get("outputs", [])
    ):
        if (
            alt := output.get("metadata", {})
            .get("image/png", {})
            .get("alt")
        ):
            png = b64decode("".join(output["data"].get("image/png", "")))
            alts[f"{sha256(png).hexdigest()}.png"] = alt
    for picture in doctree.findall(nodes.image):
        if alt := alts.get(Path(picture["uri"]).name):
            picture["alt"] = alt
            picture["classes"].append("dark-light")  # true colours on dark


def number_by_chapter(app, env):
    """Figure 4.2, equation (4.6): the first number is the one that the chapter's title begins with.

    Sphinx numbers figures by the sections of a numbered table of contents, that is, by position. For
    the time of that we hand it sections numbered by their titles, so that chapters may stand in any
    order and keep their numbers. Pages without a number share one count: Figure 1, Figure 2.
    """
    titles = {name: title.astext() for name, title in env.titles.items()}
    found = {
        name: re.match(r"\d+", title) for name, title in titles.items()
    }
    by_position = env.toc_secnumbers
    env.toc_secnumbers = {
        name: {"": (int(m[0]),)} for name, m in found.items() if m
    }
    changed = TocTreeCollector().assign_figure_numbers(env)
    env.toc_secnumbers = (
        by_position  # else the titles would get a second number
    )
    return changed


LITERAL = r"`+[^`]*`+"  # code, and formulas in a role
MARKED = re.compile(rf"{LITERAL}|\[[^\[\]]*\]|\|")


def plain_docstring(app, what, name, obj, options, lines):
    """What autodoc and napoleon would take for markup, though our docstrings mean it as it stands.

    The asterisk of a shape, [N, *step], begins no emphasis, and |d| is no substitution. What a
    property says before a colon is no type, which napoleon looks for in the first line: we give it an
    empty comment.
    """

    def escaped(match):
        text = match[0]
        return text if text[0] == "`" else re.sub(r"[*|]", r"\\\g<0>", text)

    formula = False
    for i, line in enumerate(lines):
        start = line.lstrip()
        formula = (
            start.startswith(".. math::")
            or formula
            and line[:1] in ("", " ")
        )
        if not formula and not start.startswith((">>>", "...")):
            lines[i] = MARKED.sub(escaped, line)
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]


def roles_that_screen_readers_know(app, page, template, context, doctree):
    """docutils marks a source as doc-biblioentry, which ARIA has given up, and a list of them as a list."""
    for role in (' role="doc-biblioentry"', ' role="list"'):
        context["body"] = context.get("body", "").replace(role, "")


def setup(app):
    sys.path.insert(0, str(ROOT))  # the reference is that of this klrp
    app.connect("doctree-read", name_checked_cells)
    app.connect("doctree-read", name_pictures)
    # Before napoleon.
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)
    app.connect("html-page-context", roles_that_screen_readers_know)
    # After Sphinx's own numbers.
    app.connect("env-get-updated", number_by_chapter, priority=600)
    return {
        "version": "1",
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
