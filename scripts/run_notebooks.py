"""Execute the notebooks of the book and store their outputs: `make notebooks`.

A notebook is executed only when its stored outputs are stale, that is, when its code or the code of
klrp/ has changed since; --force executes it all the same. Each one is written as soon as it has run,
so an interrupted run goes on where it stopped.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import sys
import time
from copy import deepcopy
from pathlib import Path

import nbformat

from klrp.exercises.checking import module_of

ROOT = Path(__file__).resolve().parents[1]
APPLICATIONS = ("masks", "pruning", "perturbation", "gathering")  # modules and packages that nothing else in klrp uses
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MACHINE_PATH = re.compile(
    r"(?<![\w./:+])/(?:home|root|Users|private|mnt|opt|srv|tmp|usr|var|work)/\w| at 0x[0-9a-f]{6}"
)
MEASURED = re.compile(r"\d+\.\d+")  # a time, in a cell tagged so; a whole number counts something


def canonical(node) -> str:
    """The syntax tree as text: formatting, comments and docstrings leave no trace in it.

    Empty fields are left out because Python versions differ in them (ast.dump would do for one version).
    """
    if isinstance(node, list):
        return "[" + ",".join(map(canonical, node)) + "]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        match node.body:
            case [ast.Expr(ast.Constant(str())), *rest] if rest or not isinstance(node, ast.Module):
                fields["body"] = rest
    kept = [f"{name}={canonical(value)}" for name, value in fields.items() if value not in (None, [])]
    return f"{type(node).__name__}({','.join(kept)})"


def fingerprint(source: str) -> str:
    try:
        return canonical(ast.parse(source))
    except SyntaxError:  # a cell with a magic command
        return source


def sources_hash(nb) -> str:
    """The code cells and klrp/. Prose has no part in it: a mended sentence changes no output.

    Of the exercises' checkers only those of the notebook itself count.
    """
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    cells = [cell.source for cell in code if "install" not in cell.metadata.get("tags", [])]
    parts = [fingerprint(source) for source in cells]
    chapters = {module_of(label) for source in cells for label in re.findall(r'\bcheck\(\s*"(ex-[\w-]+)"', source)}
    for path in sorted((ROOT / "klrp").rglob("*.py")):
        name = path.relative_to(ROOT / "klrp").with_suffix("").parts[0]
        if name in APPLICATIONS and not any(re.search(rf"\b{name}\b", source) for source in cells):
            continue
        if path.stem == "drawing" and not any("widgets.draw(" in source for source in cells):
            continue  # it computes in the browser
        if name == "exercises" and not (chapters and path.stem in {"__init__", "checking", *chapters}):
            continue
        parts += [path.relative_to(ROOT).as_posix(), fingerprint(path.read_text("utf-8"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_current(nb) -> bool:
    return nb.metadata.get("klrp", {}).get("sources") == sources_hash(nb)


def read(path: Path):
    raw = json.loads(path.read_text("utf-8"))
    raw["nbformat_minor"] = 5
    for i, cell in enumerate(raw["cells"]):  # an id, once given, stays
        digest = hashlib.sha256(f"{i}{cell['cell_type']}{cell['source']}".encode()).hexdigest()
        cell.setdefault("id", digest[:8])
    return nbformat.reads(json.dumps(raw), as_version=4)


def execute(nb, name: str) -> None:
    from nbclient import NotebookClient

    def progress(cell_index, **_):
        print(f"\r{name}: cell {cell_index + 1} of {len(nb.cells)}", end="", flush=True)

    where = {"metadata": {"path": str(ROOT / "book")}}
    client = NotebookClient(nb, timeout=None, kernel_name="python3", resources=where)
    client.record_timing = client.store_widget_state = False
    client.coalesce_streams = True
    client.on_cell_execute = progress
    client.execute()


def timed(nb) -> dict:
    """The outputs of the cells that print times, by the ids of the cells."""
    return {c.id: deepcopy(c.outputs) for c in nb.cells if "times" in c.metadata.get("tags", [])}


def tidy(nb, before: dict | None = None) -> None:
    """Keep what a reader sees, drop what differs from run to run: progress bars, widget models, timing.

    ``before``: what `timed` gave before the run. Times that a run confirms are not stored again.
    """
    count = 0
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [out for out in map(tidy_output, cell.outputs) if out is not None]
        if before and cell.id in before and confirmed(before[cell.id], cell.outputs):
            cell.outputs = before[cell.id]
        if cell.source.strip():
            count += 1
            cell.execution_count = count
        for out in cell.outputs:
            if out.output_type == "execute_result":
                out.execution_count = count
    nb.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "klrp": {"sources": sources_hash(nb)},
        }
    )


def tidy_output(out):
    if out.output_type == "stream" and out.name == "stderr":
        lines = re.split(r"[\r\n]+", out.text)
        for line in lines:
            if line.strip() and not re.search(r"\d+%\||\dit/s|s/it|\ds\]", line):
                print(f"\n  not stored, from stderr: {line}")
        return None
    if WIDGET_VIEW in out.get("data", {}):
        del out.data[WIDGET_VIEW]
        if set(out.data) <= {"text/plain"}:  # a live widget, with nothing to show on a page
            return None
    if {"image/png", "text/html"} <= set(out.get("data", {})):
        # One copy of a picture: the PNG, whose alternative text is in the output's metadata, or a slider, which has it.
        lone = re.fullmatch(r"\s*<img [^>]*>\s*", out.data["text/html"])
        del out.data["text/html" if lone else "image/png"]
        out.metadata = {mime: out.metadata[mime] for mime in out.data if mime in out.metadata}
    return out


def confirmed(old, new) -> bool:
    """Whether outputs differ in nothing but decimals, each of them by less than a factor of two.

    So a second run of the same code changes no file, while code that became faster or slower is seen.
    """
    old, new = (
        json.dumps([{**out, "execution_count": 0} for out in outs or []], sort_keys=True) for outs in (old, new)
    )
    blank = [re.sub(r"\s+|-{2,}", " ", MEASURED.sub("#", text)) for text in (old, new)]
    if blank[0] != blank[1]:
        return False
    pairs = zip(MEASURED.findall(old), MEASURED.findall(new), strict=True)
    return all(float(a) <= 2 * float(b) and float(b) <= 2 * float(a) for a, b in pairs)


def texts(nb):
    """Every text among the stored outputs, with the number of its cell."""
    for i, cell in enumerate(nb.cells, start=1):
        for out in cell.get("outputs", []):
            yield from ((i, str(v)) for v in [out.get("text", ""), *out.get("traceback", [])])
            data = out.get("data", {}).items()
            yield from ((i, str(v)) for mime, v in data if mime.startswith("text/"))


def machine_paths(nb) -> list[str]:
    """Places where an output tells on whose machine it was made."""
    here = {str(ROOT), str(Path.home()), sys.prefix, os.environ.get("KLRP_DATA", "")}
    here = [p for p in here if p.count("/") > 1]
    return [
        f"cell {i}: {text[:80]!r}" for i, text in texts(nb) if MACHINE_PATH.search(text) or any(p in text for p in here)
    ]


def store(nb, path: Path) -> None:
    nbformat.validate(nb)
    partial = path.with_suffix(".partial")
    nbformat.write(nb, partial)
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of book/")
    parser.add_argument("--force", action="store_true", help="also those whose outputs are current")
    args = parser.parse_args()
    os.environ.pop("KLRP_FAST", None)  # stored outputs are the full ones
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks lose time to threads that wait
    for path in args.notebooks or sorted((ROOT / "book").glob("*.ipynb")):
        nb, start = read(path), time.monotonic()
        if is_current(nb) and not args.force:
            print(f"{path.name}: current")
            continue
        before = timed(nb)
        execute(nb, path.name)
        tidy(nb, before)
        if found := machine_paths(nb):
            sys.exit(f"\n{path.name} shows a path or an address of this machine, so it was not stored: {found}")
        store(nb, path)
        print(f"\r{path.name}: {time.monotonic() - start:.0f} s, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
