"""Closed answers are read by fixed rules and compared."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.eval.metrics.qa_accuracy import KINDS, answer_accuracy, normalise, read_answer


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("  The Car, a BUS!  ", "car bus"),
        ("front-left", "front left"),
        ("1,200 m at +3.50 and −2", "1200 m at +3.50 and -2"),
        ("(12.5, -3)", "12.5 -3"),
        ("ＦＵＬＬ ｗｉｄｔｈ", "full width"),
        ("Straße", "strasse"),
        ("...", ""),
    ],
)
def test_normalise(text, want):
    assert normalise(text) == want
    assert normalise(want) == want


@pytest.mark.parametrize(
    ("kind", "text", "want"),
    [
        ("yes_no", "Yes, two of them.", "yes"),
        ("yes_no", "There is no car.", "no"),
        ("yes_no", "It is not safe", "no"),
        ("yes_no", "A car stands there.", None),
        ("count", "There are three cars and 2 buses.", 3.0),
        ("count", "No cars.", 0.0),
        ("count", "12 cars", 12.0),
        ("count", "at 3.5 m: 2", 2.0),
        ("count", "many", None),
        ("direction", "To the front-left of us", "front left"),
        ("direction", "left, ahead", "front left"),
        ("direction", "behind", "back"),
        ("direction", "left or right", None),
        ("direction", "unknown", None),
        ("distance", "About 12.5 m ahead.", 12.5),
        ("distance", "car 3 is 20 metres away", 20.0),
        ("distance", "car 3 is 20m away", 20.0),
        ("distance", "twelve meters", 12.0),
        ("distance", "7", 7.0),
        ("distance", "far", None),
        ("text", "The red car.", "red car"),
        ("text", "?", None),
    ],
)
def test_reads(kind, text, want):
    assert read_answer(text, kind) == want


@given(st.text(), st.sampled_from(KINDS))
@example("_0A", "yes_no")
def test_never_raises_on_odd_text(text, kind):
    got = read_answer(text, kind)
    assert got is None or isinstance(got, str) or math.isfinite(got)
    assert normalise(normalise(text)) == normalise(text)


def test_accuracy_by_kind():
    truth = {"y": "Yes.", "n": "No.", "c": "Three.", "d": "20 m", "d2": "20 m", "w": "front left", "t": "a van"}
    kinds = {
        "y": "yes_no",
        "n": "yes_no",
        "c": "count",
        "d": "distance",
        "d2": "distance",
        "w": "direction",
        "t": "text",
    }
    said = {"y": "yes, one", "n": None, "c": "3 cars", "d": "22 m", "d2": "22.1 m", "w": "Left, ahead.", "t": "The VAN"}
    result = answer_accuracy(said, truth, kinds)
    assert result.correct == {"y": True, "n": False, "c": True, "d": True, "d2": False, "w": True, "t": True}
    assert result.accuracy == pytest.approx(5 / 7)
    assert result.exact == pytest.approx(1 / 7)
    assert (result.n, result.missing) == (7, 1)
    assert result.per_kind["yes_no"].accuracy == 0.5
    assert result.per_kind["yes_no"].unreadable == 1
    assert set(result.per_kind) == set(KINDS)
    assert answer_accuracy(said, truth, kinds, distance_tolerance=(3, 0)).per_kind["distance"].accuracy == 1


@pytest.mark.parametrize(
    ("said", "truth", "kinds", "field"),
    [
        ({}, {}, {}, "references"),
        ({"a": "x"}, {"b": "x"}, {"b": "text"}, "predictions"),
        ({"a": "x"}, {"a": "x"}, {}, "kinds"),
        ({"a": "x"}, {"a": "x"}, {"a": "poem"}, "kind"),
        ({"a": "3"}, {"a": "many"}, {"a": "count"}, "references"),
    ],
)
def test_refused(said, truth, kinds, field):
    with pytest.raises(InvalidInput) as error:
        answer_accuracy(said, truth, kinds)
    assert error.value.field == field
