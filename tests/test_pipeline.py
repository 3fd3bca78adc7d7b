"""The model in one object: the README's five lines, and what it remembers."""

import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import Command, CommandSource, Plan, Reasoning, SceneQueries
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.pipeline import SparseOccVLA
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.runtime.warm_up import made_up_frames

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_lines_of_the_readme_plan() -> None:
    """With the shipped weights on a frame set of the bundled bag."""
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "from_preset" in c)
    scope: dict = {}
    exec(code, scope)
    result = scope["result"]
    assert isinstance(result.queries, SceneQueries)
    assert isinstance(result.voxels, SparseVoxels)
    assert len(result.voxels) > 100
    assert isinstance(result.reasoning, Reasoning)
    assert isinstance(result.plan, Plan)
    assert result.plan.waypoints.shape == (6, 2)
    assert result.plan.trained
    assert set(result.seconds) == {"occupancy", "voxels", "reasoning", "planning"}


@pytest.fixture(scope="module")
def model(preset: str) -> SparseOccVLA:
    return SparseOccVLA.from_preset(preset, untrained=True)


def test_a_drive_is_remembered_until_it_ends(model: SparseOccVLA) -> None:
    first, second = made_up_frames(model.preset, 2)
    model.reset()
    assert model.step(first).motion is None
    again = model.step(second, Command.LEFT, CommandSource.TOPIC)
    assert again.motion is not None, "the plan before leads on"
    assert again.plan.command is Command.LEFT
    model.reset()
    alone = model.step(second, Command.LEFT, CommandSource.TOPIC)
    assert alone.motion is None
    assert not np.array_equal(alone.queries.features, again.queries.features)


def test_reasoning_behind_is_that_of_the_set_before(model: SparseOccVLA) -> None:
    first, second = made_up_frames(model.preset, 2)
    model.reset()
    same = model.step(first).reasoning
    model.reset()
    behind = SparseOccVLA(model.preset, model.encoder, model.reasoner, model.planner, reason_behind=True)
    for _ in range(2):
        started = behind.step(first)
        assert started.reasoning is None, "nothing came before"
        assert started.plan is not None
        later = behind.step(second).reasoning
        assert later.stamp == first.stamp
        np.testing.assert_array_equal(later.token, same.token)
        behind.reset()
    behind.step(first)
    assert behind.step(replace(second, stamp=first.stamp + 3 * 10**9)).reasoning is None, "three seconds old"


def test_a_set_that_is_refused_leaves_no_reasoning_to_the_next_drive(model: SparseOccVLA) -> None:
    first, second = made_up_frames(model.preset, 2)
    behind = SparseOccVLA(model.preset, model.encoder, model.reasoner, model.planner, reason_behind=True)
    free, reason = threading.Event(), model.reasoner.reason

    def slow(*inputs):
        free.wait(20)
        return reason(*inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.reasoner, "reason", slow)
        behind.step(first)
        with pytest.raises(InvalidInput, match="black"):
            behind.step(replace(second, images=np.zeros_like(second.images)))
        threading.Timer(0.3, free.set).start()
        behind.reset()
        assert free.is_set(), "waited for what was begun"


def test_perception_shares_the_encoder(model: SparseOccVLA) -> None:
    seeing = model.perception()
    assert seeing.encoder is model.encoder
    assert seeing.stages == ["occupancy"]
    result = seeing.step(made_up_frames(model.preset, 1)[0])
    assert (result.reasoning, result.plan) == (None, None)


def test_a_misspelt_stage_is_refused_by_name(preset: str) -> None:
    with pytest.raises(InvalidInput, match=r"stages: 'plan' is not one of occupancy, reasoning, planning"):
        SparseOccVLA.from_preset(preset, stages=("occupancy", "plan"), untrained=True)


def test_without_weights_nothing_is_stepped_silently(preset: str) -> None:
    empty = SparseOccVLA.from_preset(load_preset(preset))
    assert empty.stages == []
    with pytest.raises(InvalidInput, match="untrained"):
        empty.step(made_up_frames(empty.preset, 1)[0])
