"""The configuration refuses what cannot run, naming the field."""

import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.reasoning.config import ReasoningConfig


def test_defaults_are_valid():
    assert ReasoningConfig().language_model == "smollm2-135m-instruct"


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("occupancy_tokens", {"occupancy_tokens": 0}),
        ("occupancy_tokens", {"occupancy_tokens": 1.5}),
        ("occupancy_tokens", {"occupancy_tokens": True}),
        ("dtype", {"dtype": "int3"}),
        ("token_score", {"token_score": "median"}),
        ("global_heads", {"global_heads": 5}),
        ("forecaster_heads", {"forecaster_heads": 7}),
        ("max_prefill_tokens", {"max_prefill_tokens": 112}),
        ("score_threshold", {"score_threshold": 1.1}),
        ("time_limit", {"time_limit": float("nan")}),
        ("time_limit", {"time_limit": 1e9}),
        ("max_tokens", {"max_tokens": 5000}),
        ("language_model", {"language_model": " "}),
        ("system_prompt", {"system_prompt": None}),
    ],
)
def test_refuses(field, changes):
    with pytest.raises(InvalidInput) as error:
        ReasoningConfig(**changes)
    assert error.value.field == f"reasoning.{field}"
