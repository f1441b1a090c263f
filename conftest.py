"""What all tests share. A test that takes `device` runs on every device found."""

import os

import pytest

# Small networks: threads that wait for each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        import torch  # not at the top: the notebooks' own pytest run does not need it

        metafunc.parametrize("device", ["cpu"] + ["cuda"] * torch.cuda.is_available())


def pytest_report_header(config):
    """Which versions of the independent references, and of what kernels are made with, this run compares."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("torch", "torchvision", "numba", "zennit", "captum", "quantus", "timm"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return "compared with: " + ", ".join(found)


@pytest.fixture(scope="module")
def one_thread():
    """Small networks, whose threads would wait for each other: ``pytestmark = pytest.mark.usefixtures("one_thread")``."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
