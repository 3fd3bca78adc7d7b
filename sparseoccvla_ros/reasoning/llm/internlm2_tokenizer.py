"""InternLM2's tokenizer as a fast tokenizer built from its sentencepiece file: its own class would be remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...core.errors import InvalidInput

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Default for folders without a chat template."""
_NORMAL, _USER_DEFINED = 1, 4
"""Types of sentencepiece pieces that occur in text."""


def load(folder: Path) -> Any:
    """Loads the tokenizer of an InternLM2 folder (tokenizer.model and tokenizer_config.json, or tokenizer.json).

    Added tokens keep the ids of tokenizer_config.json (or added_tokens.json): InternLM2 renames the last unused pieces
    of its vocabulary, and InternVL appends its own. Raises InvalidInput("language_model") when tokenizer.model is
    missing or a file cannot be read.
    """
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast

    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    settings = _json(folder / "tokenizer_config.json")
    added = _added(settings, _json(folder / "added_tokens.json"))
    pieces, prefix = _pieces(folder / "tokenizer.model")
    vocabulary = [text for text, _ in pieces]
    for place, text in sorted(added.items()):
        if place > len(vocabulary):
            raise InvalidInput("language_model", f"{folder.name}: no token has the id {len(vocabulary)}")
        vocabulary[place : place + 1] = [text]
    names = {key: _content(settings.get(key)) for key in ("unk_token", "bos_token", "eos_token", "pad_token")}
    defaults = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    special = sorted(set(added.values()) - set(defaults.values()))
    tokenizer = LlamaTokenizer(
        vocab={text: i for i, text in enumerate(vocabulary)},
        merges=_merges(pieces),
        **{key: names[key] or default for key, default in defaults.items()},
        additional_special_tokens=special,
        add_prefix_space=prefix,
        # Text after a special token starts with a space, as in sentencepiece.
        legacy=True,
    )
    template = folder / "chat_template.jinja"
    own = template.read_text(encoding="utf-8") if template.is_file() else settings.get("chat_template")
    tokenizer.chat_template = own or CHAT_TEMPLATE
    return tokenizer


def _pieces(file: Path) -> tuple[list[tuple[str, int]], bool]:
    """Returns ((text, type) of each piece in order of ids, whether text is prefixed with a space)."""
    from google.protobuf.message import DecodeError
    from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except (OSError, DecodeError) as error:
        raise InvalidInput("language_model", f"{file.name} cannot be read: {error}") from error
    if not model.pieces:
        raise InvalidInput("language_model", f"{file.name} has no pieces")
    return [(p.piece, p.type) for p in model.pieces], bool(model.normalizer_spec.add_dummy_prefix)


def _merges(pieces: list[tuple[str, int]]) -> list[tuple[str, str]]:
    """Returns the merges: pairs of pieces that concatenate to a piece, by the id of the resulting piece.

    Sentencepiece's BPE training lists pieces in merge order, so ids are ranks.
    """
    rank = {text: i for i, (text, kind) in enumerate(pieces) if kind in (_NORMAL, _USER_DEFINED)}
    merges = []
    for text in rank:
        pairs = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in rank and text[i:] in rank]
        merges += sorted(pairs, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
    return merges


def _added(settings: dict[str, Any], other: dict[str, Any]) -> dict[int, str]:
    found = {int(place): _content(token) for place, token in settings.get("added_tokens_decoder", {}).items()}
    return {**{int(place): text for text, place in other.items()}, **found}


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput("language_model", f"{file.name} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}
