"""A nuScenes-layout root of the world through check, prepare, samples and a few steps of stage 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rosbags.highlevel import AnyReader
from typer.testing import CliRunner

from sparseoccvla_ros.camera_sync.calibration import CameraModel
from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.camera_sync.frame_assembler import CameraSync
from sparseoccvla_ros.camera_sync.images import CompressedImage
from sparseoccvla_ros.cli.data import app as data_app
from sparseoccvla_ros.cli.train import app as train_app
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS, FREE, LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import Command
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.data.dataset import COMMANDS
from sparseoccvla_ros.data.nuscenes.check import check
from sparseoccvla_ros.data.nuscenes.dataset import NuscenesSamples
from sparseoccvla_ros.data.nuscenes.ego_motion import command_of_motion
from sparseoccvla_ros.data.nuscenes.index import NuscenesIndex, index_path, open_index, pick_version
from sparseoccvla_ros.data.nuscenes.map import map_file
from sparseoccvla_ros.data.nuscenes.omnidrive import read_questions
from sparseoccvla_ros.data.nuscenes.prepare import moments, oracle_command, prepare, summary, training_anchors
from sparseoccvla_ros.data.nuscenes.to_bag import convert_scene
from sparseoccvla_ros.data.nuscenes.writer import CLOCK, PLACE, VERSION, write_world_root
from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES
from sparseoccvla_ros.world.labels.annotations import boxes
from sparseoccvla_ros.world.scene import Scene
from tests.conftest import WORLD_ROOT_SEEDS as SEEDS

KEYFRAMES, SIZE = 7, (72, 128)
IMAGE = ImageConfig(48, 128)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def copy(world_root: Path, tmp_path: Path) -> Path:
    """The root, free to be damaged."""
    return Path(shutil.copytree(world_root, tmp_path / "copy"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def seconds(index: NuscenesIndex, row: int) -> float:
    """Time in its drive of a sample."""
    return (int(index.stamp[row]) // 1000 - CLOCK) / 1e6 - 1000 * int(index.scene[row])


def test_the_root_can_do_everything_and_says_so(world_root: Path) -> None:
    found = check(world_root)
    assert (found.version, found.scenes, found.samples) == (VERSION, {"train": 1, "val": 1}, {"train": 7, "val": 7})
    assert [p.name for p in found.pieces if p.missing and "OmniDrive" not in p.name] == []
    assert [t.name for t in found.tasks if t.lacks] == []


def test_everything_missing_is_reported_together_with_its_place(copy: Path, cache: Path) -> None:
    for folder in ("gts", "vqa", "conv", "desc", "keywords", "can_bus"):
        shutil.rmtree(copy / folder)
    next((copy / "samples" / "CAM_BACK").glob("scene-9001*")).unlink()
    (copy / VERSION / "instance.json").unlink()
    found = check(copy)
    missing = {p.name: p for p in found.pieces if p.missing}
    assert missing.keys() == {
        "camera images", "Occ3D labels", "boxes", "CAN motion", "CAN routes",
        *(f"OmniDrive {k}" for k in ("conv", "desc", "keywords", "vqa")),
    }  # fmt: skip
    assert missing["camera images"].found == {"train": 42, "val": 41}
    assert str(copy / "gts") in missing["Occ3D labels"].place
    tasks = {t.name: t.lacks for t in found.tasks}
    assert tasks["train stage 1 (occupancy)"] == ("Occ3D labels",)
    assert tasks["evaluate planning"] == ("camera images", "boxes")
    assert tasks["play (./run bag nuscenes)"] == ()
    shown = CliRunner().invoke(data_app, ["check", str(copy)])
    assert shown.exit_code == 0
    assert shown.output.count("goes to") == len(missing)
    assert "run ./run data prepare first" in " ".join(shown.output.split())


def test_preparing_twice_gives_the_same_bytes(world_root: Path, world_index: NuscenesIndex, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    prepare(world_root, VERSION, lambda done, total: progress.append((done, total))).save(tmp_path / "a.npz")
    world_index.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert progress[-1][0] == progress[-1][1]
    assert sorted(progress) == progress
    again = NuscenesIndex.load(tmp_path / "a.npz")
    for field in fields(again):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(world_index, field.name))


def test_an_index_of_other_tables_is_refused(copy: Path, world_index: NuscenesIndex, tmp_path: Path) -> None:
    path = tmp_path / "index.npz"
    world_index.save(path)
    assert len(open_index(copy, path=path)) == 2 * KEYFRAMES
    table = copy / VERSION / "sample.json"
    table.write_text(table.read_text() + "\n")
    with pytest.raises(InvalidInput, match="prepare it again"):
        open_index(copy, path=path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InvalidInput, match="cannot be read"):
        open_index(copy, path=path)
    with pytest.raises(InvalidInput, match="data prepare"):
        open_index(copy, path=tmp_path / "none.npz")
    with pytest.raises(InvalidInput, match="version"):
        pick_version(copy, "v1.0-mini")


def test_numbers_are_those_of_the_drive(world_index: NuscenesIndex) -> None:
    index = world_index
    ego = Scene.generate(SEEDS[1], 3.2).ego  # the second drive: its rows and times do not begin at 0
    rows = np.flatnonzero(index.scene == 1)
    assert rows.tolist() == list(range(KEYFRAMES, 2 * KEYFRAMES))
    for row in rows.tolist():
        time = seconds(index, row)
        pose, twist = ego.at(time)
        np.testing.assert_allclose(index.pose[row], PLACE @ pose, atol=1e-9)
        # The newest CAN message is up to 20 ms old, and the car brakes or turns meanwhile.
        np.testing.assert_allclose(index.twist[row], twist, atol=0.1)
        ahead = [geometry.inverse(pose) @ ego.at(time + 0.5 * k)[0] for k in range(1, 7) if row % KEYFRAMES + k < 7]
        assert index.future_mask[row].tolist() == [True] * len(ahead) + [False] * (6 - len(ahead))
        if ahead:
            np.testing.assert_allclose(index.future[row][: len(ahead)], ahead, atol=1e-6)
            assert (index.future[row][len(ahead) :] == index.future[row][len(ahead) - 1]).all()
        features = dict(zip(FEATURE_NAMES, index.features[row], strict=True))
        assert features["has_velocity"] == 1.0
        if features["has_pose(-0.5s)"]:
            back = geometry.inverse(pose) @ ego.at(time - 0.5)[0]
            assert features["x(-0.5s)"] == pytest.approx(back[0, 3], abs=0.01)
    assert index.previous.tolist() == [-1, *range(6), -1, *range(7, 13)]
    assert index.history(2, 4) == [2, 1, 0, 0]
    assert summary(index)["train"]["motion"] == {"can_bus": 7}
    assert (index.command_source == 1).all()


@pytest.mark.slow
def test_boxes_and_their_tracks_are_those_of_the_drive(world_index: NuscenesIndex) -> None:
    index, row = world_index, 0
    scene = Scene.generate(SEEDS[0], 3.2)
    time = seconds(index, row)
    here, centres, yaws, present = index.tracks(row)
    want = boxes(scene, time, None, 60.0)
    assert len(want) == here.stop - here.start == len(centres)
    assert present[:, 0].all()
    order = np.lexsort(want.centre[:, :2].T.round(3))
    mine = np.lexsort(centres[:, 0].T.round(3))
    np.testing.assert_allclose(centres[mine, 0], want.centre[order, :2], atol=2e-3)
    np.testing.assert_allclose(np.cos(yaws[mine, 0] - want.yaw[order]), 1.0, atol=1e-6)
    np.testing.assert_allclose(index.box_size[here][mine], want.size[order], atol=1e-5)
    names = index.category_name[index.box_category[here]][mine]
    assert (names == "vehicle.car").sum() == (want.label == LABEL["car"]).sum() > 0
    # Two seconds on, whoever is still annotated is where the drive has it.
    assert present[:, 4].sum() > 0
    places = boxes(scene, time + 2.0, scene.ego.at(time)[0]).centre[:, :2]
    for centre in centres[present[:, 4], 4]:
        assert np.linalg.norm(places - centre, axis=1).min() < 2e-3


def test_commands_come_from_the_route_and_the_oracle_from_the_future(world_index: NuscenesIndex) -> None:
    index = world_index
    for row in range(len(index)):
        want = oracle_command(index.future[row], index.future_mask[row])
        assert COMMANDS[index.oracle[row]] is want
    future = np.tile(np.eye(4), (6, 1, 1))
    future[:, 1, 3] = np.linspace(-0.5, -3.0, 6)
    assert oracle_command(future, np.ones(6, bool)) is Command.RIGHT
    assert oracle_command(future, np.arange(6) < 2) is Command.STRAIGHT
    assert oracle_command(future, np.zeros(6, bool)) is Command.STRAIGHT
    turning = np.array([6.0, 0, 0, 0, 0, 0.3])
    assert command_of_motion(turning) is Command.LEFT
    assert command_of_motion(turning * [1, 1, 1, 1, 1, -1]) is Command.RIGHT
    assert command_of_motion(np.zeros(6)) is Command.STRAIGHT


def test_a_route_is_followed_and_its_source_is_told() -> None:
    pose = geometry.planar(10.0, 0.0, 0.0)
    odometry = [(0, pose, np.array([5.0, 0, 0, 0, 0, 0]))]
    route = np.array([(0.0, 0.0), (15.0, 0.0), (15.0, 30.0)])
    (moment,) = moments([(1, pose)], odometry, route)
    assert (moment.command, moment.source) == (Command.LEFT, 1)
    (moment,) = moments([(1, pose)], odometry, route + 100.0)
    assert (moment.command, moment.source) == (Command.STRAIGHT, 0)


def test_anchors_need_enough_turns(world_index: NuscenesIndex) -> None:
    with pytest.raises(InvalidInput, match="different ones"):
        training_anchors(world_index)


def test_samples_are_what_camera_sync_delivers(world_root: Path, world_index: NuscenesIndex) -> None:
    index = world_index
    samples = NuscenesSamples(world_root, index, "val", IMAGE, frames=3)
    assert samples.rows.tolist() == list(range(7, 14))
    sample = samples[2]
    row = int(samples.rows[2])
    for place, old in enumerate((row, row - 1, row - 2)):
        sync = CameraSync(image=IMAGE)
        try:
            for k, name in enumerate(CAMERAS):
                c = index.calibration[old, k]
                sync.set_camera(CameraModel(name, "", *SIZE[::-1], index.intrinsics[c], index.camera2ego[c]))
            for k in np.argsort(index.camera_stamp[old]):
                stamp, pose = int(index.camera_stamp[old, k]), index.camera_pose[old, k]
                sync.add_odometry(stamp, pose, np.zeros(6), "map")
                file = world_root / index.image[old, k].decode()
                sync.add_image(CAMERAS[k], stamp, CompressedImage(file.read_bytes(), "jpeg"))
            frames = sync.finish()
        finally:
            sync.close()
        assert frames is not None
        np.testing.assert_array_equal(sample.images[place], frames.images)
        moved = frames.ego2img @ geometry.inverse(frames.ego.pose) @ index.pose[row]
        points = np.random.default_rng(1).uniform((-30, -30, 0), (30, 30, 3), (300, 3))
        for ours, theirs in zip(sample.ego2img[place], moved, strict=True):
            pixels, depth = geometry.project(theirs, points)
            got, _ = geometry.project(ours.astype(np.float64), points)
            near = (depth > 2.0) & (np.abs(pixels) < 300).all(-1)
            assert np.abs(got - pixels)[near].max() < 0.01


def test_labels_lie_in_the_present_ego_frame(world_root: Path, world_index: NuscenesIndex) -> None:
    sample = NuscenesSamples(world_root, world_index, "train", IMAGE)[1]
    assert sample.semantics.shape == sample.visible.shape == OCC3D_GRID.shape
    here, centres, _, _ = world_index.tracks(1)
    cars = world_index.category_name[world_index.box_category[here]] == "vehicle.car"
    middles = np.column_stack([centres[cars, 0], np.full(cars.sum(), 0.8)])
    cells, inside = OCC3D_GRID.index_of(middles)
    assert inside.any()
    assert (sample.semantics[tuple(cells[inside].T)] == LABEL["car"]).all()
    # The lidar file, in its own frame, is what is occupied and seen.
    assert (sample.semantics[sample.visible] < FREE).sum() > 500
    assert sample.command == world_index.command[1]


def test_missing_or_damaged_files_are_named(copy: Path, world_index: NuscenesIndex) -> None:
    index = world_index
    label = copy / "gts" / "scene-9000" / str(index.token[3]) / "labels.npz"
    whole = label.read_bytes()
    label.unlink()
    with pytest.raises(InvalidInput, match=f"occ3d: 1 files, such as scene-9000/{index.token[3]}"):
        NuscenesSamples(copy, index, "train", IMAGE)
    unlabelled = NuscenesSamples(copy, index, "train", IMAGE, labels=False)
    assert (unlabelled[3].semantics == 255).all()
    label.write_bytes(whole[:-300])
    with pytest.raises(InvalidInput, match="occ3d"):
        NuscenesSamples(copy, index, "train", IMAGE)[3]
    shutil.rmtree(copy / "gts")
    with pytest.raises(InvalidInput, match="gts archive goes to"):
        NuscenesSamples(copy, index, "train", IMAGE)
    image = copy / index.image[2, 4].decode()
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(InvalidInput, match=image.name):
        unlabelled[2]
    image.unlink()
    with pytest.raises(InvalidInput, match=r"images: 1 files"):
        NuscenesSamples(copy, index, "train", IMAGE, labels=False)
    with pytest.raises(InvalidInput, match="split"):
        NuscenesSamples(copy, index, "test", IMAGE, labels=False)


def test_a_resumed_run_notices_other_samples(world_root: Path, world_index: NuscenesIndex) -> None:
    whole = NuscenesSamples(world_root, world_index, "train", IMAGE)
    some = NuscenesSamples(world_root, world_index, "train", IMAGE, most=3)
    assert (len(whole), len(some)) == (7, 3)
    whole.refresh(whole.state())
    with pytest.raises(InvalidInput, match="other samples"):
        some.refresh(whole.state())


@pytest.mark.slow
def test_without_can_bus_the_poses_are_differentiated(copy: Path) -> None:
    shutil.rmtree(copy / "can_bus")
    index = prepare(copy, VERSION)
    assert (index.motion_source == 0).all()
    assert (index.command_source == 0).all()
    ego = Scene.generate(SEEDS[0], 3.2).ego
    for row in range(1, KEYFRAMES):
        # A backward difference over up to half a second lags by half of it.
        assert abs(index.twist[row, 0] - ego.at(seconds(index, row) - 0.25)[1][0]) < 0.6


def test_omnidrive_files_read_back(world_root: Path, world_index: NuscenesIndex) -> None:
    found = [q for t in world_index.token[:7] for q in read_questions(world_root, "train", str(t))]
    assert {"desc", "conv", "vqa"} <= {q.family for q in found}


def test_a_scene_becomes_a_bag(world_root: Path, world_index: NuscenesIndex, tmp_path: Path) -> None:
    """Images, lidar, boxes and, where there is a map, drivable ground, all at the keyframes' places and stamps."""
    root = tmp_path / "root"
    root.mkdir()
    for entry in world_root.iterdir():
        (root / entry.name).symlink_to(entry)
    (root / "maps").unlink()
    x, y = world_index.pose[0, :2, 3]
    half = {"a": (x - 200, y - 200), "b": (x, y - 200), "c": (x, y + 200), "d": (x - 200, y + 200)}
    content = {
        "node": [{"token": t, "x": p[0], "y": p[1]} for t, p in half.items()],
        "polygon": [{"token": "p", "exterior_node_tokens": list(half), "holes": []}],
        "drivable_area": [{"polygon_tokens": ["p"]}],
        "road_segment": [],
        "lane": [],
    }
    path = map_file(root, "world")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    result = convert_scene(root, "scene-9000", tmp_path / "bag")
    assert result.skipped == {}
    topics = ("/CAM_FRONT/image_rect_compressed", "/LIDAR_TOP", "/markers/annotations", "/drivable_area")
    assert [result.counts[t] for t in topics] == [KEYFRAMES] * 4
    with AnyReader([tmp_path / "bag"]) as bag:
        wanted = [c for c in bag.connections if c.topic in topics[2:]]
        found: dict[str, list[tuple[int, Any]]] = {}
        for connection, stamp, raw in bag.messages(wanted):
            found.setdefault(connection.topic, []).append((stamp, bag.deserialize(raw, connection.msgtype)))
    rows = json.loads((world_root / VERSION / "sample_annotation.json").read_text())
    boxes = {r["token"]: r for r in rows}
    for row, (stamp, message) in enumerate(found["/markers/annotations"]):
        here = world_index.boxes(row)
        assert stamp == int(world_index.stamp[row])
        assert len(message.markers) == here.stop - here.start > 0
        for marker in message.markers:
            table = boxes[marker.text]
            assert table["sample_token"] == world_index.token[row]
            assert marker.header.frame_id == "map"
            assert marker.ns.split(".")[0] in ("vehicle", "human", "movable_object")
            at = marker.pose.position
            np.testing.assert_allclose([at.x, at.y, at.z], table["translation"], atol=1e-9)
            width, length, height = table["size"]
            assert (marker.scale.x, marker.scale.y, marker.scale.z) == (length, width, height)
        assert len({m.id for m in message.markers}) == len(message.markers)
    _, ground = found["/drivable_area"][0]
    cells = ground.data.reshape(ground.info.height, ground.info.width)
    assert cells.shape == (320, 320)
    # Which cells lie on the map's half: their places in map, from the message's own numbers.
    rotation, at = ground.info.origin.orientation, ground.info.origin.position
    yaw = 2 * np.arctan2(rotation.z, rotation.w)
    column, row = np.meshgrid(np.arange(320), np.arange(320))
    east = at.x + ground.info.resolution * ((column + 0.5) * np.cos(yaw) - (row + 0.5) * np.sin(yaw))
    clear = np.abs(east - x) > 0.3
    np.testing.assert_array_equal(cells[clear] == 0, (east < x)[clear])


def test_loading_is_measured_and_training_needs_its_root(world_root: Path, tmp_path: Path, cache: Path) -> None:
    run = CliRunner()
    prepared = run.invoke(data_app, ["prepare", str(world_root)])
    assert prepared.exit_code == 0, prepared.output
    assert index_path(world_root, VERSION).is_file()
    assert "command from route 7" in prepared.output
    (tmp_path / "config.yaml").write_text(
        "format_version: 1\nname: small\nstages: [occupancy]\nimage: {height: 32, width: 64}\n"
    )
    speed = run.invoke(data_app, ["speed", str(world_root), "--preset", str(tmp_path), "--seconds", "1"])
    assert "images/s" in speed.output
    refused = run.invoke(train_app, ["--data", "nuscenes", "--steps", "1"])
    assert refused.exit_code == 2
    assert "dataroot" in refused.output


def test_world_roots_refuse_nonsense(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for arguments in ((tmp_path / "there", [1]), (tmp_path / "a", []), (tmp_path / "a", [1, 1])):
        with pytest.raises(InvalidInput):
            write_world_root(*arguments)
    with pytest.raises(InvalidInput, match="9:16"):
        write_world_root(tmp_path / "a", [1], 3.0, 64, 64)
    assert not (tmp_path / "a").exists()


def test_the_devkit_opens_the_root_and_agrees(world_root: Path, world_index: NuscenesIndex) -> None:
    module = pytest.importorskip("nuscenes.nuscenes")
    kit, index = module.NuScenes(VERSION, str(world_root), verbose=False), world_index
    assert [s["name"] for s in kit.scene] == index.scene_name.tolist()
    for row in (0, 9):
        sample = kit.get("sample", str(index.token[row]))
        record = kit.get("sample_data", sample["data"]["CAM_BACK_LEFT"])
        k = CAMERAS.index("CAM_BACK_LEFT")
        assert record["filename"] == index.image[row, k].decode()
        camera = index.camera_pose[row, k] @ index.camera2ego[index.calibration[row, k]]
        _, found, intrinsics = kit.get_sample_data(record["token"])
        np.testing.assert_allclose(intrinsics, index.intrinsics[index.calibration[row, k]], atol=1e-9)
        here = {tuple(c.round(4)) for c in geometry.apply(geometry.inverse(camera), index.box_centre[index.boxes(row)])}
        assert {tuple(b.center.round(4)) for b in found} <= here
        assert (len(sample["anns"]), sample["prev"] == "") == (index.boxes(row).stop - index.boxes(row).start, row == 0)


def test_tables_are_linked(world_root: Path) -> None:
    tables = {p.stem: json.loads(p.read_text()) for p in (world_root / VERSION).glob("*.json")}
    for name in ("sample", "sample_data", "sample_annotation"):
        rows = {r["token"]: r for r in tables[name]}
        assert len(rows) == len(tables[name])
        for row in rows.values():
            for forward, back in (("next", "prev"), ("prev", "next")):
                assert not row[forward] or rows[row[forward]][back] == row["token"]
