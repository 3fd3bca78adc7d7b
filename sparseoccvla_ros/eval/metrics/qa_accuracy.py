"""Accuracy of answers to closed questions: yes or no, counts, directions, distances, and short texts.

An answer is normalised (`normalise`), the requested value is extracted (`read_answer`) and compared. The rules are
fixed word lists without a judge model, so results are deterministic.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from ...core.errors import InvalidInput

KINDS = ("yes_no", "count", "direction", "distance", "text")
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_COUNTS = {word: i for i, word in enumerate(_NUMBERS)} | {"no": 0, "none": 0, "nothing": 0, "nobody": 0}
_YES_NO = dict.fromkeys(("yes", "yeah", "yep", "true"), "yes") | dict.fromkeys(
    ("no", "nope", "not", "none", "false"), "no"
)
_ALONG = dict.fromkeys(("front", "ahead", "forward", "forwards", "straight"), "front") | dict.fromkeys(
    ("back", "behind", "rear", "backward", "backwards"), "back"
)
_ACROSS = {"left": "left", "leftward": "left", "right": "right", "rightward": "right"}
_NUMBER = re.compile(r"[+-]?[0-9]{1,12}(?:\.[0-9]{1,12})?")
_METRES = re.compile(rf"({_NUMBER.pattern}|{'|'.join(_NUMBERS)}) ?(?:m|metres?|meters?)\b")


@dataclass(frozen=True)
class KindAccuracy:
    """Answers of one kind: total, correct, and unreadable (no value of this kind found)."""

    n: int
    correct: int
    unreadable: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


@dataclass(frozen=True)
class AnswerAccuracy:
    """accuracy: over all answers; exact: share with the normalised reference text; per_kind; correct: by id."""

    n: int
    accuracy: float
    exact: float
    missing: int
    per_kind: dict[str, KindAccuracy]
    correct: dict[str, bool]


def normalise(text: str) -> str:
    """Normalises text to lower-case NFKC: words and plain numbers, separated by single spaces.

    Hyphens split words ("front-left"); other punctuation, thousands separators and articles are removed; a sign is kept
    before a number that does not follow a word, and a decimal point between digits.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").replace("_", " ")
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text)
    words = re.findall(r"(?<![\w.])[+-]?[0-9]+(?:\.[0-9]+)?|[^\W_]+(?:\.[0-9]+)?", text)
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def read_answer(text: str, kind: str) -> str | float | None:
    """Extracts the value of an answer, or None if it has none of its kind. Never raises on odd text.

    | kind | reading |
    |---|---|
    | yes_no | "yes" or "no": the first word among yes, yeah, yep, true / no, nope, not, none, false |
    | count | the first whole number, in digits or as a word up to twenty; no, none, nothing, nobody are 0 |
    | direction | front, back, left, right or a pair such as "front left"; None for two opposite ones |
    | distance | metres: the first number before m, metre(s), meter(s), else the first number |
    | text | the normalised text |

    Raises InvalidInput("kind") for an unknown kind.
    """
    if kind not in KINDS:
        raise InvalidInput("kind", f"want one of {KINDS}, got {kind!r}")
    plain = normalise(text)
    words = plain.split()
    if kind == "yes_no":
        return next((_YES_NO[word] for word in words if word in _YES_NO), None)
    if kind == "count":
        for word in words:
            if word in _COUNTS:
                return float(_COUNTS[word])
            if _NUMBER.fullmatch(word) and "." not in word:
                return float(word)
        return None
    if kind == "direction":
        along = {_ALONG[word] for word in words if word in _ALONG}
        across = {_ACROSS[word] for word in words if word in _ACROSS}
        return " ".join((*along, *across)) if (along or across) and len(along) < 2 and len(across) < 2 else None
    if kind == "distance":
        found = _METRES.search(plain)
        said = found[1] if found else next((w for w in words if _NUMBER.fullmatch(w) or w in _NUMBERS), None)
        return None if said is None else float(_NUMBERS.index(said) if said in _NUMBERS else said)
    return plain or None


def answer_accuracy(
    predictions: Mapping[str, str | None],
    references: Mapping[str, str],
    kinds: Mapping[str, str],
    distance_tolerance: tuple[float, float] = (1.0, 0.1),
) -> AnswerAccuracy:
    """Computes the accuracy of predictions by id; None counts as missing and wrong.

    kinds: one of KINDS for each id. distance_tolerance: (metres, share of the true distance); a distance is right
    within the larger of both, all other values must be equal.

    Raises InvalidInput: "predictions" or "kinds" if their ids differ from the references', "references" if empty or
    without a value of their kind, "kind" if unknown.
    """
    if not references:
        raise InvalidInput("references", "is empty")
    for name, given in (("predictions", predictions), ("kinds", kinds)):
        if set(given) != set(references):
            raise InvalidInput(name, f"ids differ from the references': {sorted(set(given) ^ set(references))[:3]}")
    metres, share = distance_tolerance
    correct: dict[str, bool] = {}
    unreadable: dict[str, bool] = {}
    exact = 0
    for key, reference in references.items():
        want = read_answer(reference, kinds[key])
        if want is None:
            raise InvalidInput("references", f"{key!r} says nothing of kind {kinds[key]}: {reference[:40]!r}")
        said = predictions[key] or ""
        got = read_answer(said, kinds[key])
        unreadable[key] = got is None
        if kinds[key] == "distance" and isinstance(got, float) and isinstance(want, float):
            # The slack covers rounding at the border, as in 10.0 + 0.1 * 10.0.
            correct[key] = abs(got - want) <= max(metres, share * abs(want)) + 1e-9
        else:
            correct[key] = got == want
        exact += normalise(said) == normalise(reference)
    per_kind = {}
    for kind in KINDS:
        of_kind = [key for key in references if kinds[key] == kind]
        if of_kind:
            per_kind[kind] = KindAccuracy(
                len(of_kind), sum(correct[key] for key in of_kind), sum(unreadable[key] for key in of_kind)
            )
    n = len(references)
    missing = sum(text is None for text in predictions.values())
    return AnswerAccuracy(n, sum(correct.values()) / n, exact / n, missing, per_kind, correct)
