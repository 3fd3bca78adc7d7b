"""Language scores against recorded ones of the public tools: HERMES's evaluator, pycocoevalcap, nltk, METEOR 1.5."""

from __future__ import annotations

import json
import os
import shutil
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseoccvla_ros.eval.metrics.language import BLEU, Document, caption_scores, evaluate
from sparseoccvla_ros.eval.metrics.meteor import meteor_java, meteor_nltk, nltk_tokens, ptb_tokens, wordnet

pytestmark = pytest.mark.numeric

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed (requirements/eval.txt)")
pytest.importorskip("nltk", reason="nltk is not installed (requirements/eval.txt)")

FIXTURES = Path(os.environ.get("SPARSEOCCVLA_FIXTURES", Path(__file__).parents[3] / "shared" / "fixtures"))
FOUND = sorted(FIXTURES.glob("language_metrics*/language.json"))
RECORDED = [pytest.param(path, id=path.parent.name) for path in FOUND] or [
    pytest.param(None, marks=pytest.mark.skip(reason="no language_metrics* under SPARSEOCCVLA_FIXTURES"))
]
each_recording = pytest.mark.parametrize("path", RECORDED)
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no Java runtime: PTB tokeniser, METEOR 1.5")
needs_wordnet = pytest.mark.skipif(
    wordnet() is None or wordnet().get_version() != "3.0", reason="no WordNet 3.0 (wordnet-base, WNSEARCHDIR)"
)


@lru_cache
def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def sets(path: Path) -> dict[str, tuple[list[str], list[list[str]], dict[str, Any]]]:
    """(hypotheses, references, recorded scores) of each recorded set."""
    data = load(path)
    said = [p["hypothesis"] for p in data["pairs"]]
    truth = [[p["reference"]] for p in data["pairs"]]
    half = data["first_half"]["n"]
    multi = data["multi_reference"]["pairs"]
    return {
        "all": (said, truth, data),
        "first half": (said[:half], truth[:half], data["first_half"]),
        "identical": ([refs[0] for refs in truth], truth, data["identical"]),
        "multi": ([p["hypothesis"] for p in multi], [p["references"] for p in multi], data["multi_reference"]),
    }


def as_lists(tokens: list[Any]) -> list[list[str]]:
    return [[entry] if isinstance(entry, str) else entry for entry in tokens]


def assert_caption_scores(scores: dict[str, Any], want: dict[str, Any], of: str) -> None:
    for k, name in enumerate(BLEU):
        assert scores[name].value == pytest.approx(want["bleu_corpus"][k], abs=1e-9), (of, name)
        np.testing.assert_allclose(
            scores[name].per_document, np.array(want["bleu_item"])[:, k], atol=1e-9, rtol=0, err_msg=f"{of} {name}"
        )
    for name, key in (("ROUGE-L", "rouge_l"), ("CIDEr", "cider")):
        assert scores[name].value == pytest.approx(want[f"{key}_corpus"], abs=1e-9), (of, name)
        np.testing.assert_allclose(
            scores[name].per_document, want[f"{key}_item"], atol=1e-9, rtol=0, err_msg=f"{of} {name}"
        )


@each_recording
def test_raw_recipe(path):
    for name, (said, truth, data) in sets(path).items():
        documents = [
            Document(str(i), text, tuple(refs)) for i, (text, refs) in enumerate(zip(said, truth, strict=True))
        ]
        assert_caption_scores(evaluate(documents, "hermes").scores, data["raw"], name)


@each_recording
def test_ptb_scores_on_the_recorded_tokens(path):
    for name, (_, _, data) in sets(path).items():
        if "tokens_hyp" in data["ptb"]:
            scores = caption_scores(data["ptb"]["tokens_hyp"], as_lists(data["ptb"]["tokens_ref"]))
            assert_caption_scores(scores, data["ptb"], name)


@each_recording
def test_nltk_words(path):
    for said, truth, data in sets(path).values():
        if "nltk_tokens_hyp" in data["raw"]:
            assert [nltk_tokens(text) for text in said] == data["raw"]["nltk_tokens_hyp"]
            assert [[nltk_tokens(t) for t in refs] for refs in truth] == data["raw"]["nltk_tokens_ref"]


@needs_wordnet
@each_recording
def test_nltk_meteor(path):
    for name, (said, truth, data) in sets(path).items():
        got = meteor_nltk([nltk_tokens(text) for text in said], [[nltk_tokens(t) for t in refs] for refs in truth])
        np.testing.assert_allclose(got, data["raw"]["meteor_nltk_item"], atol=1e-6, rtol=0, err_msg=name)
        assert got.mean() == pytest.approx(data["raw"]["meteor_nltk_mean"], abs=1e-6)


@each_recording
def test_nltk_meteor_without_synonyms_is_near_and_never_above(path):
    said, truth, data = sets(path)["all"]
    tokens = [nltk_tokens(text) for text in said], [[nltk_tokens(t) for t in refs] for refs in truth]
    got = meteor_nltk(*tokens, synonyms=False)
    assert data["raw"]["meteor_nltk_mean"] - 0.02 < got.mean() < data["raw"]["meteor_nltk_mean"]


@needs_java
@each_recording
def test_ptb_recipe(path):
    tokens = cache(lambda *texts: ptb_tokens(texts))  # starts Java; two sets have the same references
    for name, (said, truth, data) in sets(path).items():
        words = iter(tokens(*(text for refs in truth for text in refs)))
        refs = [[next(words) for _ in group] for group in truth]
        hyps = tokens(*said)
        if "tokens_hyp" in data["ptb"]:
            assert hyps == data["ptb"]["tokens_hyp"], name
            assert refs == as_lists(data["ptb"]["tokens_ref"]), name
        assert_caption_scores(caption_scores(hyps, refs), data["ptb"], name)


@needs_java
@pytest.mark.slow
@each_recording
def test_java_meteor(path):
    ptb = load(path)["ptb"]
    total, each = meteor_java(ptb["tokens_hyp"], as_lists(ptb["tokens_ref"]))
    assert total == pytest.approx(ptb["meteor15_corpus"], abs=1e-4)
    np.testing.assert_allclose(each, ptb["meteor15_item"], atol=1e-4, rtol=0)


@each_recording
def test_result_files_as_hermes_prints_them(path):
    recorded = load(path)["result_files"]
    # HERMES scores every turn of a conversation but the last two.
    documents = [
        Document(f"file{i}/{k}", turn["answer"], (turn["gt_answer"],))
        for i, turns in enumerate(recorded["files"])
        for k, turn in enumerate(turns[: max(0, len(turns) - 2)])
    ]
    result = evaluate(documents, "hermes")
    assert result.n == recorded["n_scored"]
    for name, key in (("ROUGE-L", "ROUGE_L"), ("CIDEr", "CIDEr"), ("METEOR-nltk", "METEOR")):
        if name in result.scores:
            assert f"{result.scores[name].value:.4f}" == recorded["printed"][key], name
        else:
            assert "WordNet" in result.absent[name]
