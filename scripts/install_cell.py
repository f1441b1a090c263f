"""Give every notebook the cell that installs klrp where it is missing, as on Colab: python scripts/install_cell.py

The address is repository.url of _config.yml. While it is empty there is nothing to install from, and no notebook has the
cell. The cell stands before all other code, folded in the page, and is the same everywhere; twice does no more than once.
"""

from copy import deepcopy
from pathlib import Path

import nbformat
import yaml
from nbformat import v4
from run_notebooks import ROOT, read, store

TAG = "install"  # outputs do not depend on the cell, so run_notebooks leaves it out of what makes them stale
SOURCE = """# On Colab, and wherever else klrp is missing, this fetches it.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("klrp") is None:
    address = "{url}"
    clone = ["git", "clone", "-q", "--depth", "1", address, "klrp-book"]
    install = [sys.executable, "-m", "pip", "install", "-q", "./klrp-book"]
    for command in (clone, install):
        subprocess.run(command, check=True)
    os.chdir("klrp-book/book")"""


def address() -> str:
    return yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]["url"]


def is_install(cell) -> bool:
    return TAG in cell.metadata.get("tags", [])


def with_install(nb, url: str):
    """The notebook with the cell for this address; without any for an empty one."""
    cells = deepcopy([cell for cell in nb.cells if not is_install(cell)])
    if url:
        first = next(i for i, cell in enumerate(cells) if cell.cell_type == "code")
        made = v4.new_code_cell(SOURCE.format(url=url), id="install0", metadata={"tags": ["hide-cell", TAG]})
        cells.insert(first, made)
    for count, cell in enumerate((c for c in cells if c.cell_type == "code" and c.source.strip()), start=1):
        cell.execution_count = count
        for out in cell.outputs:
            if out.output_type == "execute_result":
                out.execution_count = count
    return nbformat.from_dict({**nb, "cells": cells})


def main() -> None:
    for path in sorted(Path(ROOT / "book").glob("*.ipynb")):
        nb = read(path)
        if (new := with_install(read(path), address())) != nb:
            store(new, path)
            print(path.name)


if __name__ == "__main__":
    main()
