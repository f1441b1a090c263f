"""Sums of parts, files that are whole or not there, runs that are killed, and several processes."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn

import klrp
from klrp import gathering, masks, perturbation, pruning, quality
from klrp.conversions import threshold
from klrp.data import save_weights
from klrp.errors import KlrpError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "masks_by_torchrun.py"
N = 13


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(35, 11), nn.ReLU(), nn.Linear(11, 3)).double().eval()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(N, 1, 5, 7, generator=generator, dtype=torch.float64), torch.arange(N) % 3


def gatherers(model):
    """By kind: from (images, labels) to what is gathered."""
    zplus = klrp.rules.zplus()
    return {
        "masks": lambda x, y: masks.collect(model, [(x, y)], semiring="boolean", theta=threshold(0.05), progress=False),
        "scores": lambda x, y: pruning.relevance_scores(model, x, y, ["1"], progress=False),
        "curves": lambda x, y: perturbation.flip(model, x, y, {"ink": x}, steps=5, score="logit", progress=False),
        "gains": lambda x, y: quality.relevance_gain(model, x, {"ink": x}, fills=("zero",), steps=5, progress=False),
        "examined": lambda x, y: quality.examine(model, quality.lrp(rule=zplus), x, progress=False),
    }


def tensors(value, path=()):
    """All tensors of a result, by where they stand."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    if isinstance(value, dict):
        return {k: t for key, v in value.items() for k, t in tensors(v, (*path, key)).items()}
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, klrp.Semiring):
        return {k: t for f in fields(value) for k, t in tensors(getattr(value, f.name), (f.name,)).items()}
    return {}


def same(a, b, exact=True):
    mine, other = tensors(a), tensors(b)
    assert mine.keys() == other.keys() and mine
    return all(torch.equal(v, other[k]) if exact else torch.allclose(v, other[k], rtol=1e-12) for k, v in mine.items())


@pytest.mark.parametrize("kind", gathering.KINDS)
def test_parts_add_up_to_the_whole(network, data, kind):
    gather = gatherers(network)[kind]
    x, y = data
    parts = [gather(a, b) for a, b in zip(x.split(5), y.split(5), strict=True)]
    whole, sum_of_parts = gather(x, y), parts[0] + parts[1] + parts[2]
    if kind == "examined":  # noise and random weights are drawn for each call
        assert len(sum_of_parts.second) == N and torch.allclose(sum_of_parts.second, whole.second)
    else:
        assert same(whole, sum_of_parts, exact=False)  # products of matrices round by the size of a batch
        assert same(parts[0] + (parts[1] + parts[2]), sum_of_parts, exact=False)
    if kind == "masks":
        assert torch.equal(whole.relevant, sum_of_parts.relevant) and str(whole) == str(sum_of_parts)


@pytest.mark.parametrize("kind", gathering.KINDS)
def test_what_is_stored_comes_back(network, data, kind, tmp_path):
    found = gatherers(network)[kind](*data)
    path = tmp_path / "new" / "found.safetensors"
    gathering.save(path, found)
    back = gathering.load(path)
    assert type(back) is type(found) and same(found, back) and str(back) == str(found)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_damaged_file_is_refused(network, data, tmp_path):
    path = tmp_path / "found.safetensors"
    gathering.save(path, gatherers(network)["masks"](*data))
    blob = path.read_bytes()
    flipped = bytearray(blob)
    flipped[-3] ^= 1
    other = blob.replace(b"boolean", b"viterbi")
    for damaged in (blob[:-1], blob[:40], b"", bytes(flipped), other):
        path.write_bytes(damaged)
        with pytest.raises(KlrpError, match="path: .*found.safetensors .*Delete it and gather again"):
            gathering.load(path)
    save_weights(path, {"weight": torch.ones(2)})
    with pytest.raises(KlrpError, match="gather again"):
        gathering.load(path)
    with pytest.raises(KlrpError, match="cannot be read"):
        gathering.load(tmp_path / "none.safetensors")


def test_what_does_not_belong_together_is_not_added(network, data):
    made = {kind: gather(*data) for kind, gather in gatherers(network).items()}
    with pytest.raises(KlrpError, match="got Masks and Scores"):
        made["masks"] + made["scores"]
    x, y = data
    levels = masks.collect(network, [(x, y)], levels=5, progress=False)
    viterbi = masks.collect(network, [(x, y)], semiring="viterbi", progress=False)
    norms = pruning.norm_scores(network, ["1"])
    for a, b, why in (
        (levels, levels, "without levels"),
        (made["masks"], viterbi, "of boolean and .* of viterbi"),
        (norms, norms, "0 and 0 samples"),
        (made["curves"], perturbation.flip(network, x, y, {"ink": x}, steps=5, progress=False), "score is 'logit'"),
        (
            made["gains"],
            quality.relevance_gain(network, x, {"x": x}, fills=("zero",), steps=5, progress=False),
            "got ink and x",
        ),
    ):
        with pytest.raises(KlrpError, match=why):
            a + b
    with pytest.raises(KlrpError, match="gathered: got list"):
        gathering.save("nowhere", [1])


def test_masks_of_a_semiring_of_ones_own(data, tmp_path):
    own = klrp.Semiring("own", 0.0, 1.0, lambda x, dim: x.amax(dim), torch.mul, domain=(0, 1))
    found = masks.from_maps(data[0], data[1], semiring=own)
    gathering.save(tmp_path / "own", found)
    with pytest.raises(KlrpError, match="semiring"):
        gathering.load(tmp_path / "own")
    assert gathering.load(tmp_path / "own", semiring=own).semiring is own
    with pytest.raises(KlrpError, match="over 'own'"):
        gathering.load(tmp_path / "own", semiring=klrp.VITERBI)


def test_a_run_over_a_semiring_that_is_not_shipped_goes_on(network, data, tmp_path):
    semiring = klrp.signed("counting")
    parts = list(zip(data[0].split(5), data[1].split(5), strict=True))

    def gather(part):
        return masks.collect(network, [part], semiring=semiring, theta=threshold(0.05), progress=False)

    gathering.save(tmp_path / "cut", gather(parts[0]), run="signed", parts=1)
    with pytest.raises(KlrpError, match="semiring"):
        gathering.resume(tmp_path / "cut", parts, gather, run="signed", progress=False)
    found = gathering.resume(tmp_path / "cut", parts, gather, run="signed", semiring=semiring, progress=False)
    assert same(found, gather(parts[0]) + gather(parts[1]) + gather(parts[2]))


@pytest.mark.parametrize("kind", gathering.KINDS)
def test_a_run_that_fails_goes_on(network, data, kind, tmp_path):
    gather, parts = gatherers(network)[kind], list(zip(data[0].split(2), data[1].split(2), strict=True))
    calls = []

    def failing(part):
        calls.append(len(part[0]))
        if len(calls) in (3, 5):
            raise RuntimeError("the power is gone")
        return gather(*part)

    settings = dict(run=kind, progress=False)
    whole = gathering.resume(tmp_path / "whole", parts, lambda part: gather(*part), **settings)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            gathering.resume(tmp_path / "cut", parts, failing, **settings)
    found = gathering.resume(tmp_path / "cut", parts, failing, **settings)
    assert len(calls) == len(parts) + 2
    assert same(whole, found) or kind == "examined"
    again = gathering.resume(tmp_path / "cut", parts, failing, **settings)
    assert same(found, again) and len(calls) == len(parts) + 2  # nothing was computed
    with pytest.raises(KlrpError, match="run: got 'other'"):
        gathering.resume(tmp_path / "cut", parts, failing, run="other", progress=False)
    with pytest.raises(KlrpError, match="parts: got 2, and 7 are stored"):
        gathering.resume(tmp_path / "cut", parts[:2], failing, **settings)


KILLED = """
import sys, time, torch, klrp
torch.set_num_threads(1)
from klrp import gathering
model = klrp.models.mlp((35, 11, 3), seed=0)
x = torch.rand(60, 1, 5, 7, generator=torch.Generator().manual_seed(0))
y = torch.arange(60) % 3
def gather(batch):
    time.sleep(float(sys.argv[2]))
    return klrp.masks.collect(model, [batch], semiring="counting", theta=klrp.conversions.threshold(0.02), progress=False)
gathering.resume(sys.argv[1], list(zip(x.split(2), y.split(2))), gather, run="killed", progress=False)
"""


def test_a_run_that_is_killed_at_any_moment_goes_on(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(name, pause):
        return subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / name), str(pause)], env=env)

    whole = start("whole", 0)
    assert whole.wait(timeout=120) == 0
    draw, seen = random.Random(0), []
    for _ in range(3):
        process, before = start("cut", 0.05), seen[-1] if seen else 0
        while not (tmp_path / "cut").exists() or gathering._stored(tmp_path / "cut", "killed")[1] == before:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(gathering._stored(tmp_path / "cut", "killed")[1])
    assert start("cut", 0).wait(timeout=120) == 0 and 0 < seen[0] < seen[-1] < 30
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_two_processes_find_what_one_finds(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "KLRP_DATA": "none"}
    run = "torch.distributed.run --standalone --nproc-per-node".split()
    for n in (1, 2):
        command = [sys.executable, "-m", *run, str(n), str(EXAMPLE), "--out", str(tmp_path / str(n)), "--batch", "100"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    one, two = (gathering.load(tmp_path / n / "masks.safetensors") for n in "12")
    assert same(one, two) and one.samples.sum() > 1000
    parts = [gathering.load(tmp_path / "2" / f"part_{i}.safetensors") for i in range(2)]
    assert same(parts[0] + parts[1], two) and not same(parts[0], parts[1])


def test_without_processes_there_is_nothing_to_reduce(network, data):
    with pytest.raises(KlrpError, match="group: torch.distributed is not initialised"):
        gathering.reduced(gatherers(network)["masks"](*data))
