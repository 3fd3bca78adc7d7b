"""Language metrics: identities, empty and odd texts, what is refused, what is named when something is lacking."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.eval.metrics import language, meteor
from sparseoccvla_ros.eval.metrics.language import (
    BLEU,
    Document,
    evaluate,
    scene_interval,
)

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed (requirements/eval.txt)")
pytest.importorskip("nltk", reason="nltk is not installed (requirements/eval.txt)")

TEXTS = (
    "A bus waits at the stop ahead.",
    "Two cyclists cross from left to right near us.",
    "Heavy rain hides most lane markings tonight.",
    "Der Gehweg ist gesperrt — près du café 前方有车 🚗",
)
NLTK = ("METEOR-nltk", "METEOR-nltk-no-synonyms")


def documents(answers, scenes=("", "", "", "")):
    return [
        Document(str(i), a, (t,), s)
        for i, (a, t, s) in enumerate(zip(answers, TEXTS[: len(answers)], scenes, strict=True))
    ]


def test_the_reference_itself_gets_the_highest_scores():
    """CIDEr is 10 for texts of four words and more whose n-grams stand in no other document."""
    result = evaluate(documents(TEXTS))
    for name in (*BLEU, "ROUGE-L"):
        assert result.scores[name].value == pytest.approx(1, abs=1e-9)
    assert result.scores["CIDEr"].value == pytest.approx(10, abs=1e-9)
    (meteor_name,) = set(NLTK) & set(result.scores)
    assert result.scores[meteor_name].value > 0.99, "a full match keeps its fragmentation penalty of one chunk"
    assert result.n == 4
    assert result.tokenisation == "hermes"
    assert "same 4 documents" in result.notes[0]


def test_one_document_has_no_cider():
    result = evaluate(documents(TEXTS[:1], [""]))
    assert result.scores["CIDEr"].value == 0


def test_raw_recipe_neither_folds_case_nor_drops_punctuation():
    answers = [text.replace(".", "").upper() for text in TEXTS]
    assert evaluate(documents(answers)).scores["ROUGE-L"].value < 0.2


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java runtime: PTB tokeniser")
def test_ptb_recipe_folds_case_and_drops_punctuation(monkeypatch):
    seen = {}
    monkeypatch.setattr(language, "meteor_java", lambda h, r: seen.update(h=h, r=r) or (1.0, np.ones(len(h))))
    result = evaluate(documents([text.replace(".", "").upper() for text in TEXTS]), "ptb")
    assert result.scores["ROUGE-L"].value == pytest.approx(1)
    assert seen["h"][0] == "a bus waits at the stop ahead"
    assert seen["r"][0] == ["a bus waits at the stop ahead"]
    assert "METEOR-1.5" in result.scores


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java runtime: PTB tokeniser")
@pytest.mark.parametrize(
    "texts", [["a b", ""], [""], ["", "...", "x"], ["a\nb", "c\u2028d"], ["\ud800x", "\x0b"], ["x \x00 y", "é 前 🚗"]]
)
def test_ptb_tokens_stay_with_their_text(texts):
    tokens = meteor.ptb_tokens(texts)
    assert len(tokens) == len(texts)
    for text, words in zip(texts, tokens, strict=True):
        assert bool(words) == any(c.isalnum() for c in text)


def test_missing_and_empty_answers_count_and_score_nothing():
    result = evaluate(documents([None, "", " \n", TEXTS[3]], ["a", "a", "b", "b"]))
    assert (result.n, result.missing, result.empty) == (4, 1, 2)
    for name, score in result.scores.items():
        np.testing.assert_array_equal(score.per_document[:3] < 1e-9, True, err_msg=name)
    assert result.scores["ROUGE-L"].value == pytest.approx(0.25)
    low, high = result.scores["ROUGE-L"].interval
    assert (low, high) == (0, 0.5)
    assert result.scores["BLEU-4"].interval is None


def test_nothing_but_empty_answers():
    result = evaluate(documents([""] * 4))
    assert all(score.value == pytest.approx(0, abs=1e-9) for score in result.scores.values())


def test_nothing_is_printed_and_the_result_repeats(capfd):
    first, second = (evaluate(documents(TEXTS[::-1], "abcd")) for _ in range(2))
    assert capfd.readouterr().out == ""
    assert {k: (s.value, s.interval) for k, s in first.scores.items()} == {
        k: (s.value, s.interval) for k, s in second.scores.items()
    }


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.text(max_size=40), st.text(min_size=1, max_size=40).filter(str.strip)), min_size=1, max_size=5
    )
)
def test_odd_texts_get_finite_scores(pairs):
    result = evaluate([Document(str(i), said, (truth,)) for i, (said, truth) in enumerate(pairs)])
    assert set((*BLEU, "ROUGE-L", "CIDEr")) <= set(result.scores)
    for name, score in result.scores.items():
        assert np.isfinite(score.per_document).all()
        assert -1e-9 <= score.value <= (10 if name == "CIDEr" else 1) + 1e-9


# --- documents


@pytest.mark.parametrize(
    ("docs", "options", "field"),
    [
        ([], {}, "documents"),
        ([Document("a", "x", ("x",))] * 2, {}, "documents"),
        ([Document("a", "x", ())], {}, "documents"),
        ([Document("a", "x", ("x", " "))], {}, "documents"),
        ([Document("a", "x", ("x",))], {"tokenisation": "moses"}, "tokenisation"),
    ],
)
def test_refused(docs, options, field):
    with pytest.raises(InvalidInput) as error:
        evaluate(docs, **options)
    assert error.value.field == field


def test_interval_draws_whole_scenes():
    values = np.array([0.0] * 50 + [1.0] * 50)
    wide = scene_interval(values, ["a"] * 50 + ["b"] * 50)
    narrow = scene_interval(values, [str(i) for i in range(100)])
    assert wide == (0, 1)
    assert 0.35 < narrow[0] < 0.5 < narrow[1] < 0.65
    assert scene_interval(values, ["a"] * 100) is None


# --- what a machine lacks is named


def test_without_java_the_ptb_recipe_is_absent_by_name(monkeypatch):
    monkeypatch.setattr(meteor.shutil, "which", lambda _: None)
    result = evaluate(documents(TEXTS), "ptb")
    assert not result.scores
    assert set(result.absent) == {*BLEU, "ROUGE-L", "CIDEr", "METEOR-1.5"}
    assert all("Java" in reason for reason in result.absent.values())
    with pytest.raises(meteor.Unavailable, match="Java"):
        meteor.meteor_java(["a"], [["a"]])


def test_without_wordnet_meteor_has_another_name(monkeypatch):
    monkeypatch.setattr(meteor, "wordnet", lambda: None)
    result = evaluate(documents(TEXTS))
    assert set(NLTK) & set(result.scores) == {"METEOR-nltk-no-synonyms"}
    assert "WordNet" in result.absent["METEOR-nltk"]


def test_synonyms_count_where_wordnet_is():
    if meteor.wordnet() is None:
        pytest.skip("no WordNet (wordnet-base, WNSEARCHDIR)")
    said, truth = [["the", "auto", "stops"]], [[["the", "car", "stops"]]]
    assert meteor.meteor_nltk(said, truth)[0] > meteor.meteor_nltk(said, truth, synonyms=False)[0]


def test_meteor_stems_and_folds_case():
    with_stems = meteor.meteor_nltk([["Cars", "brake"]], [[["car", "BRAKES"]]], synonyms=False)
    assert with_stems[0] == pytest.approx(1 - 0.5 * 0.5**3)
    assert meteor.meteor_nltk([[]], [[["car"]]], synonyms=False)[0] == 0
