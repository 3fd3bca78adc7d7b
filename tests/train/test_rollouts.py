"""Drives of the chain with the expert's plans as labels: what is kept, and that training takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.synthetic.dataset import world_settings
from sparseoccvla_ros.eval.closed_loop.policies import ExpertPolicy
from sparseoccvla_ros.eval.closed_loop.rollout import drive
from sparseoccvla_ros.pipeline import SparseOccVLA
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.train.build import Source, _routed, rollouts_of, with_rollouts
from sparseoccvla_ros.train.features.rollouts import FIRST, RolloutFeatures, write_rollout
from sparseoccvla_ros.train.features.synthetic import STATE_FIELDS, FeatureCache
from sparseoccvla_ros.train.rollouts import Rollouts, roll_out

SECONDS = 2.6


def cache(weights: str = "abc") -> FeatureCache:
    return FeatureCache(world_settings("train"), weights, "{}")


def arrays(count: int) -> dict[str, np.ndarray]:
    return {
        "features": np.zeros((count, 3, 8), np.float16), "centres": np.zeros((count, 3, 3), np.float32),
        "time": 0.5 * np.arange(count), "pose": np.tile(np.eye(4), (count, 1, 1)),
        "twist": np.zeros((count, 6), np.float32), "ego": np.zeros((count, 5), np.float32),
        "command": np.zeros(count, np.uint8), "future": np.tile(np.eye(4, dtype=np.float32), (count, 6, 1, 1)),
        "route": np.array([(-2.0, -1.0), (30.0, -1.0)]),
    }  # fmt: skip


def sources(base: FeatureCache) -> dict[str, Source]:
    source = Source(base, [5], None, lambda seed: [], lambda seed: None, lambda seed: [], lambda seed: None)
    return {"train": source, "validation": source}


def test_rollouts_stand_beside_the_worlds_drives_and_keep_their_number(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path / "cache"))
    for seed, count in ((20, 4), (21, 3)):
        told = {"encoder": "abc", "seed": str(seed), "planning": "x"}
        write_rollout(tmp_path / "first" / f"{seed}.safetensors", arrays(count), told)
    write_rollout(tmp_path / "second" / "20.safetensors", arrays(5), {"encoder": "abc", "seed": "20", "planning": "y"})
    found = with_rollouts(sources(cache()), [tmp_path / "first", tmp_path / "second"], "planning")
    both = found["train"]
    assert found["validation"].seeds == [5], "none of these seeds is held out"
    samples = both.samples(("features", "centres"), None, None)
    assert len(samples) == 4 + 3 + 5, "the world's scene 5 is not cached"
    assert all(seed >= FIRST for seed in samples.state())
    again = RolloutFeatures.of(cache(), [tmp_path / "second", tmp_path / "first"])
    assert again.files == both.cache.files
    assert samples[0].drive.startswith("roll-out 2")
    number = samples.state()[0]
    points = _routed(both, (5.0, 10.0), number)["target_points"]
    np.testing.assert_allclose(points, [[(5, -1), (10, -1)]] * len(points), atol=1e-5)
    write_rollout(tmp_path / "third" / "20.safetensors", arrays(3), {"encoder": "abc", "seed": "20", "planning": "y"})
    assert not set(RolloutFeatures.of(cache(), [tmp_path / "third"]).files) & set(again.files), "driven otherwise"
    with pytest.raises(InvalidInput, match="another encoder"):
        RolloutFeatures.of(cache("other"), [tmp_path / "first"])
    with pytest.raises(InvalidInput, match="holds none"):
        RolloutFeatures.of(cache(), [tmp_path])
    with pytest.raises(InvalidInput, match="language learns nothing"):
        with_rollouts(sources(cache()), [tmp_path / "first"], "language")


def test_one_in_ten_rollouts_validates(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path / "cache"))
    for seed in range(23):
        write_rollout(tmp_path / f"{seed}.safetensors", arrays(1 + seed), {"encoder": "abc", "seed": str(seed)})
    found = with_rollouts(sources(cache()), [tmp_path], "planning")
    learned, held = set(found["train"].seeds) - {5}, set(found["validation"].seeds)
    assert [found["validation"].cache.seeds[number] % 10 for number in held] == [9, 9]
    assert learned | held == set(found["train"].cache.files)
    assert len(rollouts_of(found)) == 23


def test_nobody_learns_from_seeds_that_are_judged(tmp_path: Path) -> None:
    for seed in (90_000, 79_999):  # a family looks for a place at higher seeds
        with pytest.raises(InvalidInput, match="not of the training split"):
            Rollouts.of(load_preset("tiny"), [seed], ["amber_dilemma", "fog_or_dusk"][seed == 79_999 :], 0.0, tmp_path)


@pytest.mark.slow
def test_the_expert_says_what_it_would_do_wherever_the_chain_gets_to(preset: str) -> None:
    """With all plans the expert's the drive is the expert's, and so are the labels; otherwise it leads elsewhere."""
    model = SparseOccVLA.from_preset(preset, untrained=True)
    shown = drive(ExpertPolicy(), 34, score_every=0, longest=6.0)
    followed, rollout = roll_out(model, 34, None, 1.0, SECONDS)
    count = len(rollout.states)
    np.testing.assert_array_equal(rollout.states, replace(shown, states=shown.states[:count]).states)
    assert followed["time"].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert set(STATE_FIELDS) < set(followed)
    # The label of a moment is where the drive leads, as far as the follower keeps to it and nothing new is seen.
    pose, later = shown.states[0, :3], shown.states[10, :3]
    c, s = np.cos(pose[2]), np.sin(pose[2])
    went = np.array([[c, s], [-s, c]]) @ (later - pose)[:2]
    np.testing.assert_allclose(followed["future"][0, 1, :2, 3], went, atol=0.5)
    own, rollout = roll_out(model, 34, None, 0.0, SECONDS)
    assert np.abs(rollout.states[-1, :2] - shown.states[count - 1, :2]).max() > 0.05
    assert np.abs(own["future"][-1] - followed["future"][-1]).max() > 0.01
    assert own["features"].dtype == np.float16
    assert np.hypot(*(own["route"][:, None] - own["pose"][:, :2, 3]).T).min(1).max() < 2.0, "the drive is on its route"
