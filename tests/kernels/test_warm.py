"""python -m klrp warm meets the compiled kernels, in the semirings that have some."""

import subprocess
import sys

import pytest
import torch

import klrp
from klrp import __main__ as command
from klrp.conversions import threshold

pytest.importorskip("numba")


@pytest.mark.parametrize("semiring", command.SEMIRINGS)
def test_the_network_is_walked_through_by_compiled_loops(semiring):
    theta = threshold(0.01) if semiring in ("boolean", "counting") else None
    kernels = klrp.kernel_for(command.network(), torch.rand(1, 3, 20, 20), semiring=semiring, theta=theta)
    assert {"lists", "loops"} <= {str(name) for name in kernels.values()}


def test_it_compiles_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(command, "SEMIRINGS", ("boolean",))
    monkeypatch.setattr(sys, "argv", ["klrp", "warm"])
    command.main()
    assert "The kernels are compiled (" in capsys.readouterr().out


def test_it_says_what_it_can_do():
    done = subprocess.run([sys.executable, "-m", "klrp", "cool"], capture_output=True, text=True)
    assert done.returncode == 2 and "warm" in done.stderr
