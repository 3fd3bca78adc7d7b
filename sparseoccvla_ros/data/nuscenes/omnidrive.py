"""Reading and writing question sets in OmniDrive's file layout (Wang et al., CVPR 2025), for its data and the world's.

    conv/<split>/<token>.json       list of {question, answer}
    desc/<split>/<token>.json       {description, action}
    keywords/<split>/<token>.json   a string
    vqa/<split>/<token>.json        list of {question, answer}
    kinds/<split>/<token>.json      the world's own: every question with its family, kind, key and visual flag

OmniDrive generates planning questions online and stores none; here they are in `kinds`, which other readers ignore.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...core.errors import InvalidInput
from ...world.qa.questions import FAMILIES, KINDS, Question, templates

STORED = ("conv", "desc", "keywords", "vqa")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _path(root: Path, family: str, split: str, token: str) -> Path:
    for name, value in (("split", split), ("token", token)):
        if not _NAME.fullmatch(value):
            raise InvalidInput(name, f"{value[:80]!r} is no name of 1..64 letters, digits, _ and -")
    return root / family / split / f"{token}.json"


def write_questions(root: Path, split: str, token: str, questions: Sequence[Question]) -> None:
    """Write the questions of a sample; families without questions get no file.

    Raises InvalidInput for a split or token other than 1..64 letters, digits, _ and -.
    """
    pairs = {f: [{"question": q.question, "answer": q.answer} for q in questions if q.family == f] for f in FAMILIES}
    contents: dict[str, Any] = {f: pairs[f] for f in ("conv", "vqa") if pairs[f]}
    if pairs["desc"]:
        action = next((q.answer for q in questions if q.key == "action"), "")
        contents["desc"] = {"description": pairs["desc"][0]["answer"], "action": action}
    if pairs["keywords"]:
        contents["keywords"] = pairs["keywords"][0]["answer"]
    contents["kinds"] = [asdict(q) for q in questions]
    for family, content in contents.items():
        path = _path(root, family, split, token)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(str(path), f"is no JSON: {error}") from error


def _pairs(path: Path) -> list[tuple[str, str]]:
    content = _read(path)
    try:
        return [(str(p["question"]), str(p["answer"])) for p in content]
    except (TypeError, KeyError) as error:
        raise InvalidInput(str(path), "want a list of {question, answer}") from error


def _own(path: Path) -> list[Question]:
    try:
        questions = [Question(**entry) for entry in _read(path)]
    except TypeError as error:
        raise InvalidInput(str(path), "want a list of questions") from error
    for question in questions:
        if question.family not in FAMILIES or question.kind not in KINDS:
            raise InvalidInput(str(path), f"family {question.family!r}, kind {question.kind!r} is unknown")
    return questions


def read_questions(root: Path, split: str, token: str) -> list[Question]:
    """Read the questions of a sample; without `kinds` (OmniDrive's own data) all are free text, keyed by their family.

    Descriptions and keywords are stored without a question and get one of the templates, chosen by the token. Returns
    an empty list if the token has no file. Raises InvalidInput naming the file for malformed content.
    """
    own = _path(root, "kinds", split, token)
    if own.is_file():
        return _own(own)
    found: list[tuple[str, str, str]] = []
    for family in STORED:
        path = _path(root, family, split, token)
        if not path.is_file():
            continue
        if family in ("conv", "vqa"):
            found += [(family, *pair) for pair in _pairs(path)]
            continue
        content = _read(path)
        answer = content.get("description") if family == "desc" and isinstance(content, dict) else content
        if not isinstance(answer, str):
            raise InvalidInput(str(path), "want {description, action}" if family == "desc" else "want a string")
        texts = templates()["questions"]["description" if family == "desc" else "keywords"]["texts"]
        found.append((family, texts[zlib.crc32(token.encode()) % len(texts)], answer))
    return [Question(family, "free_text", family, question, answer, True) for family, question, answer in found]
