"""From a nuScenes-layout root with Occ3D and OmniDrive files over an epoch of training to the report, and its parts."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.cli.data import app as data_app
from sparseoccvla_ros.cli.eval import app as eval_app
from sparseoccvla_ros.cli.train import app as train_app
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import Command, CommandSource
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.data.nuscenes.dataset import NuscenesImages, NuscenesSamples
from sparseoccvla_ros.data.nuscenes.index import NuscenesIndex, open_index
from sparseoccvla_ros.data.nuscenes.map import Roads, map_file
from sparseoccvla_ros.data.nuscenes.writer import VERSION
from sparseoccvla_ros.eval.metrics import ray_iou
from sparseoccvla_ros.eval.nuscenes import priors
from sparseoccvla_ros.eval.nuscenes.drives import NuscenesDrive, PreparedHistory
from sparseoccvla_ros.eval.nuscenes.evaluation import Request, available
from sparseoccvla_ros.eval.protocols.planning import PROTOCOLS
from sparseoccvla_ros.eval.tasks import captions, planning
from sparseoccvla_ros.eval.tasks.ablations import ABLATIONS
from sparseoccvla_ros.eval.tasks.evaluator import EvalConfig, Evaluator, PartialResult, plain, together
from sparseoccvla_ros.pipeline import SparseOccVLA
from sparseoccvla_ros.runtime.presets import STAGES, load_preset
from sparseoccvla_ros.train.features.future_labels import unpack
from sparseoccvla_ros.train.features.nuscenes import NuscenesFeatures, NuscenesFutures, seen_from_now
from sparseoccvla_ros.world.qa.questions import Question

KEYFRAMES = 7
ROADS = ("drivable_area", "road_segment", "lane")


@pytest.fixture(scope="module", autouse=True)
def _small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of its own, one thread, rays in 12 of 360 directions."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(ray_iou, "ray_directions", partial(ray_iou.ray_directions, azimuths=12))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def prepared(world_root: Path) -> NuscenesIndex:
    """The root's index, made by the verb and lying in the cache."""
    done = CliRunner().invoke(data_app, ["prepare", str(world_root)])
    assert done.exit_code == 0, done.output
    return open_index(world_root)


@pytest.fixture(scope="module")
def trained(micro: str, world_root: Path, prepared: NuscenesIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro preset with an encoder that learnt from every training sample once."""
    folder, run = tmp_path_factory.mktemp("trained"), CliRunner()
    preset = Path(shutil.copytree(micro, folder / "preset"))
    words = ["--data", "nuscenes", "--dataroot", str(world_root), "--preset", str(preset), "--device", "cpu"]
    words += ["--steps", "1", "--batch-size", str(KEYFRAMES), "--validation", "1", "--threads", "1"]
    words += ["--precision", "float32"]
    done = run.invoke(train_app, [*words, "--out", str(folder / "run")])
    assert done.exit_code == 0, done.output
    done = run.invoke(train_app, ["ship", str(folder / "run" / "best.safetensors"), "--preset", str(preset)])
    assert done.exit_code == 0, done.output
    return preset


@pytest.fixture(scope="module")
def page(trained: Path, world_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a report on the held-out drive."""
    out = tmp_path_factory.mktemp("report") / "page"
    words = ["nuscenes", "--dataroot", str(world_root), "--preset", str(trained), "--untrained", "--out", str(out)]
    words += ["--samples", "1", "--captions", "0", "--ray-origins", "1", "--threads", "1", "--device", "cpu"]
    done = CliRunner().invoke(eval_app, words)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def numbers(page: Path) -> dict[str, Any]:
    return json.loads((page / "report.json").read_text())


def drive_of(root: Path, index: NuscenesIndex, scene: int = 1, **more: Any) -> NuscenesDrive:
    images = NuscenesImages(root, index, ImageConfig(64, 176), 1)
    return NuscenesDrive(images, scene, root / "gts", ("train", "val")[scene], **more)


# --- the report


def test_one_epoch_and_a_full_report(page, numbers):
    text = (page / "report.md").read_text()
    titles = ["At a glance", "Occupancy", "Forecast", "Planning", "Language", "Latency", "Pictures"]
    assert re.findall("\n## (.*)", text) == titles
    assert numbers["weights"]["occupancy"]["file"] == "occupancy.safetensors"
    assert numbers["random"] == ["reasoning", "planning"]
    assert (numbers["split"], numbers["scenes"], numbers["frames"]) == ("val", ["scene-9001"], KEYFRAMES)
    for name in re.findall(r"\]\(([^)]+\.png)\)", text):
        assert cv2.imread(str(page / name)).std() > 5
    rows = (page / "plans.csv").read_text().splitlines()
    methods = {r["method"] for r in numbers["planning"]["all"]["rows"]}
    assert len(rows) == 1 + KEYFRAMES * len(PROTOCOLS) * len(methods)


def test_reports_list_n_missing_and_the_source_of_the_command(page, numbers):
    for row in numbers["occupancy"]["rows"].values():
        assert (row["n"], row["missing"]) == (KEYFRAMES, 0)
    for row in numbers["forecast"]["rows"].values():
        assert (row["n"], row["missing"]) == (1, KEYFRAMES - 1)
    planned = {(r["protocol"], r["method"]): r for r in numbers["planning"]["all"]["rows"]}
    # UniAD counts every sample, the others those whose next six keyframes are there.
    assert planned["UniAD", planning.CHAIN]["n"] + planned["UniAD", planning.CHAIN]["missing"] == KEYFRAMES
    assert planned["OmniDrive", planning.CHAIN]["n"] + planned["OmniDrive", planning.CHAIN]["missing"] == 1
    assert planned["OmniDrive", "stationary"]["command_source"] == "none"
    assert numbers["command_sources"] == {"route": KEYFRAMES}
    ablated = {r["method"]: r for r in numbers["planning"]["ablations"]["rows"]}
    assert {a.name for a in ABLATIONS} | {"ground truth"} == set(ablated)
    assert ablated["no ego"]["command_source"] == "route"
    assert ablated["future command"]["command_source"] == "oracle"
    assert "Commands come from: route 7" in (page / "report.md").read_text()


def test_the_truth_scores_zero_and_oracles_are_marked(page, numbers):
    everything = [
        numbers["planning"]["all"],
        numbers["planning"]["ablations"],
        *numbers["planning"]["subsets"].values(),
    ]
    for found in everything:
        truth = [r for r in found["rows"] if r["self_test"]]
        assert found["self_test_passed"]
        assert truth
        assert all(r["l2"]["average"] == 0 and r["collision"]["average"] == 0 for r in truth if r["n"])
    oracles = {r["method"] for f in everything for r in f["rows"] if r["oracle"]}
    best = f"best candidate of {planning.CHAIN}"
    assert oracles == {"ground truth", "nearest anchor", best, "future command"}
    text = (page / "report.md").read_text()
    assert "| ground truth (self-test) | none |" in text
    assert "| future command (oracle) | oracle |" in text


@pytest.mark.slow
def test_shares_of_several_processes_give_the_numbers_of_one(trained, world_root, prepared):
    """Two processes are played one after the other; what they send each other goes through pickle."""
    preset, wanted = load_preset(str(trained)), EvalConfig(("occupancy", "planning", "language"), samples=2)
    stages = SparseOccVLA.from_preset(preset, untrained=True)
    drives = [drive_of(world_root, prepared, scene, origins=1) for scene in (0, 1)]

    def run() -> Evaluator:
        return Evaluator(preset, stages, wanted, None, len(drives))

    alone = run()
    parts = [alone.judge(place, drive) for place, drive in enumerate(drives)]
    # The second process has seen nothing of the first drive.
    shares = [parts[:1], [run().judge(1, drives[1])]]
    sent: list[list[Any]] = [shares[1]]

    def heard(own: list[Any]) -> list[Any]:
        """Of process 1, which hears of the parts of process 0, and is heard itself."""
        if isinstance(own[0], PartialResult):
            return own + shares[0]
        sent.append(own)
        return own

    assert run().finish(shares[1], lambda *_: None, (1, 2), heard) is None
    answers = iter(pickle.loads(pickle.dumps(sent)))
    two = run().finish(shares[0], lambda *_: None, (0, 2), lambda own: own + next(answers))
    one = alone.finish(parts, lambda *_: None)
    assert one is not None
    assert two is not None
    assert one[0].pop("latency").keys() == two[0].pop("latency").keys()
    assert one[0]["occupancy"]["rows"]["network"]["scenes"] == 2
    assert set(one[0]["language"]["rows"]) == {"seeing", "blind (black images)", "blind (another scene)"}
    assert plain(one[0]) == plain(two[0])
    assert [s.name for s in one[2]] == [s.name for s in two[2]]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_with_two_processes_gives_the_numbers_of_one(trained, world_root, prepared, tmp_path):
    """The engine that people have, two real processes with a drive each."""
    both = tmp_path / "index.npz"
    replace(prepared, scene_split=np.array(["train", "train"])).save(both)
    words = ["-m", "sparseoccvla_ros.cli", "eval", "nuscenes", "--dataroot", world_root, "--preset", trained]
    words += [
        "--index",
        both,
        "--split",
        "train",
        "--untrained",
        "--tasks",
        "planning",
        "--threads",
        1,
        "--device",
        "cpu",
    ]
    found = []
    for count in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count, *words]
        out = tmp_path / str(count)
        done = subprocess.run([*map(str, launch), "--out", out], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads((out / "report.json").read_text()))
    assert [numbers.pop("processes") for numbers in found] == [1, 2]
    assert all(len(numbers["scenes"]) == 2 for numbers in found)
    for numbers in found:
        numbers.pop("latency", None)
    assert found[0] == found[1]
    assert found[0]["planning"]


def test_parts_come_together_in_the_order_of_the_drives():
    parts = [PartialResult(2, seconds={"occupancy": [3.0]}), PartialResult(0, seconds={"occupancy": [1.0, 2.0]})]
    assert together(parts).seconds == {"occupancy": [1.0, 2.0, 3.0]}


# --- the later stages


@pytest.mark.slow
@pytest.mark.parametrize("part", ["planning", "forecast", "language"])
def test_later_stages_learn_from_the_same_folder(trained, world_root, prepared, tmp_path, part):
    """Features are encoded now and cached; what comes out loads into the preset and takes part in the chain."""
    preset, run = Path(shutil.copytree(trained, tmp_path / "preset")), CliRunner()
    words = ["--stage", "2"] if part == "language" else ["--stage", "3", "--parts", part]
    words += ["--data", "nuscenes", "--dataroot", str(world_root), "--preset", str(preset), "--device", "cpu"]
    words += ["--steps", "2", "--batch-size", "1", "--threads", "1"]
    done = run.invoke(train_app, [*words, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "1 samples to learn, 1 to validate" in done.output
    stage = "planning" if part == "planning" else "reasoning"
    best = str(tmp_path / "run" / "best.safetensors")
    done = run.invoke(train_app, ["ship", best, "--preset", str(preset), "--stage", stage])
    assert done.exit_code == 0, done.output
    stages = SparseOccVLA.from_preset(load_preset(str(preset)), stages=STAGES[: STAGES.index(stage) + 1])
    assert stage in stages.stages


def test_later_stages_name_what_is_missing(trained, world_root, prepared, tmp_path):
    copy = Path(shutil.copytree(world_root, tmp_path / "copy"))
    for folder in ("gts", "vqa", "conv", "desc", "keywords", "kinds"):
        shutil.rmtree(copy / folder)
    index = tmp_path / "index.npz"
    prepared.save(index)
    words = ["--data", "nuscenes", "--dataroot", str(copy), "--index", str(index), "--preset", str(trained)]
    words += ["--device", "cpu", "--steps", "1", "--threads", "1", "--out", str(tmp_path / "run")]
    for more, said in ((["--stage", "3", "--parts", "forecast"], "Occ3D"), (["--stage", "2"], "OmniDrive")):
        done = CliRunner().invoke(train_app, [*words, *more])
        assert done.exit_code == 2
        assert said in done.output


def test_future_labels_move_into_the_present():
    grid = np.random.default_rng(3).integers(0, 18, OCC3D_GRID.shape, dtype=np.uint8)
    moved = seen_from_now(grid, geometry.planar(4.0, -0.8, 0.0))
    np.testing.assert_array_equal(moved[10:, :-2], grid[:-10, 2:])
    assert (moved[:10] == 255).all()
    assert (moved[:, -2:] == 255).all()
    turned = seen_from_now(grid, geometry.planar(0.0, 0.0, np.pi / 2))
    np.testing.assert_array_equal(turned, np.rot90(grid))


def test_movers_are_the_annotated_boxes(world_root, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path))
    features = NuscenesFeatures(NuscenesImages(world_root, prepared, ImageConfig(64, 176), 1), "", "")
    futures = NuscenesFutures(features, world_root / "gts", present=False)
    assert futures.read(1) is None
    futures.prepare(1)
    found, drive = futures.read(1), drive_of(world_root, prepared)
    assert features.complete(1) == [0]
    np.testing.assert_array_equal(unpack(found["future_labels"][0]), drive.future_semantics(0))
    agents = drive.sample(0).agents
    stays = agents.present[:, [0, 2, 4, 6]].all(1)
    (movers,) = found["movers"]
    assert movers.shape == (4, stays.sum(), 5)
    np.testing.assert_allclose(movers[3, :, :2], agents.centres[stays, 6], atol=1e-5)
    np.testing.assert_allclose(movers[0, :, 3:], agents.sizes[stays], atol=1e-5)


# --- what is missing


def test_missing_pieces_drop_their_task_by_name(trained, world_root, prepared, tmp_path):
    copy = Path(shutil.copytree(world_root, tmp_path / "copy"))
    for folder in ("gts", "vqa", "conv", "desc", "keywords", "kinds"):
        shutil.rmtree(copy / folder)
    request = Request(str(trained), copy, untrained=True, wanted=EvalConfig())
    there = available(request, prepared)
    assert there.tasks == ("planning",)
    assert "Occ3D" in there.dropped["occupancy"]
    assert str(copy / "gts") in there.dropped["forecast"]
    assert "OmniDrive" in there.dropped["language"]
    index = tmp_path / "index.npz"
    prepared.save(index)
    words = ["nuscenes", "--dataroot", str(copy), "--index", str(index), "--preset", str(trained), "--device", "cpu"]
    done = CliRunner().invoke(eval_app, [*words, "--threads", "1", "--out", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page" / "report.md").read_text()
    assert re.findall("\n## (.*)", text) == ["At a glance", "Planning", "Latency", "Pictures"]
    assert text.count("NOT JUDGED") == 3
    # No weights, and not asked to run without: baselines stay.
    assert "planning of preset micro is untrained" in text
    refused = CliRunner().invoke(eval_app, [*words, "--tasks", "occupancy", "--out", str(tmp_path / "none")])
    assert refused.exit_code == 2
    assert "Occ3D" in refused.output
    assert not (tmp_path / "none").exists()


def test_what_is_missing_in_part_is_counted(trained, world_root, prepared, tmp_path):
    copy = Path(shutil.copytree(world_root, tmp_path / "copy"))
    drive = drive_of(copy, prepared)
    (copy / "gts" / drive.name / drive.token(2) / "labels.npz").unlink()
    (copy / "kinds" / "val" / f"{drive.token(0)}.json").unlink()
    for family in ("vqa", "conv", "desc", "keywords"):
        (copy / family / "val" / f"{drive.token(0)}.json").unlink(missing_ok=True)
    there = available(Request(str(trained), copy), prepared)
    assert there.dropped == {}
    assert there.missing == {
        "scenes whose images are not all there": 0, "samples without Occ3D labels": 1, "samples without questions": 1,
        "locations without vector map (no road tests there)": 1,
    }  # fmt: skip
    assert drive.semantics(2) is None
    assert drive.future_semantics(0) is None
    assert drive.questions(0) == []
    next((copy / "samples" / "CAM_BACK").glob("scene-9001*")).unlink()
    with pytest.raises(InvalidInput, match="no scene of val has all its images"):
        available(Request(str(trained), copy), prepared)
    with pytest.raises(InvalidInput, match="images"):
        [drive.frames(k, 0) for k in range(KEYFRAMES)]


@pytest.mark.parametrize(("field", "value"), [("origins", 0), ("scenes", 0)])
def test_bad_requests_name_the_field(field, value):
    with pytest.raises(InvalidInput, match=field):
        Request("tiny", Path("."), **{field: value})


# --- a scene as a drive


def test_the_chain_sees_what_training_sees_and_never_ahead(micro, world_root, prepared):
    """Keyframe after keyframe through the memory is the batch of the sample, whose history is earlier keyframes."""
    preset = load_preset(micro)
    stages = SparseOccVLA.from_preset(preset, untrained=True, stages=("occupancy",))
    images = NuscenesImages(world_root, prepared, preset.image, 1)
    drive = NuscenesDrive(images, 1, None, "val")
    samples = NuscenesSamples(world_root, prepared, "val", preset.image, preset.occupancy.frames, labels=False)
    chain = stages
    chain.reset()
    for k in range(4):
        frames = drive.frames(k, 1)
        assert max(frames.stamp, *frames.stamps) == frames.stamp
        ours = chain.step(frames, *drive.command(k), drive.history(k)).queries
        sample = samples[k]
        given = torch.from_numpy(sample.images)[None], torch.from_numpy(sample.ego2img)[None]
        with torch.inference_mode():
            theirs = stages.encoder(*given)[-1].features[0]
        np.testing.assert_allclose(ours.features, theirs.numpy(), atol=2e-3)
    assert stages.encoder.memory.history == tuple(int(prepared.stamp[drive.first + k]) for k in (3, 2))


def test_history_is_what_was_prepared(prepared):
    history = PreparedHistory(prepared, 4)
    stamp = int(prepared.stamp[4])
    np.testing.assert_array_equal(history.features(stamp), prepared.features[4])
    paper = history.paper_features(stamp, Command.RIGHT)
    np.testing.assert_array_equal(paper[3:6], [0, 0, 1])
    np.testing.assert_array_equal(np.delete(paper, [3, 4, 5]), np.delete(prepared.paper[4], [3, 4, 5]))
    with pytest.raises(InvalidInput, match="stamp"):
        history.features(stamp + 1)


def test_truth_of_a_scene(world_root, prepared):
    drive = drive_of(world_root, prepared, origins=3)
    assert drive.command(0) == (Command.STRAIGHT, CommandSource.ROUTE)
    origins = drive.ray_origins(2)
    np.testing.assert_allclose(origins[:, 2], 1.84, atol=1e-6)
    assert len(origins) == 3
    future = drive.future_semantics(0)
    np.testing.assert_array_equal(future[2], drive.semantics(6)[0])
    assert drive.future_semantics(1) is None
    sample = drive.sample(0)
    assert sample.complete
    assert sample.drivable is None
    assert not drive.sample(1).complete
    # A car that is driven along leaves its labels at the place of its box.
    grid, frame = drive.semantics(0)[0], (40.0, 40.0, 1.0)
    cars = [a for a, c in enumerate(sample.agents.categories) if c == "vehicle.car"]
    at = [np.array([*sample.agents.centres[a, 0], 0.6]) for a in cars]
    cells = np.floor((np.array(at) + frame) / 0.4).astype(int)
    inside = ((cells >= 2) & (cells < (198, 198, 16))).all(1)
    assert inside.any()
    assert (grid[tuple(cells[inside].T)] == 4).all()


def test_sparseworlds_keyframes():
    """28 of a scene of 40: 4,219 of the validation split's 6,019."""
    drive = NuscenesDrive.__new__(NuscenesDrive)
    drive._count = 40
    assert [k for k in range(40) if drive.in_window(k)] == list(range(5, 33))


def test_the_training_split_is_all_that_baselines_know(world_root, prepared):
    found = priors.known(world_root, prepared, world_root / "gts")
    drive = drive_of(world_root, prepared, 0)
    first = drive.semantics(3)[0]
    assert (found.prior == first).mean() > 0.9
    assert len(found.features) == 1
    np.testing.assert_allclose(found.truth[0], drive.sample(0).truth)
    said = [q for k in range(KEYFRAMES) for q in drive.questions(k)]
    question = next(q for q in said if q.kind == "count")
    assert found.answers[question.key][question.answer] >= 1
    assert found.answer("desc") == ""
    assert priors.known(world_root, prepared, None).prior is None


# --- roads and captions


def test_roads_of_the_map_expansion(tmp_path):
    """A straight road of 8 m with a traffic island of 2 m, turned by 30 degrees about the car."""
    pose = geometry.planar(400.0, 900.0, np.pi / 6)
    corners = {
        "road": [(-80, -4), (80, -4), (80, 4), (-80, 4)], "island": [(10, -1), (12, -1), (12, 1), (10, 1)],
    }  # fmt: skip
    node, tokens = [], {}
    for name, points in corners.items():
        for k, point in enumerate(points):
            x, y, _ = geometry.apply(pose, np.array([*point, 0.0]))
            node.append({"token": f"{name}{k}", "x": x, "y": y})
        tokens[name] = [f"{name}{k}" for k in range(4)]
    content: dict[str, Any] = {
        "node": node,
        "polygon": [
            {"token": "p", "exterior_node_tokens": tokens["road"], "holes": [{"node_tokens": tokens["island"]}]}
        ],
        "drivable_area": [{"polygon_tokens": ["p"]}],
        "road_segment": [{"polygon_token": "p"}],
        "lane": [],
    }
    path = map_file(tmp_path, "somewhere")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    drivable, edges = Roads(path).around(pose)
    cells = lambda x, y: (round(10 * (y + 50)), round(10 * (x + 50)))  # noqa: E731
    assert drivable[cells(0, 0)]
    assert drivable[cells(49, 3.8)]
    assert not drivable[cells(0, 4.3)]
    assert not drivable[cells(11, 0)]
    assert drivable.sum() == pytest.approx(100 * (100 * 8 - 4), rel=0.02)
    sides = np.concatenate(edges)
    assert np.abs(sides[:, 1]).max() == pytest.approx(4.0, abs=0.15)
    assert len(edges) == 2
    # The road goes on beyond the raster: its border is no edge.
    ends = np.concatenate([e[[0, 1]] for e in edges])
    assert not ((np.abs(ends[:, 0]) < 50) & (np.abs(ends[:, 1]) < 0.5)).any()
    for wrong in ("{", json.dumps({"node": []}), json.dumps(content | {"lane": [{"polygon_token": "?"}]})):
        path.write_text(wrong)
        with pytest.raises(InvalidInput, match="maps"):
            Roads(path)
    with pytest.raises(InvalidInput, match="maps"):
        Roads(tmp_path / "none.json")


def test_captions_are_the_description_and_what_needs_attention(monkeypatch):
    def question(family: str, key: str, answer: str = "a b c d") -> Question:
        return Question(family, "free_text", key, "?", answer, True)

    omnidrive = [question("conv", "conv"), question("vqa", "vqa", "first"), question("vqa", "vqa", "second")]
    assert [q.answer for q in captions.captions_of(omnidrive)] == ["first"]
    world = [question("vqa", "what_if"), question("desc", "description"), question("vqa", "attention", "that")]
    assert [q.key for q in captions.captions_of(world)] == ["description", "attention"]
    # The other recipe starts a Java program; tests/parity has it.
    monkeypatch.setattr(captions, "TOKENISATIONS", ("hermes",))
    texts = {
        "a/0": question("desc", "d", "a red car waits at the light"),
        "b/0": question("desc", "d", "two men cross"),
    }
    answers = {"seeing": {"a/0": "a red car waits at the light", "b/0": None}, "silent": {"a/0": "x"}}
    found, block = captions.scored_captions(texts, {"a/0": "a", "b/0": "b"}, answers, 20)
    assert set(found["rows"]) == {f"{captions.SELF_TEST}, hermes", "seeing, hermes"}
    assert found["rows"]["seeing, hermes"]["missing"] == 1
    assert found["rows"]["seeing, hermes"]["scores"]["ROUGE-L"].value == pytest.approx(0.5)
    assert found["rows"][f"{captions.SELF_TEST}, hermes"]["scores"]["ROUGE-L"].value == pytest.approx(1.0)
    assert "desc 2" in block.notes[0]


def test_a_root_that_was_never_prepared_is_refused(trained, world_root, tmp_path):
    words = ["nuscenes", "--dataroot", str(world_root), "--index", str(tmp_path / "none.npz"), "--preset", str(trained)]
    done = CliRunner().invoke(eval_app, [*words, "--device", "cpu", "--out", str(tmp_path / "page")])
    assert done.exit_code == 2
    assert "run ./run data prepare first" in done.output
    assert VERSION not in done.output
