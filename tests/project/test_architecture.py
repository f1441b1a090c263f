"""Imports run one way, heavy libraries stay in their rooms, and no hook is ever registered."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "klrp"

# Each module imports only from those before it.
ORDER = """
errors tables numbers conversions rules semirings laws network network.layers network.moves meanings tracing graph composites.assignment composites.presets composites
kernels kernels.logs kernels.compiled kernels.lists kernels.packing kernels.walk kernels.sparse shares kernels.gradient kernels.blocked kernels.fused kernels.norms contraction conservation plan relevance symbolic
data models plot masks pruning perturbation widgets
""".split()

ROOMS = {
    "matplotlib": {"plot"},
    "torchvision": {"data", "models"},
    "sklearn": {"data"},
    "ipywidgets": {"widgets"},
    "safetensors": {"data"},
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
    for target in imported(tree):
        if target.startswith("klrp."):
            path = target.removeprefix("klrp.")
            known = [m for m in ORDER if path == m or path.startswith(f"{m}.")]
            assert known, f"{name} imports {target}"
            assert ORDER.index(max(known, key=len)) < ORDER.index(name), f"{name} imports {target}"


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
