"""What a chapter's prose says in numbers stands in an output of the page.

No mark in the text says which numbers are quoted: a mark would show in Jupyter and on the repository's pages, and a
number without one would be tested by nobody. So every decimal, every percentage and every number of three digits or more
is looked for among the numbers that the page prints, draws or describes, rounded as the prose rounds it. What is no
result has its place in ``KNOWN``, with what it is.
"""

import re

import pytest
from bs4 import BeautifulSoup
from run_notebooks import read
from test_book import BOOK, NOTEBOOKS

QUOTED = [p.stem for p in NOTEBOOKS]
# Numbers that no cell computes, by what they are.
EVERYWHERE = {
    "28 by 28 pixels": {"784"},
    "neurons of the digit network": {"300", "100"},
    "MNIST": {"60000", "10000"},
    "photographs of ImageNet networks": {"224", "1000"},
}
KNOWN: dict[str, dict[str, set[str]]] = {
    "01_first_relevance": {"1.455 − 1, and 1.455 / 0.005": {"0.455", "291"}},
    "02_rules": {"the toy network, by hand": {"7.884", "6.409", "3.285", "1.885"}},
    "08_taps": {"edges between 8 x 8 and 8 x 8 neurons": {"4096"}, "degrees": {"180"}},
    "10_thresholds": {
        "sizes of VGG's layers": {"256", "12544", "196"},
        "published": {"0.0145"},
        "SqueezeNet 1.1": {"1.1"},
    },
    "13_masks": {"published": {"94.91"}},
    "15_perturbation": {"published": {"73.8", "96.3"}},
    "16_attention": {"a gate of 0.01": {"99"}, "the level of an interval": {"95"}},
    "numbers": {
        "published": {"0.0621", "0.0200", "0.05335", "84.82", "89.97", "90.52", "51.30"},
        "deviation of 1 to 9": {"2.74"},
    },
    "report_code": {"published": {"153", "168", "94.91"}},
    "silent_mistakes": {"2 to the power of 8": {"256"}},
}

NUMBER = re.compile(
    r"(?<![\w.,])[-−]?(?:\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+|\d+)(?:\.\d+)?(?:[ \u00a0\u202f]?%)?(?!\w)"
)
LEAVE_OUT = (
    r"(?ms)^(```|~~~).*?^\1",  # code
    r"(?m)^:[\w-]+:.*$",  # options of directives
    r"(?s)\$\$.*?\$\$",  # what is computed by hand in a formula is asserted
    r"`[^`]*`",  # code, roles and their targets
    r"\]\([^)]*\)",  # addresses
    r"(?m)^#.*$",
)


def numbers(text):
    """The numbers of a text as (what is written, value, half a unit of its last digit)."""
    for match in NUMBER.finditer(text):
        written = match[0].strip()
        plain = re.sub(r"[^\d.]", "", written)
        if not plain or plain.count(".") > 1:
            continue
        digits = len(plain.partition(".")[2])
        yield written, float(plain), 0.5000001 * 10.0**-digits


def quoted(nb):
    """What the prose says: decimals, percentages, and whole numbers from 100 on; not what stands in formulas."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            text = cell.source
            for pattern in LEAVE_OUT:
                text = re.sub(pattern, " ", text)
            text = re.sub(r"\$([-−]?[\d.]+)\$", r"\1", text)  # a number by itself in a formula
            text = re.sub(r"\$[^$]*\$", " ", text)
            for written, value, unit in numbers(text):
                if "." in written or "%" in written or value >= 100:
                    yield written, value, unit


def shown(nb):
    """The numbers of all outputs, tables and alternative texts, and of the code: thresholds, sizes, shares."""
    for cell in nb.cells:
        if cell.cell_type == "code":
            texts = [cell.source]
            for out in cell.outputs:
                data = out.get("data", {})
                texts += [out.get("text", ""), data.get("text/plain", "")]
                page = BeautifulSoup(data.get("text/html", ""), "html.parser")
                texts += [page.get_text(" "), *(image.get("alt", "") for image in page.find_all("img"))]
                texts += [about.get("alt", "") for about in out.get("metadata", {}).values() if isinstance(about, dict)]
            for text in texts:
                plain = re.sub(r"(\d)e([-+]?\d+)", r"\1e\2", text)
                for found in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?", plain):
                    yield float(found)


def missing(nb):
    known = set().union(*EVERYWHERE.values(), *KNOWN.get(nb.path.stem, {}).values())
    values = set(shown(nb))
    values |= {100 * v for v in values}  # a share may be told in per cent
    for written, value, unit in quoted(nb):
        plain = re.sub(r"[^\d.]", "", written)
        years = value.is_integer() and 1900 <= value <= 2030
        if plain not in known and not years and not any(abs(v - value) <= unit for v in values):
            yield written


@pytest.mark.parametrize("name", QUOTED)
def test_what_the_prose_says_stands_in_an_output(name):
    nb = read(BOOK / f"{name}.ipynb")
    nb.path = BOOK / f"{name}.ipynb"
    assert list(missing(nb)) == []


def test_a_number_that_no_output_shows_is_found():
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    def page(prose):
        output = new_output("stream", text="accuracy 0.9571, 43009 paths, −1.40\n")
        nb = new_notebook(cells=[new_markdown_cell(prose), new_code_cell("theta = 0.02", outputs=[output])])
        nb.path = BOOK / "none.ipynb"
        return list(missing(nb))

    assert page("It has 95.7 % right, and 43 009 paths at 0.02, $-1.4$ in 2024.") == []
    assert page("It has 95.8 % right, 43 010 paths at 0.03, $-1.5$ of 12 345.") == [
        "95.8 %",
        "43 010",
        "0.03",
        "-1.5",
        "12 345",
    ]
    assert page("Equation $0.5 + 0.7$, `0.123`, and ``` 456 ```.") == []
