"""Anchors: shape of the manoeuvres, determinism, symmetry, standstill, and what the file reader refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import Command
from sparseoccvla_ros.planning import anchor_presets
from sparseoccvla_ros.planning.anchors import COMMAND_ORDER, AnchorSet, cluster, fit_anchors, main

SHIPPED = Path(__file__).parents[2] / "models" / "tiny" / "anchors.npz"


def test_drive_matches_closed_forms():
    straight, circle = anchor_presets.drive(
        np.array([4.0, 5.0]), np.array([1.0, 0.0]), np.array([0.0, 0.1]), np.array([0.0, 0.1])
    )
    time = np.arange(1, 7) * 0.5
    np.testing.assert_allclose(straight[:, 0], 4 * time + 0.5 * time**2, atol=1e-9)
    np.testing.assert_allclose(circle, np.stack([np.sin(0.5 * time), 1 - np.cos(0.5 * time)], 1) / 0.1, atol=1e-3)


def test_drive_stops_and_does_not_reverse():
    stop = anchor_presets.drive(np.array([3.0]), np.array([-3.0]), np.zeros(1), np.zeros(1))[0]
    assert np.diff(stop[:, 0], prepend=0).min() >= 0
    assert stop[-1, 0] == pytest.approx(1.5, abs=2e-3)


def test_groups_obey_their_command(anchors: AnchorSet):
    end = anchors.array[:, :, -1, 1]
    assert (end[0] >= anchor_presets.TURN_OFFSET).all()
    assert (np.abs(end[1]) < anchor_presets.TURN_OFFSET).all()
    assert (end[2] <= -anchor_presets.TURN_OFFSET).all()
    assert anchors.group(Command.RIGHT).tolist() == [False] * 12 + [True] * 6


def test_standstill_is_covered(anchors: AnchorSet):
    assert (np.abs(anchors.array[1, :, -1, 0]) < 1.0).any()


def test_standstill_is_forced_when_the_data_never_stand():
    trajectories, commands = anchor_presets.urban()
    fast = trajectories[:, -1, 0] > 12.0
    anchors = fit_anchors(trajectories[fast], commands[fast])
    assert np.abs(anchors.array[1, 0]).max() == 0.0
    assert anchors.counts[1, 0] == 0


def test_fit_is_deterministic(anchors: AnchorSet):
    again = fit_anchors(*anchor_presets.urban(), seed=0)
    assert again.array.tobytes() == anchors.array.tobytes()
    assert again.sha256 == anchors.sha256


def test_mirrored_data_give_mirrored_anchors():
    rng = np.random.default_rng(5)
    trajectories, _ = anchor_presets.urban()
    # an asymmetric sample, so that the test is not about the symmetry of the table
    trajectories = trajectories[rng.permutation(len(trajectories))[:900]]
    commands = anchor_presets.command_of(trajectories)
    plain = fit_anchors(trajectories, commands, seed=1)
    mirrored = fit_anchors(trajectories * (1.0, -1.0), 2 - commands, seed=1)
    np.testing.assert_array_equal(mirrored.array, plain.array[::-1] * np.float32([1, -1]))
    np.testing.assert_array_equal(mirrored.counts, plain.counts[::-1])


def test_cluster_finds_separated_groups_and_counts_them():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], float)
    points = np.concatenate([c + 0.1 * rng.standard_normal((n, 2)) for c, n in zip(centres, (5, 6, 7, 8), strict=True)])
    found, sizes = cluster(points, 4, seed=0)
    order = np.lexsort((found[:, 0], found[:, 1]))
    np.testing.assert_allclose(found[order], centres, atol=0.2)
    assert sizes[order].tolist() == [5, 6, 7, 8]


def test_few_different_trajectories_are_refused():
    trajectories, commands = anchor_presets.urban()
    only = trajectories[commands == 0][:1].repeat(50, 0)
    with pytest.raises(InvalidInput, match="left has 1 different"):
        fit_anchors(
            np.concatenate([only, trajectories[commands != 0]]), np.r_[np.zeros(50, int), commands[commands != 0]]
        )


@pytest.mark.parametrize("broken", ["shape", "nan", "commands"])
def test_fit_refuses_bad_input(broken: str):
    trajectories, commands = anchor_presets.urban()
    if broken == "shape":
        trajectories = trajectories[:, :5]
    elif broken == "nan":
        trajectories = trajectories.copy()
        trajectories[3, 2, 1] = np.nan
    else:
        commands = commands[:-1]
    with pytest.raises(InvalidInput):
        fit_anchors(trajectories, commands)


def test_file_round_trip_is_exact_and_reproducible(anchors: AnchorSet, tmp_path: Path):
    anchors.save(tmp_path / "a.npz")
    anchors.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = AnchorSet.load(tmp_path / "a.npz")
    assert loaded.array.tobytes() == anchors.array.tobytes()
    assert loaded.counts.tolist() == anchors.counts.tolist()
    assert loaded.sha256 == anchors.sha256
    assert loaded.flat.base is not None
    assert loaded.flat.shape == (18, 6, 2)
    np.testing.assert_allclose(loaded.deltas.cumsum(1), loaded.flat, atol=1e-5)


def _rewrite(source: Path, **changes: np.ndarray | None) -> Path:
    with np.load(source) as stored:
        content = {name: stored[name] for name in stored.files}
    content.update({k: v for k, v in changes.items() if v is not None})
    for name in [k for k, v in changes.items() if v is None]:
        del content[name]
    target = source.with_name("changed.npz")
    np.savez(target, **content)
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"array": np.zeros((3, 6, 6, 2), np.float32)}, "sha256"),
        ({"array": np.zeros((3, 6, 8, 2), np.float32)}, "array"),
        ({"array": np.full((3, 6, 6, 2), np.nan, np.float32)}, "finite"),
        ({"array": np.full((3, 6, 6, 2), 9, np.float32)}, "stands still"),
        ({"array": np.array([{"a": 1}], dtype=object)}, "cannot read"),
        ({"frame": np.array("lidar")}, "frame"),
        ({"commands": np.array(["right", "left", "straight"])}, "commands"),
        ({"format_version": np.int64(9)}, "format_version"),
        ({"counts": None}, "lacks counts"),
    ],
)
def test_tampered_files_are_refused(anchors: AnchorSet, tmp_path: Path, changes: dict, message: str):
    anchors.save(tmp_path / "a.npz")
    with pytest.raises(InvalidInput, match=message):
        AnchorSet.load(_rewrite(tmp_path / "a.npz", **changes))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x04K\x01."])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot read"):
        AnchorSet.load(tmp_path / "x.npz")


def test_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput, match="cannot read"):
        AnchorSet.load(tmp_path / "none.npz")


def test_command_line_writes_the_shipped_kind_of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["--out", str(tmp_path / "deep" / "anchors.npz")])
    written = AnchorSet.load(tmp_path / "deep" / "anchors.npz")
    assert written.sha256 in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_shipped_anchors_load_and_name_their_commands():
    shipped = AnchorSet.load(SHIPPED)
    assert shipped.counts.sum() > 0
    assert [c.value for c in COMMAND_ORDER] == ["left", "straight", "right"]
