"""Reviews, the networks that read them, the relevance of a word, and sentences with coloured words."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bs4 import BeautifulSoup

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
    """The last clause decides, and a denial turns an adjective round."""
    written = sentences()
    assert written == sentences() and len(written) == 4000
    assert sum(label for _, label in written) == 2000
    valence = klrp.data.grammar.valence()
    assert valence["great"] == 1 and valence["fails"] == -1
    for text, label in written:
        last = text.split(" but ")[-1]  # of two clauses with "and" both are of one side
        if last.endswith(" is great") or last.endswith("is not boring"):
            assert label == 1
        if last.endswith(" is boring") or last.endswith("is not great"):
            assert label == 0


# --- networks --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS)
def network(request):
    """An untrained network whose weights are double, and its kind."""
    return models.words(request.param, 12, seed=3).double().eval()


@pytest.fixture(params=semirings.SEMIRINGS)
def semiring(request):
    return request.param


def alone(tokens):
    """Each sentence by itself, without padding."""
    return [row[row != 0][None] for row in tokens]


def test_a_batch_gives_what_each_sentence_gives_alone(network, semiring):
    together = klrp.explain(network, TOKENS, semiring=semiring)
    for i, row in enumerate(alone(TOKENS)):
        single = klrp.explain(network, row, semiring=semiring)
        torch.testing.assert_close(together.logits[i : i + 1], single.logits)
        torch.testing.assert_close(together.input[i : i + 1, : row.shape[1]], single.input)


def test_padding_is_no_neuron(network, semiring):
    found = klrp.explain(network, TOKENS, semiring=semiring)
    assert found.semiring.is_zero(found.input)[TOKENS == 0].all()
    assert not found.semiring.is_zero(found.input)[TOKENS != 0].all()


@pytest.mark.parametrize("rule", [klrp.rules.zplus(), klrp.rules.gamma(0.25), klrp.rules.alpha_beta(2, 1)], ids=repr)
def test_padding_is_none_under_other_rules(network, rule):
    found = klrp.explain(network, TOKENS, rule=rule)
    assert (found.input[TOKENS == 0] == 0).all() and (found.input[TOKENS != 0] != 0).any()


def test_batch_after_batch_reads_the_padding_anew(network):
    many = klrp.explain_many(network, [TOKENS[:2], TOKENS[2:]], start="logit")
    whole = klrp.explain(network, TOKENS, start="logit")
    torch.testing.assert_close(torch.cat([r.input for r in many]), whole.input)


def test_conservation_by_account(network):
    for name, balance in klrp.explain(network, TOKENS, start="logit").conservation().items():
        rest = balance.received - balance.passed - balance.bias - balance.stabiliser - balance.lost
        assert rest.abs().max() < 1e-6, name


def test_the_relevance_of_a_word_is_the_sum_over_its_vector(network):
    found = klrp.explain(network, TOKENS, 1, start="logit")
    assert found["embed"].shape == (*TOKENS.shape, 50)
    torch.testing.assert_close(found["embed"].sum(2), found.input)
    best = klrp.explain(network, TOKENS, 1, semiring="viterbi")
    torch.testing.assert_close(best["embed"].amax(2), best.input)


def test_training_moves_a_copy_and_leaves_padding_at_zero(embedded):
    reviews = data.reviews()
    tokens, labels = reviews.train_tokens[:200], reviews.train_labels[:200]
    start = models.words("mean", len(reviews.vocabulary))
    before, state = start.embed.weight.detach().clone(), torch.get_rng_state()
    trained = models.train_words(start, tokens, labels, epochs=2, progress=False)
    again = models.train_words(start, tokens, labels, epochs=2, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(start.embed.weight, before) and not torch.equal(trained.embed.weight, before)
    assert torch.equal(trained.embed.weight, again.embed.weight) and not trained.training
    assert (trained.embed.weight[0] == 0).all()


@pytest.mark.parametrize("kind, least", [("mean", 0.62), ("convolution", 0.95), ("attention", 0.95)])
def test_networks_learn_the_grammar(embedded, kind, least):
    reviews = data.reviews()
    network = models.review_words(kind, reviews, progress=False)
    assert right(network, reviews) > least


def right(network, reviews):
    return (network(reviews.test_tokens).argmax(1) == reviews.test_labels).double().mean()


@needs_reviews
@pytest.mark.parametrize("kind, least", [("mean", 0.74), ("convolution", 0.74), ("attention", 0.72)])
def test_the_shipped_networks(kind, least):
    reviews = data.reviews()
    network = models.review_words(kind, reviews)
    assert right(network, reviews) > least
    assert not any(p.requires_grad for p in network.parameters())


def test_networks_say_what_does_not_fit(embedded):
    labels = torch.zeros(4, dtype=torch.int64)
    mean = models.words("mean", 12)
    for wrong, message in [
        (lambda: models.words("rnn"), "^words: kind is 'rnn'; expected one of mean, convolution, attention"),
        (lambda: models.words("mean", 2), "^words: vocabulary is 2"),
        (lambda: models.review_words("mean", [1]), "^review_words: reviews is a list"),
        (lambda: models.train_words(mean, TOKENS.float(), labels), "^train_words: tokens are torch.float32"),
        (lambda: models.train_words(mean, TOKENS, labels[:3]), r"^train_words: .*labels of shape \(3,\)"),
        (lambda: models.train_words(mean, TOKENS, labels, lr=0), "^train_words: epochs=5, batch=32, lr=0"),
        (lambda: models.words("attention", 12)(torch.ones(1, 65, dtype=torch.int64)), "^tokens: got 65 words"),
    ]:
        with pytest.raises(KlrpError, match=message):
            wrong()


def test_glove_reads_word_vectors(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("the 0.5 -1\ncafé 2e-1 3\n", "utf-8")
    found = models.glove(path)
    assert list(found) == ["the", "café"]
    torch.testing.assert_close(found["café"], torch.tensor([0.2, 3.0]))
    assert list(models.glove(path, {"the", "a"})) == ["the"]


@pytest.mark.parametrize("line, expected", [
    ("dull", "a word and its numbers"), ("dull 1", "a word and 2 numbers"), ("dull 1 2 3", "a word and 2 numbers"),
    ("dull 1 x", "a word and its numbers"), ("dull 1 nan", "a word and its numbers"), ("", "a word and its numbers"),
])  # fmt: skip
def test_glove_names_a_malformed_line(tmp_path, line, expected):
    path = tmp_path / "vectors.txt"
    path.write_text(f"the 0.5 -1\n{line}\nfilm 1 2\n", "utf-8")
    with pytest.raises(KlrpError, match=rf"^glove: line 2 of .*vectors\.txt is {line!r}; expected {expected}"):
        models.glove(path)
    with pytest.raises(KlrpError, match=r"^glove: .*missing\.txt cannot be read"):
        models.glove(tmp_path / "missing.txt")


# --- pictures --------------------------------------------------------------------------------------------


def spans(found):
    html = BeautifulSoup(found._repr_html_(), "html.parser")
    return html, {s.get_text(): s["style"] for s in html.find_all("span")}


def test_words_are_coloured_by_relevance():
    found = plot.words(torch.tensor([-2.0, 2.0, 0.0]), ["not", "<bad>", "film"])
    assert str(found) == repr(found) == "not −2  <bad> +2  film 0"
    html, styles = spans(found)
    assert "rgb(5,48,97);color:#fff" in styles["not"] and "rgb(103,0,31);color:#fff" in styles["<bad>"]
    assert "rgb(255,255,255);color:#000" in styles["film"]
    box = html.find(role="img")
    assert box["aria-label"] == found.alt == "“not <bad> film”, most relevant for the class: <bad>; against it: not"
    own = plot.words(torch.tensor([-2.0, 2.0]), ["not", "bad"], alt="A denial.", limit=4)
    assert own.alt == "A denial." and "rgb(103,0,31)" not in own.html


def test_sentences_stand_below_one_another_without_their_padding():
    found = plot.words(torch.tensor([[1.0, 2.0], [3.0, 9.0]]), [["a", "b"], ["c"]], titles=["x", "y"])
    assert str(found) == "x: a +1  b +2\ny: c +3"
    html, styles = spans(found)
    assert list(styles) == ["a", "b", "c"] and "rgb(103,0,31)" in styles["c"]


def test_a_relevance_is_drawn_by_the_scores_of_its_semiring():
    truth = SimpleNamespace(input=torch.tensor([[True, False]]), semiring=klrp.BOOLEAN)
    assert str(plot.words(truth, ["a", "b"])) == "a +1  b 0"
    cost = SimpleNamespace(input=torch.tensor([[1.0, torch.inf]]), semiring=klrp.TROPICAL)
    assert str(plot.words(cost, ["a", "b"])) == "a +1  b 0"


def test_the_words_most_for_and_most_against():
    table = plot.word_table(["dull", "film", "funny"], [-2.0, 0.1, 1.5], 2)
    assert table.rows == (("funny", 1.5, "dull", -2.0), ("film", 0.1, "film", 0.1))
    with pytest.raises(KlrpError, match=r"^scores: got shape \(2,\) for 3 words"):
        plot.word_table(["a", "b", "c"], [1.0, 2.0])


@pytest.mark.parametrize("relevance, words, message", [
    (torch.zeros(1), ["a", "b"], r"^words: got relevance of shape \(1, 1\), 1 sentences of up to 2 words"),
    (torch.zeros(3, 2), [["a", "b"]], r"^words: got relevance of shape \(3, 2\), 1 sentences"),
    (torch.zeros(0), [], "0 sentences"), (torch.tensor([torch.nan]), ["a"], "^words: got NaN"),
])  # fmt: skip
def test_words_that_do_not_fit(relevance, words, message):
    with pytest.raises(KlrpError, match=message):
        plot.words(relevance, words)
