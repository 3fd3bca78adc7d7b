"""What a drive leaves behind: its record drives again to the last bit, and its film shows it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.eval.closed_loop.drive_record import DriveRecord, replay
from sparseoccvla_ros.eval.closed_loop.evaluation import film_of, page, score
from sparseoccvla_ros.eval.closed_loop.film import EVERY, save_film
from sparseoccvla_ros.eval.closed_loop.policies import ConstantVelocity
from sparseoccvla_ros.eval.closed_loop.rollout import Episode
from sparseoccvla_ros.planning.trajectory_follower import TrajectoryFollower
from sparseoccvla_ros.world.sim.vehicle import Action

SEED, FAMILY, SECONDS = 30_002, "lead_brakes", 5.5


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    episode = Episode(SEED, FAMILY, "constant velocity", longest=SECONDS)
    policy, follower, record, path = ConstantVelocity(), TrajectoryFollower(), DriveRecord(episode), None
    policy.begin(episode.simulator, episode.expert)
    while episode.observe() is None:
        simulator = episode.simulator
        if episode.plan_due:
            path = policy.plan() if simulator.time < 2.0 else None
            record.plan(path)
        control = follower.control(path, simulator.time, simulator.state.pose, simulator.state.speed)
        action = Action(control.acceleration, control.steering)
        record.step(action, "braked, by hand" if path is None else "")
        simulator.step(action)
    folder = tmp_path_factory.mktemp("drive")
    record.write(folder, record.summary())
    return folder, record.rollout()


def test_a_record_drives_again_to_the_last_bit(recorded):
    folder, rollout = recorded
    again = replay(folder, SEED, FAMILY)
    for name in ("states", "actors", "speeds", "along", "completion"):
        np.testing.assert_array_equal(getattr(again, name), getattr(rollout, name), err_msg=name)
    assert again.infractions == rollout.infractions
    assert again.missing_plans == rollout.missing_plans > 0
    assert [p.step for p in again.planned] == [p.step for p in rollout.planned]
    np.testing.assert_array_equal(again.planned[-1].poses, rollout.planned[-1].poses)


@pytest.mark.slow
def test_a_record_of_another_world_is_refused(recorded, tmp_path):
    with pytest.raises(InvalidInput, match="goes another way"):
        replay(recorded[0], SEED + 1, FAMILY)
    with pytest.raises(InvalidInput, match="holds none"):
        replay(tmp_path, SEED, FAMILY)


def test_the_film_shows_the_drive_and_the_page_shows_the_film(recorded, tmp_path):
    rollout = recorded[1]
    row = score(rollout, rollout)
    save_film(rollout, tmp_path / film_of(row))
    with Image.open(tmp_path / film_of(row)) as film:
        assert film.n_frames == -(-len(rollout.states) // EVERY)
        first = np.asarray(film.convert("RGB"), np.int16)
        film.seek(film.n_frames - 1)
        last = np.asarray(film.convert("RGB"), np.int16)
    assert (np.abs(first - last).max(-1) > 40).mean() > 0.01  # something moved
    red = (first[..., 0] > first[..., 2] + 90) & (first[..., 1] < 120)
    assert red.sum() > 50  # the ego
    assert film_of(row) in page([row], "command", tmp_path)
    assert "films/" not in page([row], "command", tmp_path / "empty")
