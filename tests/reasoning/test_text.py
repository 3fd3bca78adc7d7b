"""Questions in, text out."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
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


@settings(max_examples=100)
@given(data=st.data())
def test_streamed_pieces_make_the_text(tiny_model, data):
    tokenizer = tiny_model.tokenizer
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    stream = TextStream(tiny_model.text, 10**6)
    pieces = [stream.push(i) for i in ids] + [stream.finish()]
    assert "".join(pieces) == stream.text == escape(tokenizer.decode(ids, skip_special_tokens=True))


@given(st.text(min_size=1, max_size=60))
@settings(max_examples=100)
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
