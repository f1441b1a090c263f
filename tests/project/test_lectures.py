"""The lectures: plans of 90 minutes, answers that klrp computes too, slides whose figures exist, copies for students."""

import ast
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import nbformat
import pdf
import pytest
import slides
import student
import torch
from bs4 import BeautifulSoup
from run_notebooks import ROOT
from run_notebooks import read as read_anew

LECTURES = sorted((ROOT / "book" / "lectures").glob("lecture_*.md"))
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
DECKS = slides.decks()
read = cache(read_anew)  # nothing here changes a notebook
each_lecture = pytest.mark.parametrize("path", LECTURES, ids=lambda p: p.stem)
each_deck = pytest.mark.parametrize("deck", DECKS, ids=lambda p: p.stem)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def sections(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^## (.+)\n((?s:.*?))(?=^## |\Z)", path.read_text("utf-8"), re.M))


def plan(path: Path) -> list[tuple[int, str]]:
    """Minutes and material of each line."""
    rows = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", sections(path)["Plan"], re.M)
    return [(int(minutes), material) for minutes, material in rows]


# -------------------------------------------------------------- the lectures


def test_there_are_six_lectures_and_six_decks():
    assert [p.stem for p in LECTURES] == [f"lecture_{i}" for i in range(1, 7)]
    assert [p.stem for p in DECKS] == [str(i) for i in range(1, 7)]


@each_lecture
def test_a_lecture_has_all_parts(path):
    text = path.read_text("utf-8")
    assert "**Afterwards a student can**" in text and "**Needed before:**" in text
    parts = ["Plan", "The board", "Demonstrations", "Common errors", "Exam questions", "Exercises to set"]
    assert list(sections(path)) == parts
    assert len(re.findall(r"^- \*\*", sections(path)["Common errors"], re.M)) >= 5


@each_lecture
def test_the_minutes_of_a_lecture_add_up(path):
    assert sum(minutes for minutes, _ in plan(path)) == 90


@each_lecture
def test_the_plan_names_every_slide(path):
    numbers = [
        list(range(int(first), int(last or first) + 1))
        for _, material in plan(path)
        for first, last in re.findall(r"slides? (\d+)(?:–(\d+))?", material)
    ]
    count = len(slides.parts((slides.SOURCES / f"{path.stem[-1]}.md").read_text("utf-8")))
    assert [n for group in numbers for n in group] == list(range(2, count + 1))


@each_lecture
def test_exam_questions_have_folded_answers(path):
    exam = sections(path)["Exam questions"]
    questions = re.findall(r"^\*\*(\d+)\*\* \(level ([123])\)", exam, re.M)
    answers = re.findall(r"^:::\{admonition\} Answer\n:class: dropdown\n", exam, re.M)
    assert [int(n) for n, _ in questions] == list(range(1, len(answers) + 1)) and len(answers) >= 6
    levels = [level for _, level in questions]
    assert set(levels) == {"1", "2", "3"} and levels == sorted(levels)


def labels():
    texts = (c.source for path in NOTEBOOKS for c in read(path).cells if c.cell_type == "markdown")
    return set(re.findall(r"^:label: *(ex-\S+)$", "\n".join(texts), re.M))


def test_exercises_to_set_exist():
    known = labels()
    for path in LECTURES:
        named = re.findall(r"<(ex-[^>]+)>", path.read_text("utf-8"))
        assert len(named) >= 4 and set(named) <= known, path.name


def numbers(value) -> list[float]:
    if isinstance(value, tuple | list):
        return [n for part in value for n in numbers(part)]
    return torch.as_tensor(value).detach().double().flatten().tolist()


def run(code: str, names: dict) -> int:
    """Run a block of a lecture; where a line ends with an arrow, the numbers behind it must come out."""
    lines, checked = code.splitlines(), 0
    for node in ast.parse(code).body:
        _, arrow, said = lines[node.end_lineno - 1].partition("# → ")
        if isinstance(node, ast.Expr) and arrow:
            found = numbers(eval(ast.unparse(node), names))
            assert found == pytest.approx([float(n) for n in said.split()], abs=6e-3), ast.unparse(node)
            checked += 1
        else:
            exec(compile(ast.Module([node], []), "lecture", "exec"), names)
    return checked


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


@each_lecture
def test_klrp_computes_what_the_board_and_the_answers_say(path, capsys):
    names, index = {}, path.with_name("index.md").read_text("utf-8")
    assert sum(run(block, names) for block in blocks(index)) == 2
    before, exam = path.read_text("utf-8").split("## Exam questions")
    assert sum(run(block, names) for block in blocks(before)) >= 1, "the board has worked numbers"
    assert sum(run(block, names) for block in blocks(exam)) >= 2, "the exam has computed answers"
    lines = [line for block in blocks(index + before + exam) for line in block.splitlines()]
    assert max(map(len, lines)) <= 78, "longer lines do not fit the page"


# ---------------------------------------------------------------- the slides


@each_deck
def test_a_deck_has_20_to_30_slides_with_notes(deck):
    parts = slides.parts(deck.read_text("utf-8"))
    assert 20 <= len(parts) <= 30
    for body, note in parts:
        assert body.startswith(("# ", "## ")) and note, body
        assert len(slides.FIGURE.sub("", body).split()) <= 90, "few words"
        assert len(slides.FIGURE.findall(body)) == body.count(":::{figure}") <= 1, "one thing a slide"


@each_deck
def test_figures_of_slides_are_stored_outputs(deck):
    text = deck.read_text("utf-8")
    assert len(slides.references(text)) >= 8
    soup = BeautifulSoup(slides.page(text), "html.parser")
    assert len(soup.find_all("section")) == len(slides.parts(text))
    assert all(img.get("alt") for img in soup.find_all("img"))
    assert not [a for t in soup.find_all(src=True) if re.match(r"(?:https?:)?//", a := t["src"])]
    for slider in soup.select("input[type=range]"):
        assert slider["oninput"] and slider.find_parent("figure"), "sliders move without a kernel"


def test_a_figure_that_is_not_there_is_named():
    with pytest.raises(SystemExit, match="01_first_relevance, cell nowhere"):
        slides.stored("01_first_relevance", "nowhere")


def test_what_slides_need_is_copied(tmp_path, monkeypatch):
    slides.vendored(tmp_path)
    assert all((tmp_path / name / file).stat().st_size for name, files in slides.FILES.items() for file in files)
    monkeypatch.setitem(slides.PACKAGES, "reveal", ("no-such-package", "there"))
    with pytest.raises(SystemExit, match="pip install no-such-package"):
        slides.vendored(tmp_path)


# --------------------------------------------------------------- for students

FENCE = re.compile(r"^[:`]{3,}\{solution", re.M)


@each_notebook
def test_a_student_copy_has_the_exercises_and_no_solution(path):
    nb = read(path)
    copy = student.student_copy(nb)
    nbformat.validate(copy)
    assert copy.cells[0].source.startswith("**Student's copy.**")
    assert not [c.source for c in copy.cells if FENCE.search(c.source)]
    marks = r"^[:`]{3,}\{exercise(?:-start|-end)?\}"
    whole, left = ("\n".join(c.source for c in n.cells) for n in (nb, copy))
    assert len(re.findall(marks, whole, re.M)) == len(re.findall(marks, left, re.M))
    stubs = [c.id for c in nb.cells if "stub" in c.metadata.get("tags", [])]
    kept = [c.id for c in copy.cells]
    assert set(stubs) <= set(kept) and len(kept) == len(set(kept))
    titles = [t for t in re.findall(r"^## .+$", whole, re.M)]
    assert re.findall(r"^## .+$", left, re.M) == titles, "what follows the last solution stays"
    begun = False
    for cell in copy.cells:
        begun = begun or (cell.cell_type == "markdown" and bool(student.EXERCISES.search(cell.source)))
        assert not (begun and cell.get("outputs")), "outputs of the exercises are cleared"


@each_notebook
def test_folding_touches_nothing_but_metadata(path):
    nb = read(path)
    new = student.folded(nb)
    assert [c.source for c in new.cells] == [c.source for c in nb.cells] and student.folded(new) == new
    hidden = [i for i, c in enumerate(new.cells) if c.metadata.get("jupyter", {}).get("source_hidden")]
    assert hidden == student.solution_cells(nb)


def test_solutions_are_cut_wherever_they_stand():
    def made(*sources):
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(s) for s in sources])

    start, end = ":::{solution-start} ex-1\n:class: dropdown\n:::", ":::{solution-end}\n:::"
    nb = made("before", f"{start}\n\nfirst", "middle", f"last\n\n{end}\n\n## Further reading", "behind")
    assert student.solution_cells(nb) == [1, 2, 3]
    assert [c.source for c in student.without_solutions(nb).cells] == ["before", "## Further reading", "behind"]
    nb = made("before\n\n:::{solution} ex-1\n:class: dropdown\nsecret\n:::\n\nbehind")
    assert [c.source for c in student.without_solutions(nb).cells] == ["before\n\nbehind"]


# -------------------------------------------------------------------- the PDF


def printed_pages(folder, name, count, link=None):
    """A PDF as Chromium prints one: blank pages, a named place on its last page, and a link to a file."""
    from pypdf import PdfWriter
    from pypdf.annotations import Link

    writer = PdfWriter()
    for _ in range(count):
        writer.add_blank_page(200, 200)
    writer.add_named_destination("/place", count - 1)
    if link:
        writer.add_annotation(0, Link(rect=(10, 10, 60, 30), url=link))
    writer.write(folder / f"{name}.pdf")
    return folder / f"{name}.pdf"


def test_pages_are_joined_with_bookmarks_and_links(tmp_path):
    from pypdf import PdfReader

    pages = {
        "book/intro": printed_pages(tmp_path, "intro", 1, "file:///x/html/book/one.html#place"),
        "book/one": printed_pages(tmp_path, "one", 3, "file:///x/html/other.html"),
        "book/two": printed_pages(tmp_path, "two", 2, "https://example.org"),
    }
    titles = {name: [(1, name, ""), (2, "Section", "place")] for name in pages}
    parts = [("", ["book/intro"]), ("Part", ["book/one", "book/two"])]
    pdf.joined(parts, pages, titles, tmp_path / "all.pdf")
    reader = PdfReader(tmp_path / "all.pdf")
    assert len(reader.pages) == 6
    notes = [[n.get_object() for n in p.get("/Annots", ())] for p in reader.pages]
    (inside,) = notes[0]
    assert inside["/Dest"][0].get_object() == reader.pages[3] and "/A" not in inside
    assert notes[1] == [] and notes[4][0]["/A"]["/URI"] == "https://example.org"
    flat = str([getattr(i, "title", [getattr(j, "title", "") for j in i]) for i in reader.outline])
    assert "'book/intro'" in flat and "'Part'" in flat and "'book/one'" in flat
    assert b"file://" not in (tmp_path / "all.pdf").read_bytes()


def test_the_pdf_has_every_page_of_the_book():
    names = [name for _, group in pdf.contents() for name in group]
    assert names[0] == "book/intro" and len(names) == len(set(names)) > 30
    assert all(a != b for a, b in pairwise(names))


def test_without_a_browser_the_message_says_so(monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="Chromium or Chrome"):
        pdf.chromium()


def test_a_copy_for_students_does_not_speak_of_solutions_below():
    for path in (ROOT / "book").glob("[01]*.ipynb"):
        copy = student.student_copy(nbformat.read(path, as_version=4))
        assert not [c.id for c in copy.cells if "folded away" in " ".join(c.source.split())], path.name
