"""The bird's-eye view of what moves: places, groups, the moment before, and what planners make of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.geometry import planar
from sparseoccvla_ros.core.types import Command, CommandSource, TrafficLight
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels
from sparseoccvla_ros.planning.model.layers import ObstacleTokens
from sparseoccvla_ros.planning.obstacles.grid import (
    CELL,
    CHANNELS,
    LOWER,
    SHAPE,
    ObstacleMemory,
    obstacle_grid,
    seen_from,
)

STAMP, HALF = 1_700_000_000_000_000_000, 500_000_000


def voxels(*things: tuple[float, float, str]) -> SparseVoxels:
    indices, _ = OCC3D_GRID.index_of(np.array([(x, y, 0.6) for x, y, _ in things]).reshape(-1, 3))
    labels = np.array([LABEL[name] for _, _, name in things], np.uint8)
    return SparseVoxels(indices.astype(np.int16), labels, np.ones(len(labels), np.float32))


def cells(layer: np.ndarray) -> np.ndarray:
    """Centres [N, 2] m of the cells that are set."""
    return np.array(LOWER) + CELL * (np.argwhere(layer) + 0.5)


def test_things_are_drawn_where_they_are_by_group() -> None:
    seen = voxels((20.1, 5.1, "car"), (10.3, -3.1, "pedestrian"), (6.2, 1.1, "traffic_cone"), (9.0, 0.0, "manmade"))
    grid = ObstacleMemory().grid(STAMP, 0, planar(100, 50, 1.0), seen)
    assert grid.shape == (CHANNELS, *SHAPE)
    assert grid.dtype == np.uint8
    assert grid.sum() == 3, "walls do not move, and nothing is known of before"
    for layer, place in zip(grid[:3], [(20.1, 5.1), (10.3, -3.1), (6.2, 1.1)], strict=True):
        assert np.abs(cells(layer) - place).max() <= 0.5 * CELL + 0.2
    outside = ObstacleMemory().grid(STAMP, 0, np.eye(4), voxels((39.9, 39.0, "car"), (-39.0, 0.0, "bus")))
    assert not outside.any()


def test_the_moment_before_is_seen_from_here() -> None:
    memory = ObstacleMemory()
    memory.grid(STAMP, 0, planar(0, 0, 0), voxels((20.0, 3.0, "car")))
    now = memory.grid(STAMP + HALF, 0, planar(4, 0, 0.1), voxels((20.0, 3.0, "car")))
    assert (now[-2] == 1).all()
    back = np.linalg.inv(planar(4, 0, 0.1)) @ np.array([20.0, 3.0, 0.0, 1.0])
    assert np.abs(cells(now[3]) - back[:2]).max() < 0.5 * CELL + 0.4
    assert now[0].sum() == 1
    assert np.array_equal(memory.grid(STAMP + HALF, 0, planar(4, 0, 0.1), voxels((20.0, 3.0, "car"))), now)


@pytest.mark.parametrize(("seconds", "epoch"), [(0.1, 0), (1.5, 0), (0.5, 1), (-0.5, 0)])
def test_another_time_or_drive_is_not_the_moment_before(seconds: float, epoch: int) -> None:
    memory = ObstacleMemory()
    memory.grid(STAMP, 0, np.eye(4), voxels((20.0, 3.0, "car")))
    grid = memory.grid(STAMP + round(seconds * 1e9), epoch, np.eye(4), voxels((20.0, 3.0, "car")))
    assert not grid[3:].any()
    memory.clear()
    assert not memory.grid(STAMP + HALF, 0, np.eye(4), voxels((20.0, 3.0, "car")))[3:].any()


def test_the_line_of_a_red_light_is_drawn_across_the_lane() -> None:
    grid = ObstacleMemory().grid(STAMP, 0, np.eye(4), voxels(), 12.3)
    assert grid[-1].sum() == grid.sum() == 4
    found = cells(grid[-1])
    assert np.abs(found[:, 0] - 12.3).max() <= 0.5 * CELL
    np.testing.assert_allclose(np.sort(found[:, 1]), (-1.2, -0.4, 0.4, 1.2), atol=1e-6)
    assert not ObstacleMemory().grid(STAMP, 0, np.eye(4), voxels(), 55.0).any(), "beyond the grid"


@pytest.mark.parametrize("place", [(0.0, 1.7, 0.0), (0.0, -0.8, 0.1), (3.1, 0.4, -0.2)])
def test_a_grid_seen_from_another_place_is_that_of_the_things_seen_from_there(place: tuple[float, ...]) -> None:
    rng = np.random.default_rng(5)
    things = np.column_stack([rng.uniform(0, 25, 40), rng.uniform(-8, 8, 40), np.full(40, 0.5), rng.integers(0, 3, 40)])
    pose = planar(*place)
    here = obstacle_grid(things, things, np.eye(4), stop_line=12.0)
    there = seen_from(here, pose)
    back = np.linalg.inv(pose)
    things[:, :3] = things[:, :3] @ back[:3, :3].T + back[:3, 3]
    expected = obstacle_grid(things, things, np.eye(4), stop_line=12.0)
    np.testing.assert_array_equal(there[-2:], expected[-2:])
    for found, wanted in zip(there[:-2], expected[:-2], strict=True):
        apart = np.abs(cells(found)[:, None] - cells(wanted)).max(-1)
        assert apart.min(1).max() <= CELL + 1e-6, "drawn twice rounded to a cell"
        assert apart.min(0).max() <= CELL + 1e-6
    np.testing.assert_array_equal(seen_from(here, np.eye(4)), here)
    aside = seen_from(here, planar(0.0, 2 * CELL, 0.0))
    np.testing.assert_array_equal(aside[:-2, :, 1:-3], here[:-2, :, 3:-1])
    assert not aside[:-2, :, -2:].any(), "not covered by the grid"


def test_tokens_know_their_places() -> None:
    places, tokens = ObstacleTokens(16)(torch.zeros(2, CHANNELS, *SHAPE))
    assert tokens.shape == (2, SHAPE[0] // 4 * (SHAPE[1] // 4), 16)
    assert places.shape == (tokens.shape[1], 3)
    np.testing.assert_allclose(places[0, :2], np.array(LOWER) + 2 * CELL, atol=1e-5)
    np.testing.assert_allclose(places[-1, :2], np.array(LOWER) + CELL * (np.array(SHAPE) - 2), atol=1e-5)


def test_a_planner_with_a_grid_sees_the_voxels_and_repeats_itself(make_planner, make_queries, make_history) -> None:
    planner = make_planner(obstacle_grid=True, gate_forecasts=False)
    queries = make_queries()

    def scores(seen: SparseVoxels, stamp: int) -> np.ndarray:
        asked = replace(queries, stamp=stamp)
        return planner.plan(
            asked, seen, None, make_history(asked), Command.STRAIGHT, CommandSource.TOPIC
        ).scores  # fmt: skip

    free, car = voxels((39.0, 39.0, "car")), voxels((12.0, 0.0, "car"))
    first = scores(free, queries.stamp)
    assert np.abs(scores(car, queries.stamp) - first).max() > 1e-7
    assert scores(free, queries.stamp).tobytes() == first.tobytes()
    planner.reset()
    assert scores(free, queries.stamp).tobytes() == first.tobytes()
    planner.reset()
    queries = replace(queries, trained=True, traffic_light=TrafficLight("red", 0.9, 15.0))
    assert np.abs(scores(free, queries.stamp) - first).max() > 1e-7, "it sees the line of a red light"
