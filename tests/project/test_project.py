"""The files around the package agree with each other and with what is promised about them."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONDA_NAMES = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib", "python-build": "build"}


def requirement(text):
    name, specifier = re.fullmatch(r"([\w.-]+)\s*(.*)", text).groups()
    return CONDA_NAMES.get(name, name).lower().replace("_", "-"), specifier


def test_environment_yml_asks_for_what_pyproject_asks_for():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    assert pip["pip"].pop() == "-e ." and "pip" in conda
    python = next(line for line in conda if line.startswith("python="))
    assert python.split("=")[1] >= PROJECT["requires-python"].removeprefix(">=")
    theirs = {requirement(line) for line in conda + pip["pip"] if line not in (python, "pip")}
    extras = PROJECT["optional-dependencies"]
    ours = PROJECT["dependencies"] + [line for e in ("fast", "imagenet", "book", "test") for line in extras[e]]
    assert theirs == {requirement(line) for line in ours}


def test_the_version_can_be_read_without_importing():
    tree = ast.parse((ROOT / "klrp" / "__init__.py").read_text("utf-8"))
    version = next(
        node.value.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", version)
    assert (ROOT / "klrp" / "py.typed").exists()


def test_yaml_files_parse():
    names = ["CITATION.cff", "_config.yml", "_toc.yml", ".pre-commit-config.yaml"]
    for path in [ROOT / n for n in names] + sorted((ROOT / ".github" / "workflows").iterdir()):
        assert yaml.safe_load(path.read_text("utf-8")), path


def test_make_refuses_an_old_python_and_says_so(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", "book", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode and "Python 3.11 or newer" in run.stdout + run.stderr
    assert not (tmp_path / "venv").exists()


def test_make_help_lists_the_targets():
    run = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in "book test notebooks lab fmt lint clean".split():
        assert f"make {target} " in run.stdout


FORMS = [  # the first and the second compute the same, the third does not
    ("x = 1\n", "# why\nx  =  (1)\n", "x = 2\n"),
    ('def f():\n    "Doc."\n    return 1', "def f(): return 1", 'def f():\n    return "Doc."'),
    ('class A:\n    "Doc."', 'class A:\n    """Another."""', "class B:\n    pass"),
    ("print(f'{x:.2f}')", 'print(f"{x:.2f}")', 'print(f"{x:.3f}")'),
    ("%time x", "%time x", "%time y"),
]


@pytest.mark.parametrize("source, same, other", FORMS)
def test_the_hash_of_sources_sees_code_alone(source, same, other):
    from run_notebooks import fingerprint

    assert fingerprint(source) == fingerprint(same) != fingerprint(other)


def test_run_notebooks_stores_outputs_without_noise_and_skips_what_is_current(tmp_path):
    import nbformat
    import run_notebooks as script
    from nbformat import v4

    code = "import sys\nprint('\\r 50%|##', file=sys.stderr)\nprint('seen')\n6 * 7"
    nb = v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), v4.new_code_cell(code)])
    path = tmp_path / "page.ipynb"
    nbformat.write(nb, path)
    command = [sys.executable, script.__file__, path]
    subprocess.run(command, check=True, capture_output=True)
    stored = script.read(path)
    cell = stored.cells[1]
    assert [o.get("text") or o.data["text/plain"] for o in cell.outputs] == ["seen\n", "42"]
    assert cell.execution_count == 1 and stored.cells[0].id == nb.cells[0].id
    assert set(stored.metadata) == {"kernelspec", "language_info", "klrp"}
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "current" in again.stdout
    stored.cells[1].source += "  # a comment"
    assert script.is_current(stored)
    stored.cells[1].source += "\n43"
    assert not script.is_current(stored)


def test_an_output_with_a_path_of_the_machine_is_found():
    import run_notebooks as script
    from nbformat import v4

    out = v4.new_output("stream", name="stdout", text="read /home/someone/data\n")
    nb = v4.new_notebook(cells=[v4.new_code_cell("1", outputs=[out])])
    assert script.machine_paths(nb)
    out.text = "read data from book/assets, 3/4 done\n"
    assert not script.machine_paths(nb)


PROBE = """
import pathlib, sys, klrp, torch
assert pathlib.Path(klrp.__file__).is_relative_to(sys.argv[1]), klrp.__file__
models = klrp.models
x = torch.rand(1, 1, 28, 28)
networks = [models.digit_mlp(seed=s) for s in range(5)] + [models.digit_vit(), models.digit_lstm()]
assert all(klrp.explain(network, x).input.isfinite().all() for network in networks)
assert models.imagenette_vgg()(torch.rand(1, 3, 64, 64)).shape == (1, 10)
for file in models.shipped.hashes():
    models.shipped.shipped(file)
"""


def test_a_wheel_brings_the_trained_networks(tmp_path):
    """Built from a copy, unpacked elsewhere, and run from a third folder, isolated from this one's."""
    copy, site, elsewhere = (tmp_path / name for name in ("copy", "site", "elsewhere"))
    elsewhere.mkdir()
    shutil.copytree(ROOT / "klrp", copy / "klrp", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(ROOT / name, copy)
    build = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir", "--wheel-dir", tmp_path, copy]
    subprocess.run([sys.executable, *map(str, build)], check=True, env={**os.environ, "PYTHONPATH": ""})
    (wheel,) = tmp_path.glob("klrp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    run = f"import sys; sys.path.insert(0, sys.argv[1]); exec({PROBE!r})"
    subprocess.run([sys.executable, "-I", "-c", run, str(site)], check=True, cwd=elsewhere)


def executed(*outputs, tags=()):
    from nbformat import v4

    return v4.new_notebook(cells=[v4.new_code_cell("1", id="a", outputs=list(outputs), metadata={"tags": list(tags)})])


def test_a_picture_is_stored_once_with_its_alternative_text():
    import run_notebooks as script
    import torch
    from nbformat import v4

    from klrp import plot, widgets

    def stored(picture):
        data, metadata = picture._repr_mimebundle_()
        nb = executed(v4.new_output("execute_result", data, metadata=metadata))
        script.tidy(nb)
        return nb.cells[0].outputs[0]

    figures = [plot.panel([torch.eye(8) * x], ["map"]) for x in (1, -1)]
    one = stored(plot.show(figures[0], "A diagonal."))
    assert set(one.data) == {"image/png", "text/plain"}
    assert one.metadata == {"image/png": {"alt": "A diagonal."}}
    slider = stored(widgets.frames(figures, "ab", ["Red.", "Blue."]))
    assert set(slider.data) == {"text/html", "text/plain"} and not slider.metadata


@pytest.mark.parametrize(
    "text, kept",
    [
        ("mlp    0.31 s\nvgg  2.0 s\n", True),
        ("mlp 0.91 s\nvgg 2.0 s\n", False),  # three times as long is news
        ("mlp 0.30 s\nalex 2.0 s\n", False),
        ("mlp 0.30 s\n", False),
    ],
)
def test_times_that_a_run_confirms_are_not_stored_again(text, kept):
    import run_notebooks as script
    from nbformat import v4

    earlier, later = (v4.new_output("stream", name="stdout", text=t) for t in ("mlp 0.30 s\nvgg 2.1 s\n", text))
    for tags in (["times"], []):
        nb = executed(later, tags=tags)
        script.tidy(nb, script.timed(executed(earlier, tags=tags)))
        assert nb.cells[0].outputs == [earlier if kept and tags else later]


def test_cells_without_times_stay_beside_one_that_has_some():
    import run_notebooks as script
    from nbformat import v4

    nb = executed(v4.new_output("stream", name="stdout", text="0.3 s\n"), tags=["times"])
    before = script.timed(nb)
    nb.cells.append(v4.new_code_cell("pass", id="silent"))
    script.tidy(nb, before)
    assert nb.cells[0].outputs and not nb.cells[1].outputs


def test_an_address_of_memory_is_found():
    import run_notebooks as script
    from nbformat import v4

    for text, found in {"<function f at 0x7f3a5c0d1e50>": True, "the byte at 0x10": False}.items():
        assert bool(script.machine_paths(executed(v4.new_output("stream", name="stdout", text=text)))) == found
