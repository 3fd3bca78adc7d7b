"""Public names use the field's words: a short list of dialect that must not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sparseoccvla_ros"
INSTEAD = {
    "StandIn": "EngineAdapter",
    "Turns": "PriorityLock",
    "Observer": "TopicMonitor",
    "play_through": "run_on_bag",
    "Wanted": "EvalConfig",
    "Shown": "Visualization",
    "Known": "TrainingPriors",
    "Readings": "ReasoningFeatures",
    "told_wrong": "mislabelled_fraction",
    "start_with_words": "pretrain_connector",
    "start_with_answers": "pretrain_on_questions",
    "word_steps": "connector_steps",
    "reader_steps": "question_steps",
    "opinion": "llm_scores",
    "speaks": "has_language",
    "spoken": "token_embedding",
    "replaced_by_newer": "dropped_queue_overwrite",
    "yielded_to_answer": "deferred_for_generation",
    "hears": "reasoning_filter",
    "hears_plan": "plan_in_prompt",
    "in_turns": "interleaved",
    "told_apart": "reaction_sums",
    "deprived": "run_ablations",
    "vouched": "valid_record",
    "photographed_anew": "photometric_distortion",
    "Asked": "QaPair",
    "l2_deaf": "l2_no_reasoning",
}
"""Words that no public name may be, and what the same thing is called."""


def public_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names of classes, functions, parameters, fields and attributes, and words that are strings, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+", node.value):
            yield node.value, node.lineno


@pytest.mark.parametrize("room", sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"))
def test_no_dialect(room: str) -> None:
    for file in sorted((PACKAGE / room).rglob("*.py")):
        text = file.read_text()
        if INSTEAD.keys().isdisjoint(re.findall(r"\w+", text)):  # most files: there is nothing to parse
            continue
        for name, line in public_names(ast.parse(text)):
            assert name not in INSTEAD, f"{file.relative_to(ROOT)}:{line}: {name}: say {INSTEAD[name]}"
