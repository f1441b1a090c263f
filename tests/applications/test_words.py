"""Reviews, the networks that read them, the relevance of a word, and sentences with coloured words."""

import os
from pathlib import Path

import pytest
import torch

import klrp
from klrp import data, models, plot, semirings
from klrp.data.grammar import sentences
from klrp.errors import KlrpError

GIVEN = Path(os.environ.get("KLRP_DATA") or "none").expanduser()
needs_reviews = pytest.mark.skipif(not (GIVEN / "rt-polarity").is_dir(), reason="KLRP_DATA holds no rt-polarity")
pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["mean", "convolution", "attention"]
TOKENS = torch.tensor([[3, 4, 5, 6, 7, 8, 9], [2, 9, 3, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0], [2, 2, 2, 8, 1, 0, 0]])


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """The sentences of the grammar, and an empty cache."""
    monkeypatch.setenv("KLRP_DATA", "none")
    monkeypatch.setenv("KLRP_CACHE", str(tmp_path / "cache"))


# --- data ------------------------------------------------------------------------------------------------


def test_words_are_letters_and_digits_with_apostrophes_inside():
    text = "It isn't HALF-bad : 'tis a film of 1999's , café_olé & more !"
    assert data.tokenise(text) == "it isn't half bad tis a film of 1999's café olé more".split()
    with pytest.raises(KlrpError, match="^tokenise: got a list; expected a text"):
        data.tokenise(["a", "b"])


def check_reviews(found):
    for tokens, labels, texts in (
        (found.train_tokens, found.train_labels, found.train_texts),
        (found.test_tokens, found.test_labels, found.test_texts),
    ):
        assert len(tokens) == len(labels) == len(texts)
        assert tokens.dtype == labels.dtype == torch.int64
        assert 0.45 < labels.double().mean() < 0.55
        lengths = (tokens != 0).sum(1)
        behind = torch.arange(tokens.shape[1]) >= lengths[:, None]
        assert torch.equal(tokens == 0, behind) and lengths.min() > 0
        assert lengths.tolist() == [len(data.tokenise(text)) for text in texts]
        assert tokens.max() < len(found.vocabulary)
    n = len(found.test_texts)
    assert 0.08 < n / (n + len(found.train_texts)) < 0.12
    assert not set(found.train_texts) & set(found.test_texts)
    assert len(set(found.vocabulary)) == len(found.vocabulary)
    assert set(found.vocabulary[2:]) <= {w for text in found.train_texts for w in data.tokenise(text)}
    assert torch.equal(found.encode(found.test_texts), found.test_tokens)


def test_the_grammars_reviews(embedded, capsys):
    found = data.reviews()
    check_reviews(found)
    assert found.source == "grammar" and "written by a grammar" in capsys.readouterr().out
    assert torch.equal(found.train_tokens, data.reviews().train_tokens)
    row = found.encode("The ZZZ is great")
    assert [found.vocabulary[i] for i in row[0]] == ["the", "<unknown>", "is", "great"]


@needs_reviews
def test_pang_and_lees_reviews(monkeypatch, tmp_path):
    found = data.reviews()
    check_reviews(found)
    assert found.source == "rt-polarity" and len(found.vocabulary) == 5000
    assert len(found.train_texts) + len(found.test_texts) > 10_600
    monkeypatch.setenv("KLRP_DATA", "")
    monkeypatch.setenv("KLRP_CACHE", str(GIVEN))
    assert torch.equal(data.reviews().test_tokens, found.test_tokens)


def test_reviews_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("KLRP_DATA", str(tmp_path))
    monkeypatch.setenv("KLRP_CACHE", str(tmp_path / "cache"))
    assert data.reviews().source == "grammar"
    folder = tmp_path / "rt-polarity"
    folder.mkdir()
    with pytest.raises(KlrpError, match=r"reviews: .*rt-polarity\.neg is missing"):
        data.reviews()
    (folder / "rt-polarity.neg").write_text("dull .\n", "latin-1")
    (folder / "rt-polarity.pos").write_text(" . . \n", "latin-1")
    with pytest.raises(KlrpError, match=r"reviews: .*rt-polarity\.pos has no sentences"):
        data.reviews()
    with pytest.raises(KlrpError, match="^reviews: words is 2"):
        data.reviews(2)


def test_encode_wants_words(embedded):
    with pytest.raises(KlrpError, match="^encode: .*at least one word"):
        data.reviews().encode(["great", " ... "])


def test_the_grammar_means_what_it_says():
    """The last clause decides; a denial turns an adjective round; both sides have the same nouns."""
    written = sentences()
    assert written == sentences() and len(written) == 4000
    assert sum(label for _, label in written) == 2000
    for text, label in written:
        last = text.split(" but ")[-1]
        if last.endswith(" is great") or last.endswith("is not boring"):
            assert label == 1
        if last.endswith(" is boring") or last.endswith("is not great"):
            assert label == 0
