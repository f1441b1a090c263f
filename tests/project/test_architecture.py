"""Imports run one way, heavy libraries stay in their rooms, and no hook is ever registered."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from klrp import semirings

PACKAGE = Path(__file__).resolve().parents[2] / "klrp"
# Lines of code: without kernels, readers and applications; all but the checkers of exercises. They rise with what can be explained, and only so.
CORE_LINES, PACKAGE_LINES = 4520, 10720
LARGE: dict[str, int] = {}  # larger than a module should be, and not to grow

# Each module imports only from those before it.
CORE = """
errors tables numbers conversions rules semirings composed aggregates laws
network network.layers network.factors network.moves network.linearised network.builders network.products
network.vocabulary network.calls network.purity network.shadow network.taken_apart network.refusals network.unseen
network.capture network.naming network.steps network.rearranging network.registered network.assembly network.tracing
composites.assignment composites.presets composites shares
""".split()
FROM_KERNELS_ON = """
kernels kernels.threads kernels.cache kernels.blocks kernels.blocked kernels.gradient kernels.powers kernels.transport
kernels.several kernels.paired kernels.pnorm kernels.loops kernels.lists kernels.lists.layout kernels.lists.build kernels.lists.pack kernels.lists.walk
""".split()
EXPLANATION = "arguments conservation relevance explain".split()
READERS = "symbolic paths homomorphisms circuits".split()  # of formulas, paths and maps
APPLICATIONS = """
thresholds data data.folders data.mnist data.photographs data.grammar data.reviews data.weights
models models.training models.shipped models.toy models.digits models.photographs models.sentences
plot plot.values plot.maps plot.lines plot.networks plot.paths plot.pictures plot.texts experiments masks masks.collected masks.networks
pruning pruning.layers pruning.scores pruning.copies pruning.results
perturbation perturbation.noise perturbation.flipping perturbation.attacks
quality quality.maps quality.methods quality.mosaics quality.faithfulness quality.examined gathering
widgets widgets.sliders widgets.exploring widgets.drawing
""".split()
CHAPTERS = [f"exercises.{p.stem}" for p in sorted((PACKAGE / "exercises").glob("ch*.py")) if p.stem != "checking"]
EXERCISES = ["exercises.checking", *CHAPTERS, "exercises"]  # the book's: they use whatever there is
ORDER = CORE + FROM_KERNELS_ON + EXPLANATION + READERS + APPLICATIONS + EXERCISES + ["__main__"]

ROOMS = {
    "matplotlib": {"plot", "plot.maps", "plot.lines", "plot.networks", "plot.paths", "plot.pictures"},
    "torchvision": {"data.mnist", "data.photographs", "models.photographs"},
    "sklearn": {"data.mnist", "data.photographs"},
    "ipywidgets": {"widgets.exploring", "widgets.drawing"},
    "anywidget": {"widgets.drawing"},
    "safetensors": {"data.weights", "gathering"},
    "efficientnet_lite_pytorch": {"models.photographs"},
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            yield name, ast.parse(path.read_text("utf-8"))


def imported(tree):
    """The full names of what a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_order_lists_every_module():
    assert sorted(ORDER) == sorted(name for name, _ in modules())


@pytest.mark.parametrize("name, tree", list(modules()), ids=lambda v: v if isinstance(v, str) else "")
def test_a_module_imports_only_from_those_before_it(name, tree):
    if name in CHAPTERS:
        return  # they import as readers do
    for target in imported(tree):
        if target.startswith("klrp."):
            path = target.removeprefix("klrp.")
            known = [m for m in ORDER if path == m or path.startswith(f"{m}.")]
            assert known, f"{name} imports {target}"
            found = max(known, key=len)
            inside = found.startswith(f"{name}.")  # a package is the face of its modules
            assert inside or ORDER.index(found) < ORDER.index(name), f"{name} imports {target}"


KERNELS = {"blocked", "gradient", "powers", "transport", "several", "paired", "pnorm", "lists", "loops"}


@pytest.mark.parametrize("name, tree", list(modules()), ids=lambda v: v if isinstance(v, str) else "")
def test_kernels_import_nothing_of_each_other(name, tree):
    kernel = name.removeprefix("kernels.").split(".")[0]
    if name.startswith("kernels.") and kernel in KERNELS:
        for target in imported(tree):
            others = [other for other in KERNELS - {kernel} if f"{target}.".startswith(f"klrp.kernels.{other}.")]
            assert not others, f"{name} imports {target}"


def test_a_semiring_is_asked_for_its_facts_and_never_who_it_is():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "semirings.py":
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Compare) and any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
                    names = {getattr(side, "id", getattr(side, "attr", "")) for side in (node.left, *node.comparators)}
                    assert "semiring" not in names and not names & set(semirings.SEMIRINGS), path.name


def test_kernels_ask_for_facts_not_for_a_semiring():
    for name, tree in modules():
        if name.startswith("kernels"):
            for node in ast.walk(tree):
                known = isinstance(node, ast.ImportFrom) and node.module == "klrp.semirings"
                assert not known or [alias.name for alias in node.names] == ["Semiring"], name


# --- sizes -----------------------------------------------------------------------------------------------


def code_lines(tree, source):
    """The lines that hold code: neither blank nor comment nor docstring."""
    documented = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            documented |= set(range(body[0].lineno, body[0].end_lineno + 1))
    lines, silent = set(), (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*silent, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - documented


def sizes():
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text("utf-8")
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), ast.parse(source), source


def test_a_module_is_read_in_one_sitting_and_the_package_in_an_evening():
    found = {name: len(code_lines(tree, source)) for name, tree, source in sizes()}
    assert {name: n for name, n in found.items() if n > LARGE.get(name, 260)} == {}
    core = [name for name in found if name.removesuffix(".__init__") in {"__init__", *CORE, *EXPLANATION}]
    assert sum(found[name] for name in core) <= CORE_LINES
    assert sum(n for name, n in found.items() if not name.startswith("exercises")) <= PACKAGE_LINES


def test_a_function_is_read_at_a_glance():
    long = {}
    for name, tree, source in sizes():
        lines = code_lines(tree, source)
        compiled = {id(n) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and "njit" in ast.dump(n)}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and id(node) not in compiled:
                n = len(lines & set(range(node.lineno, node.end_lineno + 1)))
                if n > 35:
                    long[f"{name}.{node.name}"] = n
    assert long == {}


def test_functions_of_one_name_have_one_signature():
    """Of the kernels, of the layers and of the moves: whoever calls one can call any."""
    signatures = {}
    for name, tree in modules():
        if name.startswith(("kernels", "network.layers", "network.moves")):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and node.name in SHARED:
                    arguments = [a.arg for a in node.args.args]
                    signatures.setdefault((node.name, name.startswith("kernels")), set()).add(tuple(arguments))
    assert {key for key, found in signatures.items() if len(found) > 1} == set()
    assert {key[0] for key in signatures} == SHARED


SHARED = {"why_not", "contract", "taps", "linear", "adjoint", "hand_down", "pairs", "lost"}


def test_heavy_libraries_stay_in_their_rooms():
    for name, tree in modules():
        for target in imported(tree):
            room = ROOMS.get(target.split(".")[0])
            assert room is None or name in room, f"{name} imports {target}"


def test_importing_klrp_loads_none_of_them():
    code = "import sys, klrp; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *ROOMS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_registers_a_hook():
    assert not [path for path in PACKAGE.rglob("*.py") if "register_" in path.read_text("utf-8")]
