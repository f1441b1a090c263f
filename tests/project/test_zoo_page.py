"""The page of the networks that klrp explains says what is stored, and what is stored is what was promised."""

import json

import pytest
import zoo_page


@pytest.fixture
def records():
    return json.loads(zoo_page.RECORDS.read_text("utf-8"))


def test_the_page_is_made_from_the_record(records):
    assert zoo_page.PAGE.read_text("utf-8") == zoo_page.page(records), "run scripts/zoo_page.py"


def test_the_classifiers_of_torchvision_are_explained_and_most_of_timms_families(records):
    rows = {r["arguments"]["timm"]: r["rows"] for r in records if r["arguments"]["semirings"]}
    assert len(rows[False]) >= 80 and all(map(zoo_page.is_explained, rows[False]))
    explained = [row for row in rows[True] if zoo_page.is_explained(row)]
    assert len({row["module"] for row in explained}) >= 80
    assert all(row.get("refused") for row in rows[True] if row not in explained)


def test_the_account_was_made_for_every_classifier_of_torchvision(records):
    rows = [row for r in records for row in r["rows"] if not r["arguments"]["timm"]]
    errors = {row["network"]: row["error"] for row in rows if "error" in row}
    assert set(errors) == {row["network"] for row in rows} and max(errors.values()) < 1e-3


def made_up(timm, *refused):
    row = {"network": "vit_b_16", "module": "vit", "size": 96, "steps": 9, "error": 1e-9} | dict.fromkeys(
        zoo_page.SEMIRINGS, 2.0
    )
    return {
        "kind": "zoo", "command": "python benchmarks/zoo.py", "date": "2026-12-01", "rows": [row, *refused],
        "machine": {"cpu": "CPU", "threads": 2}, "versions": dict.fromkeys(("torch", "torchvision", "timm", "numba"), "1"),
        "arguments": {"timm": timm, "size": 64, "batch": 2, "rounds": 1, "semirings": ["real"]},
    }  # fmt: skip


def test_a_page_of_few_networks():
    page = zoo_page.page([made_up(False), made_up(True, {"network": "other", "refused": "model: add: it is late."})])
    for part in ("2 are explained", "- `other`: add: it is late.", "96 × 96 for 2", "2.0 (real)", "is 1e-09 of what"):
        assert part in page
    assert page.count("| vit_<wbr>b_<wbr>16 | 9 | 2.0") == 2 and max(map(len, page.splitlines())) <= 120


def test_numbers_and_names_fit_a_narrow_column():
    assert [zoo_page.number(v) for v in (0.96, 9.94, 9.96, 123.4)] == ["1.0", "9.9", "10", "123"]
    row = {"network": "vit_b_16", "steps": 9, "real": 1.0, "boolean": 2.0, "counting": 30.4, "viterbi": 4.0}
    assert "| vit_<wbr>b_<wbr>16 | 9 | 1.0 | 2.0 | 30 | 4.0 |" in zoo_page.table([row])


@pytest.mark.parametrize("error, expected", [
    ("model: mean: it joins the samples; name the other axes, at timm/models/a.py:592.", "`a`: mean: it joins the samples; name the other axes (timm/models/a.py:592)."),
    ("model: setitem writes in place, at timm/a_b.py:1, and klrp cannot follow. Write it anew.", "`a`: setitem writes in place, and klrp cannot follow (timm/a_b.py:1)."),
    ("took longer than 1.5 s", "`a`: took longer than 1.5 s."),
])  # fmt: skip
def test_a_refused_network_has_its_reason(error, expected):
    assert zoo_page.reason({"network": "a", "refused": error}) == expected
