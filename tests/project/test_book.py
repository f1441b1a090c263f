"""The notebooks keep to the chapter template, and the built pages work without a network.

The notebooks themselves are executed by nbval (`make test`), not here.
"""

import ast
import importlib
import inspect
import re
from itertools import pairwise
from pathlib import Path
from statistics import median
from urllib.parse import unquote

import pytest
import yaml
from bs4 import BeautifulSoup
from install_cell import address, is_install, with_install
from run_notebooks import is_current, machine_paths, read, sources_hash

import klrp
from klrp.exercises import labels
from klrp.exercises.checking import module_of

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
CHAPTERS = [p for p in NOTEBOOKS if p.stem[:2].isdigit()]  # the others are pages without exercises
PAGES = NOTEBOOKS + sorted(BOOK.glob("*.md")) + sorted(BOOK.glob("lectures/*.md"))
each_notebook = pytest.mark.parametrize("nb", NOTEBOOKS, indirect=True, ids=lambda p: p.stem)
each_chapter = pytest.mark.parametrize("nb", CHAPTERS, indirect=True, ids=lambda p: p.stem)


@pytest.fixture
def nb(request):
    nb = read(request.param)
    nb.path = request.param
    return nb


def code_cells(nb):
    return [c for c in nb.cells if c.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def code_lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def prose(nb):
    return "\n".join(c.source for c in nb.cells if c.cell_type == "markdown")


def text_of(path):
    return prose(read(path)) if path.suffix == ".ipynb" else path.read_text("utf-8")


def fenced(text, directive):
    """Directives written as :::{directive} argument, with the options that follow."""
    pattern = rf"^:{{3,}}\{{{directive}\}}[ \t]*(.*)\n((?::[\w-]+:.*\n?)*)"
    return [(arg.strip(), options) for arg, options in re.findall(pattern, text, re.M)]


# ------------------------------------------------------------------ sources


def test_the_toc_lists_every_page_once():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    listed = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    assert sorted(listed) == sorted(p.relative_to(ROOT).with_suffix("").as_posix() for p in PAGES)


def test_every_citation_is_in_the_bibliography():
    known = re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text("utf-8"), re.M)
    assert len(known) == len(set(known))
    for page in PAGES:
        cited = re.findall(r"\{cite[\w:]*\}`([^`]+)`", text_of(page))
        keys = {key.strip() for group in cited for key in group.split(",")}
        assert keys <= set(known), page.name


@each_chapter
def test_chapter_template(nb):
    number = nb.path.stem.split("_")[0]
    assert re.match(rf"# {int(number)} \w+", nb.cells[0].source), "the first line is '# N Title'"
    head = "\n".join(c.source for c in nb.cells[:2])
    assert "{admonition} In this chapter" in head
    for part in ("You will do", "You will learn", "You need", "Run time"):
        assert f"**{part}**" in head, part
    titles = re.findall(r"^## (.+)$", prose(nb), re.M)
    end = ["Summary", *["Going deeper"] * ("Going deeper" in titles), "Exercises", "Further reading"]
    assert titles[-len(end) :] == end
    labels = re.findall(r"\$\$\s*\((eq-[\w-]+)\)", prose(nb))
    assert labels and len(labels) == len(set(labels)), "label the equations: $$ ... $$ (eq-name)"


EXERCISE = re.compile(
    r"^:::\{exercise-start\} \S.*\n:label: (ex-[\w-]+)\n:::\n\n\*\*Level [123] · \d+ minutes?\.\*\* ", re.M
)
HINT = re.compile(r"<details>\n<summary>A hint</summary>\n\n\S(?s:.*?)\n\n</details>")


def exercises(nb):
    """By label: the text of an exercise, its stub, and the cells of its solution."""
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown" and "{exercise" in cell.source:
            begins = EXERCISE.search(cell.source)
            if not begins:
                assert cell.source.strip() == ":::{exercise-end}\n:::", cell.source
                continue
            stub, end, *rest = nb.cells[i + 1 :]
            assert end.source.strip() == ":::{exercise-end}\n:::", begins[1]
            assert rest[0].source.startswith(f":::{{solution-start}} {begins[1]}\n:class: dropdown\n:::"), begins[1]
            last = next(n for n, c in enumerate(rest) if c.source.rstrip().endswith(":::{solution-end}\n:::"))
            yield begins[1], cell.source, stub, rest[: last + 1]


@pytest.mark.parametrize(
    "nb", [p for p in NOTEBOOKS if "{exercise" in p.read_text("utf-8")], indirect=True, ids=lambda p: p.stem
)
def test_exercises_have_stub_checker_hint_and_folded_solution(nb):
    found = list(exercises(nb))
    assert len(found) >= (5 if nb.path in CHAPTERS else 1)
    known = [label for label in labels() if module_of(label) == module_of(found[0][0])]
    assert sorted(known) == sorted(label for label, *_ in found)
    for label, text, stub, solution in found:
        assert HINT.search(text), label
        assert "stub" in tags(stub) and stub.source.rstrip().endswith(")") and f'check("{label}", ' in stub.source, (
            label
        )
        asks_for_code = "def " in stub.source or "class " in stub.source
        assert asks_for_code or re.search(r"= None  # \S", stub.source), label
        code = [c for c in solution if c.cell_type == "code"]
        assert any(f'check("{label}", ' in c.source for c in code), label
        assert all(c.metadata.get("jupyter", {}).get("source_hidden") for c in solution), (
            f"{label}: make student's --fold"
        )


@each_notebook
def test_cells_are_short_and_prose_outweighs_code(nb):
    assert nb.cells[0].cell_type == "markdown"
    lines = [len(code_lines(c)) for c in code_cells(nb)]
    assert median(lines) <= 5
    for cell in code_cells(nb):
        if "hide-input" not in tags(cell):
            assert len(code_lines(cell)) <= 15, cell.source
        assert max(map(len, code_lines(cell)), default=0) <= 88, cell.source
    first = code_lines(next(c for c in code_cells(nb) if not is_install(c)))
    assert "import klrp" in first and len(first) <= 4
    assert len(re.findall(r"\b[^\W\d_]{2,}\b", prose(nb))) >= 5 * sum(lines)


@each_notebook
def test_the_cell_that_installs_is_the_same_everywhere(nb):
    nb.pop("path")
    assert with_install(nb, address()) == nb, "python scripts/install_cell.py"
    there, gone = with_install(nb, "https://example.org/book"), with_install(nb, "")
    assert sum(map(is_install, there.cells)) == 1 and with_install(there, "") == gone
    assert sources_hash(there) == sources_hash(nb)


def is_check(statement):
    """An assertion, a law that is checked, or some of them in a loop or under a condition."""
    if isinstance(statement, ast.For | ast.If):
        return is_check(statement.body[-1]) and all(is_check(s) or isinstance(s, ast.Assign) for s in statement.body)
    checks = ("torch.testing.assert_close(", "klrp.check_laws(", "check(")
    return isinstance(statement, ast.Assert) or ast.unparse(statement).startswith(checks)


@each_notebook
def test_checked_cells_do_nothing_but_assert(nb):
    for cell in code_cells(nb):
        if "checked" in tags(cell):
            assert "hide-input" in tags(cell) and not cell.outputs
            *others, last = ast.parse(cell.source).body
            assert is_check(last) and all(is_check(s) or isinstance(s, ast.Assign) for s in others), cell.source


@each_notebook
def test_no_boilerplate(nb):
    source = "\n".join(c.source for c in code_cells(nb) if not is_install(c))
    for banned in ("!pip", "%pip", "def set_seed", "urllib", "import *"):
        assert banned not in source, banned


# ------------------------------------------------- what a chapter may ask for

MOST_WORDS, MOST_CELLS = 2500, 40  # of the core of a chapter, which is read first
DEEPER = re.compile(r"^(:{3,})\{[^}]+\}.*\n(?::[\w-]+:.*\n)*?:class:.*\bdeeper\b(?s:.*?)^\1 *$", re.M)
NO_WORDS = [  # what is left of markdown is its sentences
    r"\$\$(?s:.*?)\$\$ *(?:\([\w-]+\))?",
    r"(?<!\\)\$[^$]+\$",
    r"^`{3,}(?s:.*?)^`{3,} *$",
    r"^:[\w-]+:.*$",
    r"^:{3,}(?:\{[^}]*\})?",
    r"(?:\{[\w:-]+\})?`[^`]+`",
    r"\]\([^)]*\)",
    r"<[^>]+>",
]


def words(text):
    text = re.sub(r"\{(?:term|doc)\}`([^`<]+)(?:<[^>]*>)?`", r"\1", text)  # they show their text
    for pattern in NO_WORDS:
        text = re.sub(pattern, " ", text, flags=re.M)
    return len(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text))


def core(nb):
    """The cells before what goes deeper and the exercises, without boxes that go deeper, solutions, and what is folded."""
    solved = False
    for cell in nb.cells:
        if cell.cell_type == "code":
            folded = any(tag.startswith(("hide-", "remove-")) for tag in tags(cell))
            if not solved and not folded and cell.source.strip():
                yield cell
            continue
        text, *rest = re.split(r"^## (?:Going deeper|Exercises) *$", cell.source, maxsplit=1, flags=re.M)
        marks = re.findall(r"^:{3,}\{solution-(start|end)\}", text, re.M)
        solved = marks[-1] == "start" if marks else solved
        if not (solved or marks):
            yield {"cell_type": "markdown", "source": DEEPER.sub("", text)}
        if rest:
            return


def size(nb):
    """Words, code cells, and code cells without output right behind another."""
    cells = [c for c in core(nb) if c["cell_type"] == "code" or words(c["source"])]
    bare = [
        after
        for cell, after in pairwise(cells)
        if cell["cell_type"] == after["cell_type"] == "code" and not after.outputs
    ]
    text = [words(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    return sum(text), len(cells) - len(text), len(bare)


@each_chapter
def test_the_core_of_a_chapter_is_short(nb):
    text, cells, bare = size(nb)
    assert text <= MOST_WORDS and cells <= MOST_CELLS and not bare, f"{text} words, {cells} cells, {bare} bare cells"


# ----------------------------------------------------------- stored outputs


@each_notebook
def test_stored_outputs_are_current(nb):
    assert is_current(nb), "the outputs are older than the code: make notebooks"


@each_notebook
def test_stored_outputs_are_complete_and_small(nb):
    counts = [c.execution_count for c in code_cells(nb) if c.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [o for c in code_cells(nb) for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert "widgets" not in nb.metadata
    assert not machine_paths(nb)
    large = any('type="range"' in str(o.get("data", {}).get("text/html", "")) for o in outputs)
    large |= nb.path.stem == "your_network"  # photographs, one for each thing that can be asked
    assert nb.path.stat().st_size <= (700_000 if large else 300_000)


def test_the_notebooks_are_light():
    assert sum(path.stat().st_size for path in NOTEBOOKS) <= 9_000_000


def shows_picture(cell):
    data = [o.get("data", {}) for o in cell.get("outputs", [])]
    return any("image/png" in d or "<img" in str(d.get("text/html", "")) for d in data)


@each_notebook
def test_pictures_have_alternative_text(nb):
    for cell in filter(shows_picture, nb.cells):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        for out in cell.outputs:
            html = BeautifulSoup(str(out.get("data", {}).get("text/html", "")), "html.parser")
            images, lone = html.find_all("img"), "image/png" in out.get("data", {})
            assert all(i.get("alt") for i in images), cell.source
            assert not lone or alt or out.metadata.get("image/png", {}).get("alt"), cell.source
            assert not (lone and images), "the picture is stored twice"


@each_notebook
def test_after_a_figure_comes_what_to_see_in_it(nb):
    inside = False  # an exercise or a solution explains itself
    for cell, after in pairwise(c for c in nb.cells if "checked" not in tags(c)):
        marks = re.findall(r"^:{3,}\{(?:exercise|solution)-(start|end)\}", cell.source, re.M)
        inside = marks[-1] == "start" if marks else inside
        if shows_picture(cell) and not inside:
            assert after.cell_type == "markdown" and len(after.source.split()) >= 8, cell.source


# ---------------------------------------------------------------- the pages


def test_the_reference_has_every_public_function_and_class(soups):
    tags = [t for page, soup in soups.items() if page.stem.startswith("api") for t in soup.find_all("dt", id=True)]
    known = {tag["id"].rsplit(".")[-1] for tag in tags}
    names = (
        "symbolic semirings conversions thresholds rules composites data models plot widgets masks pruning perturbation"
    )
    names += " quality paths circuits homomorphisms gathering exercises"
    for module in [klrp, *(importlib.import_module(f"klrp.{name}") for name in names.split())]:
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                assert name in known or not value.__module__.startswith("klrp"), f"{module.__name__}.{name}"


def test_numbers_begin_with_the_chapter(soups):
    """Figure 4.2, equation (4.6), Exercise 4.1: wherever the chapter stands."""
    for page, soup in soups.items():
        if page.stem[:2].isdigit():
            numbers = [tag.get_text() for tag in soup.select(".caption-number, .eqno")]
            numbers = [re.search(r"(\d+)\.\d+", text) for text in numbers if re.search(r"\d", text)]
            assert numbers and all(m and int(m[1]) == int(page.stem[:2]) for m in numbers), page.name


REMOTE = re.compile(r"^\s*(?:https?:)?//")
LOADING_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect"}


def loaded_addresses(soup):
    """What a browser fetches by itself when it opens the page."""
    for tag in soup.find_all(src=True):
        yield tag["src"]
    for tag in soup.find_all("link", href=True):
        if LOADING_LINKS & set(tag.get("rel", [])):
            yield tag["href"]
    styles = [t.get_text() for t in soup.find_all("style")] + [t["style"] for t in soup.find_all(style=True)]
    for style in styles:
        yield from css_addresses(style)


def css_addresses(css):
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.S)
    return re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s;]+)", css)


def test_pages_load_nothing_remote(site, soups):
    for page, soup in soups.items():
        assert not [a for a in loaded_addresses(soup) if REMOTE.match(a)], page.name
        scripts = "\n".join(s.get_text() for s in soup.find_all("script", src=False))
        assert "unpkg" not in scripts and "cdn" not in scripts, page.name
    for css in site.rglob("*.css"):
        assert not [a for a in css_addresses(css.read_text("utf-8")) if REMOTE.match(a)], css.name


def test_images_in_pages_have_alternative_text(soups):
    for page, soup in soups.items():
        for img in soup.find_all("img"):
            alt = img.get("alt", "").strip()
            assert alt and not re.search(r"\.(png|jpe?g|svg|gif|webp)$", alt), (page.name, str(img)[:200])


def test_internal_links_resolve(soups):
    ids = {p: {t["id"] for t in s.find_all(id=True)} for p, s in soups.items()}
    for page, soup in soups.items():
        for link in soup.find_all("a", href=True):
            target, _, fragment = unquote(link["href"]).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            path = (page.parent / target.split("?")[0]).resolve() if target else page
            assert path.exists(), (page.name, link["href"])
            assert not fragment or path not in ids or fragment in ids[path], (page.name, link["href"])


# --------------------------------------------------------- the bibliography

ENTRIES = re.findall(r"^@\w+\{([^,]+),\n(.*?)^\}", (BOOK / "references.bib").read_text("utf-8"), re.M | re.S)
FORMS = {
    "doi": r"10\.\d{4,9}/\S+",
    "eprint": r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}",  # arXiv, since 2007 or before
    "url": r"https://\S+",
}


@pytest.mark.parametrize(("key", "body"), ENTRIES, ids=[key for key, _ in ENTRIES])
def test_every_source_can_be_found(key, body):
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", body, re.M))
    assert {"author", "title", "year"} <= set(fields)
    assert re.fullmatch(r"\d{4}", fields["year"]) and fields["year"] in key
    assert set(FORMS) & set(fields), "a DOI, an arXiv number or an address"
    for name in set(FORMS) & set(fields):
        assert re.fullmatch(FORMS[name], fields[name]), fields[name]


def test_every_source_is_cited():
    groups = re.findall(r"\{cite[\w:]*\}`([^`]+)`", "\n".join(map(text_of, PAGES)))
    cited = {key.strip() for group in groups for key in group.split(",")}
    assert not {key for key, _ in ENTRIES} - cited


def test_many_outputs_are_compared_when_the_notebooks_run():
    """They do not depend on the data at hand, and so stand for the numbers that the prose quotes."""
    compared = [cell for path in NOTEBOOKS for cell in code_cells(read(path)) if "nbval-check-output" in tags(cell)]
    assert len(compared) >= 150 and all(cell.outputs for cell in compared)
