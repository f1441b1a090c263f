"""Copies of the notebooks without solutions, for students: `make student` writes them to _build/student/.

Whole cells go, from the one that opens `:::{solution-start}` to the one that holds `:::{solution-end}`, and so does a
`:::{solution}` inside a cell of text. Stubs stay. What the stored outputs of the exercises show is taken away; the
outputs of the chapter stay. With --fold the notebooks of the book themselves are changed: their solution cells get the
metadata that folds them in JupyterLab.
"""

import argparse
import re
import shutil
from copy import deepcopy
from pathlib import Path

from nbformat import v4
from run_notebooks import ROOT, read, store

BOOK = ROOT / "book"
STUDENT = ROOT / "_build" / "student"
OPENS = re.compile(r"^(?P<fence>:{3,}|`{3,})\{solution-start\}", re.M)
CLOSES = re.compile(r"^(?P<fence>:{3,}|`{3,})\{solution-end\}[^\n]*(?:\n:[\w-]+:[^\n]*)*\n(?P=fence)[^\S\n]*$\n*", re.M)
WHOLE = re.compile(r"^(?P<fence>:{3,}|`{3,})\{solution\}.*?^(?P=fence)[^\S\n]*$\n*", re.M | re.S)
FOLDED = re.compile(r"\s*The\s+solutions\s+are\s+folded\s+away\.")  # which is not so in a copy without them
EXERCISES = re.compile(r"^## Exercises *$", re.M)
NOTE = """**Student's copy.** This is a copy of the notebook "{title}" without the solutions of its exercises. Fill in
the stubs and run them: `check` says whether an answer is right. The book has the solutions."""


def solution_cells(nb) -> list[int]:
    """The places of the cells that are a solution or a part of one, first to last cell of each."""
    places, inside = [], False
    for i, cell in enumerate(nb.cells):
        text = cell.source if cell.cell_type == "markdown" else ""
        inside = inside or bool(OPENS.search(text))
        if inside or WHOLE.fullmatch(text.strip() + "\n"):
            places.append(i)
        if CLOSES.search(text):
            inside = False
    return places


def around(text: str) -> str:
    """What a cell of a solution holds before the solution opens and behind its end; a whole cell holds nothing."""
    opened, closed = OPENS.search(text), CLOSES.search(text)
    before = text[: opened.start()] if opened else ""
    behind = text[closed.end() :] if closed else ""
    return (before.strip() + "\n\n" + behind.strip()).strip()


def without_solutions(nb):
    """A copy of the notebook without solutions, and without the outputs of its exercises."""
    solved, cells, exercises = set(solution_cells(nb)), [], False
    for i, cell in enumerate(deepcopy(nb.cells)):
        if cell.cell_type == "markdown":
            cell.source = around(cell.source) if i in solved else WHOLE.sub("", cell.source).strip("\n")
            cell.source = FOLDED.sub("", cell.source)
            exercises = exercises or bool(EXERCISES.search(cell.source))
        elif exercises:
            cell.outputs, cell.execution_count = [], None
        if cell.source and (i not in solved or cell.cell_type == "markdown"):
            cells.append(cell)
    copy = deepcopy(nb)
    copy.cells = cells
    return copy


def student_copy(nb):
    """The copy that a student gets: it says at its top what it is."""
    copy = without_solutions(nb)
    title = next(line[2:] for cell in nb.cells for line in cell.source.splitlines() if line.startswith("# "))
    copy.cells.insert(0, v4.new_markdown_cell(NOTE.format(title=title.strip()), id="student0"))
    copy.metadata.pop("klrp", None)  # the hash of the sources is that of the whole notebook
    return copy


def folded(nb):
    """A copy of the notebook in which exactly the solution cells are folded by JupyterLab."""
    copy = deepcopy(nb)
    solved = set(solution_cells(nb))
    for i, cell in enumerate(copy.cells):
        jupyter = {**cell.metadata.get("jupyter", {}), "source_hidden": True}
        if i not in solved:
            del jupyter["source_hidden"]
        cell.metadata.pop("jupyter", None)
        if jupyter:
            cell.metadata["jupyter"] = jupyter
    return copy


def fold(paths: list[Path]) -> None:
    for path in paths:
        nb = read(path)
        if (new := folded(nb)) != nb:
            store(new, path)
            print(f"{path.name}: {len(solution_cells(nb))} cells of solutions are folded")


def write_copies(paths: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(BOOK / "assets", folder / "assets", dirs_exist_ok=True)  # measurements that notebooks read
    for path in paths:
        store(student_copy(read(path)), folder / path.name)
    print(f"{len(paths)} notebooks without solutions are in {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of book/")
    parser.add_argument("--fold", action="store_true", help="fold the solutions of the notebooks themselves")
    args = parser.parse_args()
    paths = args.notebooks or sorted(BOOK.glob("*.ipynb"))
    if args.fold:
        fold(paths)
    else:
        write_copies(paths, STUDENT)


if __name__ == "__main__":
    main()
