"""The benchmarks run on tiny sizes and say what they promise; how fast anything is, is not tested."""

import json
import sys
from pathlib import Path

import pytest
import torch

import klrp
from klrp.kernels import threads

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ["--network", "mlp", "--batch", "2", "--rounds", "1", "--threads", "1"]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The benchmarks are scripts, not a package; the number of threads is given back."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    torch.set_num_threads(threads)


def positive(rows, *keys):
    for row in rows:
        values = [v for key in keys for v in ([row[key]] if key != "seconds" else row[key])]
        assert values and all(v > 0 for v in values), row


def test_the_table_of_engines(tmp_path, capsys):
    import speed

    path = tmp_path / "results.json"
    given = [*SMALL, "--patience", "0"]
    record = speed.main([*given, "--save", str(path)])
    rows = {row["engine"]: row for row in record["rows"]}
    ran = [row for row in rows.values() if "why" not in row]
    positive(ran, "ratio", "seconds")
    assert rows["gradient × input"]["ratio"] == 1
    semirings = "boolean counting counting_int viterbi tropical max_plus log fuzzy lukasiewicz real"
    for name in semirings.split():
        assert any(row["engine"].lower().startswith(name) for row in ran), name
    assert all(row["engine"] in capsys.readouterr().out for row in [ran[0]])
    for name in ("zennit", "captum", "torch-semiring-einsum"):
        assert any(name in engine for engine in rows), name
    for row in rows.values():
        assert row.get("why", "not installed") == "not installed", row
    # Another command comes behind the first, and takes its own place when it is run again.
    for _ in range(2):
        speed.main([*given, "--only", "real", "--no-peers", "--save", str(path)])
    kept = json.loads(path.read_text("utf-8"))
    assert [r["kind"] for r in kept] == ["speed", "speed"]
    assert str(path) not in kept[0]["command"] and kept[0]["command"].endswith("--patience 0")
    assert {"cpu", "cores", "threads", "load"} == set(kept[0]["machine"])
    assert {"python", "torch", "numba", "klrp"} <= set(kept[0]["versions"]) and kept[0]["date"]


def test_the_table_of_networks(capsys, tmp_path):
    import zoo

    given = ["--networks", "mnasnet0_*", "--size", "32", "--threads", "1", "--semirings", "real", "boolean"]
    record = zoo.main([*given, "--save", str(tmp_path / "zoo.json")])
    assert [row["network"] for row in record["rows"]] == ["mnasnet0_5", "mnasnet0_75"]
    positive(record["rows"], "steps", "gradient", "real", "boolean")
    assert all(row["error"] < 1e-9 and "refused" not in row for row in record["rows"])
    assert "mnasnet0_75" in capsys.readouterr().out


def test_a_network_that_takes_too_long_is_named_and_may_be_tried_again(monkeypatch, tmp_path):
    import zoo

    given = ["--networks", "mnasnet0_5", "--size", "32", "--threads", "1", "--semirings", "real", "--limit", "50"]
    given += ["--save", str(tmp_path / "zoo.json")]
    monkeypatch.setattr(zoo, "STARTING", -49.9)
    assert zoo.main(given)["rows"] == [{"network": "mnasnet0_5", "refused": "took longer than 50 s"}]
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(FOLDER))
    (row,) = zoo.main([*given, "--resume"])["rows"]
    assert "refused" not in row and row["steps"] > 50
    monkeypatch.setattr(zoo, "work", None)  # nothing is left to do
    assert zoo.main([*given, "--resume"])["rows"][0]["steps"] == row["steps"]
    assert len(json.loads((tmp_path / "zoo.json").read_text("utf-8"))) == 1


def test_photographs_and_other_packages():
    pytest.importorskip("captum")
    pytest.importorskip("zennit")
    import engines
    import measure

    model, x = measure.network("squeezenet1_1"), measure.inputs("squeezenet1_1", 1, 32)
    inside = [m.inplace for m in model.modules() if isinstance(m, torch.nn.ReLU)]
    for name, run in engines.peers(model, x).items():
        assert callable(run), (name, run)
        assert run().shape == x.shape if "captum" in name else run()[1].shape == x.shape
    assert inside == [m.inplace for m in model.modules() if isinstance(m, torch.nn.ReLU)]
    expected = measure.gradient(model, x)()
    found = engines.peers(model, x)["captum InputXGradient"]()
    torch.testing.assert_close(found, expected)
    assert measure.edges(torch.nn.Conv2d(2, 3, 3), torch.zeros(1, 2, 5, 5)) == 9 * 3 * 2 * 9


def test_one_layer_gives_the_same_with_and_without_explicit_shares():
    pytest.importorskip("torch_semiring_einsum")
    import engines

    found = engines.layer_engines((3, 11, 7))
    for name in ("max_plus", "log"):
        ours, theirs = (found[f"one layer, {name}: {e}"]() for e in ("klrp", "torch-semiring-einsum"))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_memory_is_measured_in_a_process_of_its_own():
    import speed

    given = [*SMALL, "--memory", "--no-peers", "--no-generic", "--only", "gradient"]
    (row,) = speed.main(given)["rows"]
    assert row["compiled"] > 0 and row["bytes"] >= 0


@pytest.mark.parametrize(
    "given", [["size", "--network", "squeezenet1_1", "--values", "32,48"], ["depth", "--values", "1,2"]]
)
def test_growth(given):
    import growth

    rows = growth.main([given[0], *SMALL, *given[1:]])["rows"]
    positive(rows, "ratio", "seconds", "edges")
    assert len(rows) == 2 * len({row["engine"] for row in rows})
    assert rows[0]["edges"] < rows[-1]["edges"] and rows[0]["value"] < rows[-1]["value"]


@pytest.mark.skipif(not threads.AVAILABLE, reason="Numba is not installed")
def test_limits():
    import limits

    record = limits.main([*SMALL, "--repeats", "10", "--threads", "2"])
    positive(record["limits"], "edges_per_second", "seconds")
    positive(record["rows"], "edges_per_second", "of_limit", "seconds")
    loops = {(row["loop"], row["threads"]) for row in record["limits"]}
    assert loops == {(name, threads) for name in limits.LOOPS for threads in (1, 2)}
    w, t, v, out = limits.operands()
    expected = {"fma": out + w * v.sum(), "max": torch.tensor(out).numpy().clip(w * v.max())}
    for name, result in expected.items():
        mine = out.copy()
        limits.loop(name)(w, t, v, mine, 1)
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(result))
    limits.loop("count")(w, t, v, out, 2)
    assert out[0] == 2 * (v[:, None] * w >= t).sum()


def test_digits_batch_after_batch():
    import digits

    images = torch.rand(24, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    row = digits.through(klrp.models.mlp().eval(), images, "viterbi", batch=2)
    assert row["batches"] == 12 and row["early"] == 2 and not row["nan"]
    assert row["seconds"][0] > 0 and 0 <= row["bytes_early"] <= row["bytes"]
    assert "viterbi" in str(digits.table([row])) and sys.modules["digits"]


def test_two_versions_side_by_side(tmp_path, capsys):
    import versions

    path = tmp_path / "results.json"
    given = ["--against", str(FOLDER.parent), "--rows", "mlp 1 viter*", "--rounds", "2", "--threads", "1"]
    record = versions.main([*given, "--json", str(path)])
    (row,) = record["rows"]
    assert row["row"] == "mlp 1 viterbi" and "mlp 1 viterbi" in capsys.readouterr().out
    for key in ("other", "this", "ratios"):
        assert len(row[key]) == 2 and all(v > 0 for v in row[key])
    assert len(versions.table(record["rows"])) == 1 and row["ratio"] > 0
    assert record["compared"]["this"] == record["compared"]["other"]
    (kept,) = json.loads(path.read_text("utf-8"))
    assert kept["kind"] == "versions" and str(path) not in kept["command"]


def test_two_versions_need_a_checkout(tmp_path):
    import versions

    with pytest.raises(SystemExit, match="no checkout of klrp"):
        versions.main(["--against", str(tmp_path), "--rows", "mlp 1 viter*"])
    with pytest.raises(SystemExit, match="none is like"):
        versions.main(["--against", str(FOLDER.parent), "--rows", "nothing"])


def test_the_quality_of_maps_is_measured_once(tmp_path, monkeypatch):
    """The digits' part, in full but for sizes; a second run takes what the file has, and measures what it has not."""
    import quality

    path = tmp_path / "quality.json"
    given = ["--networks", "digits", "--seeds", "1", "--digits", "5", "--threads", "1", "--save", str(path)]
    monkeypatch.setattr(klrp.data, "digits", lambda: klrp.data.mnist.digits(download=False))
    first = quality.main([*given, "--only", "z⁺"])
    assert {row["method"] for row in first} == {"z⁺", "ε, z⁺, flat", quality.SURVIVAL}
    both = quality.main([*given, "--only", "t"])
    assert {row["method"] for row in both} > {"z⁺", "counting, default", "Viterbi"}
    for row in both:
        counts = {k: len(v) for k, v in row["values"].items()}
        assert counts == {k: 2 if k in ("own class", "second class") else 5 for k in counts}
        assert all(abs(v) < 1e3 for values in row["values"].values() for v in values)
    record = json.loads(path.read_text("utf-8"))
    assert record["rows"] == both and record["versions"]["torch"]
    monkeypatch.setattr(quality, "numbers", lambda *_: pytest.fail("measured again"))
    assert quality.main([*given, "--only", "z⁺"]) == both
