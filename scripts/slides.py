"""Slides for the six lectures: `make slides` writes them to _build/slides/, for a browser without a network.

A deck is a Markdown file in book/lectures/slides/. Lines of three dashes part its slides. What follows a line `Note:`
is for the speaker. Figures are no files but stored outputs of the notebooks, named by chapter and cell:

    :::{figure} 01_first_relevance c011
    :alt: what it shows, where the stored output does not say so, or in place of what it says
    :side: right
    :::

reveal.js comes from the Python package sphinx-revealjs, MathJax from sphinx-mathjax-offline; both are copied beside the
slides. With --check a headless Chromium tells which slides are too full.
"""

import argparse
import html
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pdf import OPTIONS, chromium
from run_notebooks import ROOT, read

SOURCES = ROOT / "book" / "lectures" / "slides"
SLIDES = ROOT / "_build" / "slides"
FIGURE = re.compile(r"^:{3}\{figure\} (?P<where>\S+)(?: (?P<cell>\S+))?\n(?P<options>(?::[\w-]+:.*\n)*):{3} *$", re.M)
PACKAGES = {  # what is copied from where
    "reveal": ("sphinx-revealjs", "sphinx_revealjs/_static/revealjs"),
    "mathjax": ("sphinx-mathjax-offline", "sphinx-mathjax-offline/static/mathjax"),
}
FILES = {
    "reveal": ("dist/reset.css", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js", "LICENSE"),
    "mathjax": ("tex-svg.js",),
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>TITLE</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="vendor/reveal/dist/reset.css">
<link rel="stylesheet" href="vendor/reveal/dist/reveal.css">
<link rel="stylesheet" href="slides.css">
<script>
MathJax = {
  tex: {inlineMath: [["\\\\(", "\\\\)"]], displayMath: [["\\\\[", "\\\\]"]]},
  options: {enableMenu: false},
  startup: {pageReady: () => MathJax.startup.defaultPageReady().then(begin)},
};
function begin() {
  const settings = {width: 1280, height: 720, margin: 0, center: false, hash: true, controls: false, slideNumber: "c/t",
    transition: "none", pdfSeparateFragments: false, plugins: [RevealNotes]};
  return Reveal.initialize(settings).then(check);
}
// For scripts/slides.py --check: which slides hold more than they show?
function check() {
  const tooFull = [...document.querySelectorAll(".slide")].map((slide, i) => {
    const box = slide.getBoundingClientRect(), scale = box.height / slide.offsetHeight || 1;
    const boxes = [slide, ...slide.querySelectorAll(".body, .figure, .stored, .stored > div, pre")];
    const low = boxes.some(e => e.scrollHeight > e.clientHeight + 8);
    const wide = [...slide.querySelectorAll("pre, table, mjx-container, img, p, ul, h2")].some(e =>
      e.scrollWidth > e.clientWidth + 3 && e.clientWidth || e.getBoundingClientRect().right > box.right + 3 * scale);
    const small = [...slide.querySelectorAll("img")].some(e => e.clientHeight < 120);
    return [low && "low", wide && "wide", small && "small"].filter(Boolean).map(word => `${i + 1} ${word}`);
  }).flat();
  const remote = performance.getEntriesByType("resource").map(e => e.name).filter(n => !/^(file|data|blob):/.test(n));
  document.body.dataset.check = `too full: ${tooFull.join(", ") || "none"}; remote: ${remote.join(" ") || "none"}`;
}
</script>
<script src="vendor/reveal/dist/reveal.js"></script>
<script src="vendor/reveal/plugin/notes/notes.js"></script>
<script src="vendor/mathjax/tex-svg.js"></script>
</head>
<body>
<div class="reveal"><div class="slides">
SECTIONS
</div></div>
</body>
</html>
"""


def decks() -> list[Path]:
    return sorted(SOURCES.glob("[0-9].md"))


def parts(text: str) -> list[tuple[str, str]]:
    """The slides of a deck, each with its notes for the speaker."""
    slides = re.split(r"^---\s*$", text, flags=re.M)
    return [(body.strip(), note.strip()) for body, _, note in (s.partition("\nNote:") for s in slides)]


def references(text: str) -> list[tuple[str, str]]:
    """The notebook and the cell of every figure of a deck."""
    return [(m["where"], m["cell"]) for m in FIGURE.finditer(text)]


@cache
def cells(notebook: str) -> dict:
    path = ROOT / "book" / f"{notebook}.ipynb"
    if not path.exists():
        sys.exit(f"A slide has a figure of {notebook}, and there is no {path}.")
    return {cell.id: cell for cell in read(path).cells}


def stored(notebook: str, cell_id: str, alt: str = "") -> str:
    """The stored output of a cell as HTML: a picture, a slider, a table, or what it printed."""
    if not cell_id:  # a file of the book
        return picture((ROOT / "book" / notebook).read_bytes(), alt, notebook)
    cell = cells(notebook).get(cell_id)
    if cell is None or not cell.get("outputs"):
        sys.exit(f"A slide has a figure of {notebook}, cell {cell_id}, and it has no stored output: make notebooks")
    shown = [out.data for out in cell.outputs if {"text/html", "image/png"} & set(out.get("data", {}))]
    if not shown:
        said = "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)
        return f'<pre class="printed">{html.escape(said.rstrip())}</pre>'
    if "text/html" in shown[0]:
        return f'<div class="stored">{shown[0]["text/html"]}</div>'
    mystnb = cell.metadata.get("mystnb", {}).get("image", {})
    meta = next(out.metadata for out in cell.outputs if "image/png" in out.get("data", {}))
    alt = alt or mystnb.get("alt") or meta.get("image/png", {}).get("alt", "")
    return picture(b64decode(shown[0]["image/png"]), alt, f"{notebook}, cell {cell_id}")


def picture(png: bytes, alt: str, name: str) -> str:
    if not alt:
        sys.exit(f"The figure {name} has no alternative text. Give it one with :alt:")
    data = b64encode(png).decode()
    return f'<img class="picture" alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def markdown(text: str) -> str:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    def formula(content, options):
        opening, closing = ("\\[", "\\]") if options["display_mode"] else ("\\(", "\\)")
        return html.escape(f"{opening}{content.strip()}{closing}")

    engine = MarkdownIt("commonmark", {"html": True, "typographer": True}).enable("table")
    return engine.use(dollarmath_plugin, renderer=formula, double_inline=True).render(text)


def section(body: str, note: str) -> str:
    """One slide as HTML: its title, its text, and its figure between the text or beside it."""
    title, _, rest = body.partition("\n")
    found, kind = FIGURE.search(rest), "plain"
    texts = [rest]
    figure = ""
    if found:
        options = dict(re.findall(r"^:([\w-]+): *(.*)$", found["options"], re.M))
        texts = [rest[: found.start()], rest[found.end() :]]
        figure = f'<div class="figure">{stored(found["where"], found["cell"], options.get("alt", ""))}</div>'
        kind = "beside" if options.get("side") else "below"
    kind = "title" if title.startswith("# ") else kind
    shown = [f'<div class="text">{markdown(text)}</div>' if text.strip() else "" for text in texts]
    shown.insert(1, figure)
    notes = f'<aside class="notes">{markdown(note)}</aside>' if note else ""
    inner = f'{markdown(title)}<div class="body">{"".join(shown)}</div>'
    return f'<section><div class="slide {kind}">{inner}</div>{notes}</section>'


def title_of(text: str) -> str:
    return re.search(r"^# (.+)$", text, re.M)[1].strip()


def page(text: str) -> str:
    sections = "\n".join(section(*part) for part in parts(text))
    return PAGE.replace("TITLE", html.escape(title_of(text))).replace("SECTIONS", sections)


def vendored(folder: Path) -> None:
    """Copy reveal.js and MathJax beside the slides."""
    for name, (package, inside) in PACKAGES.items():
        try:
            source = Path(distribution(package).locate_file(inside))
        except PackageNotFoundError:
            sys.exit(f"Slides need the package {package}, which is not installed: pip install {package}")
        for file in FILES[name]:
            target = folder / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / file, target)


def write(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    vendored(folder / "vendor")
    shutil.copy2(SOURCES / "slides.css", folder)
    links = []
    for deck in decks():
        text = deck.read_text("utf-8")
        (folder / f"{deck.stem}.html").write_text(page(text), "utf-8")
        links.append(
            f'<li><a href="{deck.stem}.html">{html.escape(title_of(text))}</a>: {len(parts(text))} slides</li>'
        )
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Slides</title><link rel="stylesheet" '
    head += 'href="slides.css"><body class="list"><h1>Six lectures on semiring LRP</h1>'
    keys = "<p>Space: next. S: the notes for the speaker. O: all slides. To print, add ?print-pdf to the address.</p>"
    (folder / "index.html").write_text(f"{head}<ul>{''.join(links)}</ul>{keys}", "utf-8")
    print(f"{len(links)} decks are written. Open {folder / 'index.html'}")


def checked(folder: Path) -> bool:
    """Ask a browser whether every slide fits its screen, and whether anything is fetched from elsewhere."""
    fine = True
    for deck in decks():
        with tempfile.TemporaryDirectory() as profile:
            command = [chromium(), *OPTIONS, f"--user-data-dir={profile}", "--window-size=1280,720", "--dump-dom"]
            address = (folder / f"{deck.stem}.html").as_uri() + "?view=print&print-pdf"
            run = subprocess.run([*command, address], capture_output=True, text=True, timeout=180)
        said = re.search(r'data-check="([^"]*)"', run.stdout)
        print(f"{deck.stem}: {said[1] if said else 'the page did not load'}")
        fine &= bool(said) and said[1] == "too full: none; remote: none"
    return fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="ask Chromium whether every slide fits")
    args = parser.parse_args()
    write(SLIDES)
    if args.check and not checked(SLIDES):
        sys.exit(1)


if __name__ == "__main__":
    main()
