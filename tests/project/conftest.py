"""The built book, which several tests read, and the browser that opens its pages: each is there once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from pdf import BROWSERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The book, built as `make book` builds it: the folder of its pages. KLRP_SITE=folder names one that is built already."""
    if built := os.environ.get("KLRP_SITE"):
        return Path(built).resolve()
    out = tmp_path_factory.mktemp("book")
    tool = Path(sys.executable).with_name("jupyter-book")
    command = [tool, "build", ROOT, "--path-output", out, "--all", "-W", "-n", "--keep-going", "-q"]
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert run.returncode == 0, run.stdout + run.stderr
    return out / "_build" / "html"


@pytest.fixture(scope="session")
def soups(site):
    pages = [p for p in site.rglob("*.html") if "_static" not in p.parts]
    return {p: BeautifulSoup(p.read_text("utf-8"), "html.parser") for p in pages}


def chromium():
    """The path of a Chromium on this machine, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")  # longer, and Playwright's event loop would be in the way of other tests
def browser():
    """One Chromium for all tests of a module, without a network (playwright.sync_api.Browser)."""
    driver = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    if not chromium():
        pytest.skip("no Chromium on this machine: install Debian's package chromium, or Chrome")
    with driver.sync_playwright() as playwright:
        quiet = ["--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
        running = playwright.chromium.launch(executable_path=chromium(), args=quiet)
        yield running
        running.close()
