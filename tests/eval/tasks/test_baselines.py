"""Baselines against closed forms; the ego-only MLP learns what the features tell, the same way twice."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import WAYPOINT_TIMES, Command
from sparseoccvla_ros.eval.tasks import baselines
from sparseoccvla_ros.eval.tasks.ego_mlp import EgoMlp

T = WAYPOINT_TIMES


def arc(speed: float, rate: float) -> np.ndarray:
    return np.stack([np.sin(rate * T), 1 - np.cos(rate * T)], -1) * speed / rate


def test_closed_forms(make_sample, features):
    sample = make_sample(ego_features=features(6.0, 0.5, 0.3))
    assert not baselines.STATIONARY.predict(sample).waypoints.any()
    np.testing.assert_allclose(
        baselines.CONSTANT_VELOCITY.predict(sample).waypoints, np.outer(T, (6.0, 0.5)), atol=1e-6
    )
    turning = make_sample(ego_features=features(6.0, 0.0, 0.3))
    np.testing.assert_allclose(baselines.CONSTANT_TURN_RATE.predict(turning).waypoints, arc(6.0, 0.3), atol=1e-6)
    np.testing.assert_allclose(baselines.coast(np.array([6.0, 0.0]), 1e-12), np.outer(T, (6.0, 0)), atol=1e-9)


def test_unknown_velocity_is_missing_not_standing(make_sample, features):
    sample = make_sample(ego_features=features(has_velocity=0.0))
    for method in (baselines.CONSTANT_VELOCITY, baselines.CONSTANT_TURN_RATE, EgoMlp().method()):
        assert not method.predict(sample).usable
    assert baselines.STATIONARY.predict(sample).usable


def test_oracles_take_the_nearest_over_valid_steps(make_sample):
    candidates = np.stack([np.outer(T, (speed, 0.0)) for speed in (0.0, 4.0, 8.0)])
    oracle = baselines.anchor_oracle(candidates)
    assert oracle.oracle
    assert oracle.predict(make_sample()).chosen == 1
    stopping = np.stack([np.array([2, 4, 6, 100, 100, 100.0]), np.zeros(6)], -1)
    mask = np.array([True] * 3 + [False] * 3)
    assert oracle.predict(make_sample(truth=stopping, mask=mask)).chosen == 1
    best = baselines.best_of("planner", {"a": candidates})
    assert best.oracle
    assert best.predict(make_sample()).chosen == 1
    assert best.predict(make_sample(token="b")) is None
    with pytest.raises(InvalidInput, match="candidates"):
        baselines.closest(np.zeros((0, 6, 2)), make_sample())


def test_future_command(make_sample):
    assert make_sample().future_command is Command.STRAIGHT
    left = make_sample(truth=arc(6.0, 0.4))
    assert left.future_command is Command.LEFT
    assert make_sample(truth=arc(6.0, 0.4), mask=np.array([True] + [False] * 5)).future_command is Command.STRAIGHT
    assert make_sample(truth=arc(6.0, 0.4) * (1, -1)).future_command is Command.RIGHT
    assert make_sample(mask=np.zeros(6, bool), truth=arc(6, 0.4)).future_command is Command.STRAIGHT


def drives(make_sample, features, count: int, seed: int) -> list:
    rng = np.random.default_rng(seed)
    motions = [(rng.uniform(1, 12), rng.uniform(-0.4, 0.4)) for _ in range(count)]
    return [
        make_sample(token=f"{seed}-{k}", truth=arc(v, w), ego_features=features(v, 0.0, w))
        for k, (v, w) in enumerate(motions)
    ]


@pytest.mark.slow
def test_mlp_learns_to_coast_and_repeats_itself(make_sample, features):
    train, held_out = drives(make_sample, features, 600, 1), drives(make_sample, features, 50, 2)
    first, second = EgoMlp(seed=3), EgoMlp(seed=3)
    errors = [
        model.fit(
            *(np.stack([getattr(s, n) for s in train]) for n in ("ego_features", "truth", "mask")),
            epochs=40,
            batch_size=128,
        )
        for model in (first, second)
    ]
    assert errors[0] == errors[1] < 0.5
    inputs = np.stack([s.ego_features for s in held_out])
    assert first.predict(inputs).tobytes() == second.predict(inputs).tobytes()
    error = np.linalg.norm(first.predict(inputs) - np.stack([s.truth for s in held_out]), axis=-1).mean()
    straight = np.stack([baselines.CONSTANT_VELOCITY.predict(s).waypoints for s in held_out])
    assert error < 0.5 * np.linalg.norm(straight - np.stack([s.truth for s in held_out]), axis=-1).mean()
    np.testing.assert_allclose(first.method().predict(held_out[0]).waypoints, first.predict(inputs)[0], atol=1e-5)


def test_mlp_ignores_masked_steps(make_sample, features):
    rng = np.random.default_rng(0)
    inputs = np.stack([features(v) for v in rng.uniform(1, 9, 64)])
    truth = inputs[:, 12, None, None] * np.stack([T, np.zeros(6)], -1)
    mask = np.ones((64, 6), bool)
    mask[::2, 4:] = False
    wild = np.where(mask[..., None], truth, 1e6)
    models = [EgoMlp(seed=1), EgoMlp(seed=1)]
    for model, target in zip(models, (truth, wild), strict=True):
        model.fit(inputs, target, mask, epochs=3)
    assert models[0].predict(inputs).tobytes() == models[1].predict(inputs).tobytes()


@pytest.mark.parametrize(
    ("field", "change"),
    [("features", np.zeros((4, 3), np.float32)), ("truth", np.zeros((3, 6, 2))), ("mask", np.zeros((4, 6), bool))],
)
def test_mlp_refuses_by_name(field, change):
    good = {"features": np.zeros((4, 23), np.float32), "truth": np.zeros((4, 6, 2)), "mask": np.ones((4, 6), bool)}
    with pytest.raises(InvalidInput, match=field):
        EgoMlp().fit(**{**good, field: change})
