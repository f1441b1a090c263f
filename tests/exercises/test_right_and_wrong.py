"""Every checker takes the right answer, refuses three wrong ones, and says why."""

import importlib

import pytest

from klrp.exercises import NotYet, check, labels

LABELS = labels()


def answers(label):
    """The module of right and wrong answers that belongs to a label's chapter."""
    return importlib.import_module(f"answers_{chapter_of(label)}")


def chapter_of(label):
    part = label.split("-")[1]
    return f"ch{int(part):02d}" if part.isdigit() else f"ch_{part}"


@pytest.mark.parametrize("label", LABELS)
def test_the_right_answer_is_taken(label, capsys):
    check(label, answers(label).RIGHT[label])
    assert capsys.readouterr().out.startswith(f"✓ {label}: right")


@pytest.mark.parametrize("label", LABELS)
def test_three_wrong_answers_are_refused(label):
    wrong = answers(label).WRONG[label]
    assert len(wrong) >= 3
    for answer in wrong:
        with pytest.raises(NotYet, match=f"✗ {label}: not yet. .+"):
            check(label, answer)


@pytest.mark.parametrize("label", LABELS)
def test_no_answer_is_no_wrong_answer(label, capsys):
    check(label, None)
    assert "no answer yet" in capsys.readouterr().out
