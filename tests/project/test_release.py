"""What .github/workflows/release.yml builds and checks when a version is tagged, built and checked here."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STEPS = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text("utf-8"))["jobs"]["build"]["steps"]
COMMANDS = {step["name"]: step["run"] for step in STEPS if "name" in step}


def run(name, where, **variables):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **variables}
    return subprocess.run(["bash", "-e", "-c", COMMANDS[name]], cwd=where, env=env, capture_output=True, text=True)


def test_a_tag_has_to_be_the_version():
    from klrp import __version__

    assert run("the tag is the version", ROOT, GITHUB_REF_NAME=f"v{__version__}").returncode == 0
    assert run("the tag is the version", ROOT, GITHUB_REF_NAME="v99.0").returncode == 1


@pytest.mark.skipif(not (find_spec("build") and find_spec("twine")), reason="no build or no twine on this machine")
def test_sdist_and_wheel_are_complete_and_pass_the_check(tmp_path):
    for name in ("klrp", "pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for name in ("build", "check"):
        done = run(name, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    wheel, sdist = next(tmp_path.glob("dist/*.whl")), next(tmp_path.glob("dist/*.tar.gz"))
    ours = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "klrp").rglob("*")
        if p.suffix in (".py", ".typed", ".safetensors")
    }
    assert ours <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        assert ours <= {name.partition("/")[2] for name in archive.getnames()}
