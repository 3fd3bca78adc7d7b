"""Questions in, text out, trajectories in text."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.reasoning.prompts import (
    answer_templates,
    parse_positions,
    parse_trajectory,
    position_text,
    render,
    render_answer,
    templates,
    trajectory_text,
)
from sparseoccvla_ros.reasoning.serving.text_stream import TextStream, check_question, escape


@pytest.mark.parametrize(
    "text", ["Is it safe?", "  padded ", "Wie weit ist es bis zur Straße?", "前方有车吗？", "🚗‍💨?", "x" * 500]
)
def test_accepts_questions(text):
    assert check_question(text) == text.strip()


@pytest.mark.parametrize(
    "text", ["", "   ", "x" * 501, "a\x00b", "a\nb", "a\x1b[31m", "a\u202eb", "a\u2028b", "\ud800", "\ue000", None, 3]
)
def test_refuses_questions(text):
    with pytest.raises(InvalidInput) as error:
        check_question(text)
    assert error.value.field == "question"
    str(error.value).encode("utf-8")


@given(st.text())
def test_escaped_text_has_no_control_characters_and_plain_text_stays(text):
    out = escape(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in out)
    assert "\u202e" not in out
    out.encode("utf-8")
    if all(c.isprintable() for c in text):
        assert out == text


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_streamed_pieces_make_the_text(tiny_model, data):
    tokenizer = tiny_model.tokenizer
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    stream = TextStream(tiny_model.text, 10**6)
    pieces = [stream.push(i) for i in ids] + [stream.finish()]
    assert "".join(pieces) == stream.text == escape(tokenizer.decode(ids, skip_special_tokens=True))


@given(st.text(min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_whole_characters_only(tiny_model, text):
    """A character that several tokens spell never appears half."""
    tokenizer = tiny_model.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    stream = TextStream(tiny_model.text, 10**6)
    pieces = [stream.push(i) for i in ids]
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + stream.finish() == escape(text)


def test_text_is_cut_at_its_limit(tiny_model):
    ids = tiny_model.tokenizer("Plan a safe trajectory for the next 3 seconds", add_special_tokens=False)["input_ids"]
    stream = TextStream(tiny_model.text, 10)
    for i in ids:
        stream.push(i)
    assert stream.full
    assert stream.text == "Plan a saf"


# --- templates and trajectories


def test_every_template_renders():
    for family, texts in templates().items():
        for i, text in enumerate(texts):
            names = [part.split("}")[0] for part in text.split("{")[1:]]
            question = render(family, i, **{n: "x" for n in names})
            assert "{" not in question
            assert check_question(question)


def test_every_family_has_answers():
    assert set(answer_templates()) == set(templates())
    assert len(answer_templates()["conversation"]) == len(templates()["conversation"]), "they stand in one order"
    for family, texts in answer_templates().items():
        for i, text in enumerate(texts):
            names = [part.split("}")[0] for part in text.split("{")[1:]]
            assert "{" not in render_answer(family, i, **{n: "x" for n in names})
    for family, fields in (("poetry", {}), ("planning", {}), ("keywords", {"action": "stop", "why": "red"})):
        with pytest.raises(InvalidInput):
            render_answer(family, 0, **fields)


def test_what_answers_carry_can_be_read_back():
    path = np.array([[1.0, 0.0], [2.1, -0.05]])
    plan = render_answer("planning", trajectory=trajectory_text(path))
    assert plan == "Here is the planning trajectory [PT, (+1.00, +0.00), (+2.10, -0.05)]."
    np.testing.assert_allclose(parse_trajectory(plan), path)
    assert parse_positions(plan) == []
    seen = render_answer("attention", thing="bus", position=position_text(np.array([12.3, -0.45])), reason="it brakes")
    assert seen == "The bus at (+12.30, -0.45), because it brakes."
    assert parse_positions(seen) == [(12.3, -0.45)]


def test_render_refuses_unknown_families_and_fields():
    for family, fields in (("poetry", {}), ("description", {"thing": "car"}), ("counterfactual", {})):
        with pytest.raises(InvalidInput):
            render(family, 0, **fields)


@given(
    st.lists(st.tuples(st.floats(-200, 200), st.floats(-200, 200)), min_size=1, max_size=12),
    st.text(alphabet=st.characters(exclude_characters="PT[]("), max_size=20),
)
def test_trajectories_survive_the_round_trip(points, around):
    text = f"{around} {trajectory_text(np.array(points))} {around}"
    np.testing.assert_allclose(parse_trajectory(text), points, atol=0.0101)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("[PT, (+1.00, +0.00), (+2.10, -0.05)]", [(1.0, 0.0), (2.1, -0.05)]),
        ("[PT, (1, 0), (2, .5)]", [(1.0, 0.0), (2.0, 0.5)]),
        ("go [PT,(1,2),(3", [(1.0, 2.0)]),
        ("at (9, 9) then [PT, (1, 2)] or (5, 5)", [(1.0, 2.0)]),
        ("(1.5,2.5) (3,4)", [(1.5, 2.5), (3.0, 4.0)]),
        ("[PT, (1, 2), (999999999, 1), (3, 4)]", [(1.0, 2.0)]),
        ("[PT, (nan, inf)]", []),
        ("no trajectory", []),
        ("", []),
    ],
)
def test_parses(text, want):
    assert parse_trajectory(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a car at (12, -3.5) and one at (+1.00,+2.00, .5)", [(12.0, -3.5), (1.0, 2.0, 0.5)]),
        ("at (1, 2) then [PT, (3, 4)] or (5, 6)", [(1.0, 2.0), (5.0, 6.0)]),
        ("at (1, 2) then [PT, (3, 4), (5, 6)", [(1.0, 2.0)]),
        ("(99999, 0) (1, 2)", [(1.0, 2.0)]),
        ("(1) (1, 2, 3, 4) (a, b) (1, 2", []),
        ("", []),
    ],
)
def test_parses_positions(text, want):
    assert parse_positions(text) == want


@given(st.lists(st.floats(-200, 200), min_size=2, max_size=3))
def test_positions_survive_the_round_trip(point):
    (got,) = parse_positions(f"near {position_text(np.array(point))}.")
    np.testing.assert_allclose(got, point, atol=0.0101)


@pytest.mark.parametrize("point", [[1.0], [1.0, np.nan], [[1.0, 2.0]], [1.0, 2.0, 3.0, 4.0]])
def test_position_text_refuses(point):
    with pytest.raises(InvalidInput):
        position_text(np.array(point))


@given(
    st.one_of(
        st.text(), st.none(), st.integers(), st.binary(), st.text(alphabet="[](),+-. PT0123456789e", max_size=300)
    )
)
def test_parser_never_raises(text):
    out = parse_trajectory(text)
    assert all(len(p) == 2 and np.isfinite(p).all() for p in out)
    assert all(len(p) in (2, 3) and np.isfinite(p).all() for p in parse_positions(text))


def test_parser_is_quick_on_hostile_text():
    import time

    began = time.perf_counter()
    for text in ("(" * 100_000, "(1" * 50_000, "( " * 50_000, "(" + "1" * 100_000, "(1.1, " * 20_000, "[PT" * 50_000):
        parse_trajectory(text)
        parse_positions(text)
    assert time.perf_counter() - began < 2
