"""The fuzzers find what they should, and what they found stays mended."""

from __future__ import annotations

import io
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseoccvla_ros.camera_sync.calibration import load_calibration
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.files import BoundedFile, read_npz, read_yaml
from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.data.bags.writer import BagWriter
from sparseoccvla_ros.faults import fuzz as engine
from sparseoccvla_ros.faults.decoders import DECODERS
from sparseoccvla_ros.faults.examples import opus_weights
from sparseoccvla_ros.occupancy.checkpoints import opus_config, read_state
from sparseoccvla_ros.planning.route_command import RouteCommand
from sparseoccvla_ros.runtime.presets import load_preset


@pytest.mark.parametrize("name", DECODERS)
def test_examples_are_read_and_damage_is_refused(name: str, tmp_path: Path) -> None:
    """Only damage to what is read reaches the depths of a decoder."""
    decoder = DECODERS[name]
    seeds, attempt = decoder.make(tmp_path)
    for seed in seeds:
        attempt(seed)
    outcome = engine.Outcome()
    for number in range(10):
        data = decoder.mutate(engine.random.Random(f"test {number}"), seeds)
        engine._one(attempt, data, outcome, tmp_path / "findings")
    assert outcome.findings == {}


@pytest.mark.slow
def test_one_verb_tries_every_decoder(tmp_path: Path) -> None:
    outcomes = engine.fuzz(1000, 1, tmp_path)
    assert set(outcomes) == set(DECODERS)
    assert all(o.tried and not o.uncaught for o in outcomes.values()), {n: o.findings for n, o in outcomes.items()}


def test_an_uncaught_exception_is_a_finding_with_its_input(tmp_path: Path) -> None:
    def attempt(data: bytes) -> None:
        raise ZeroDivisionError

    outcome = engine.Outcome()
    engine._one(attempt, b"abc", outcome, tmp_path)
    (file,) = outcome.findings.values()
    assert Path(file).read_bytes() == b"abc"
    assert outcome.uncaught == 1


@pytest.mark.parametrize(
    "text",
    ["a: &a [*a]", "a: 2020-02-30", "[" * 3000, "a: &a [1,2,3,4,5,6,7,8,9]\nb: &b [" + "*a," * 200 + "]\nc: ["
     + "*b," * 200 + "]", "\x00", "!!python/object:os.system x", "? [1]\n: 2", "x" * 2**20 + "y"],
)  # fmt: skip
def test_yaml_that_bites_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=r"x\.yaml"):
        read_yaml(file, "preset")


@pytest.mark.parametrize(
    "change",
    ["seed: x", "seed: [1]", "image: 3", "image: {height: word}", "occupancy: {1: 2}", "planning: {reasoning_dims: []}",
     "anchors: [1]", "anchors: ../../../etc/passwd", "anchors: /etc/passwd", "1: 2",
     "weights: {occupancy: {file: ../x.safetensors, sha256: a}}"],
)  # fmt: skip
def test_presets_refuse_by_name(tmp_path: Path, change: str) -> None:
    (tmp_path / "config.yaml").write_text("format_version: 1\n" + change + "\n")
    (tmp_path / "anchors.npz").write_bytes(share("models", "tiny", "anchors.npz").read_bytes())
    with pytest.raises(InvalidInput):
        load_preset(str(tmp_path))


def test_calibration_with_a_date_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "rig.yaml"
    file.write_text("cameras: {CAM_FRONT: {width: 2020-02-30}}")
    with pytest.raises(InvalidInput, match="calibration"):
        load_calibration(file)


def test_routes_and_goals_of_impossible_numbers() -> None:
    route = RouteCommand()
    with pytest.raises(InvalidInput, match="beyond"):
        route.set_route(np.array([[0, 0], [1e300, 0]]))
    with pytest.raises(InvalidInput, match="goal"):
        route.set_goal(np.eye(4), np.array([1.0]))


def test_an_array_that_its_file_does_not_hold_is_not_made(tmp_path: Path) -> None:
    """A header of a terabyte before eight bytes; an archive that unpacks to more than allowed; objects."""
    lie = io.BytesIO()
    np.lib.format.write_array_header_1_0(lie, {"descr": "<f8", "fortran_order": False, "shape": (2**37,)})
    for name, content, word in (("lie", lie.getvalue() + bytes(8), "declares"), ("bomb", bytes(2**21), "MiB")):
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.npy", content)
        with pytest.raises(InvalidInput, match=word):
            read_npz(tmp_path / f"{name}.npz", "anchors", limit=2**20)
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    with pytest.raises(InvalidInput, match="unpickled"):
        read_npz(tmp_path / "objects.npz", "anchors")


def test_a_bag_names_no_file_outside_its_folder(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.string("/count", 10**18, "1")
    (tmp_path / "bag" / "bag.mcap").rename(tmp_path / "secret.mcap")
    file = tmp_path / "bag" / "metadata.yaml"
    file.write_text(file.read_text().replace("bag.mcap", "../secret.mcap"))
    with pytest.raises(InvalidInput, match="outside"):
        BagReader(tmp_path / "bag")


def test_a_length_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    """Buffers are as large as the file at most: a key of 3.5 GB in a channel's metadata, and one in a pickle."""
    file = tmp_path / "short"
    file.write_bytes(b"0123456789")
    with BoundedFile(file) as stream:
        assert stream.read(2) == b"01"
        assert stream.read(2**60) == b"23456789"
        assert stream.read() == b""


def test_a_checkpoint_that_unpacks_to_more_than_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**20))
    with pytest.raises(InvalidInput, match="more than it holds"):
        read_state(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("0.norm1.weight", ()), ("0.norm1.weight", (0,)), ("0.sampling.sampling_offset.bias", (1,)),
     ("0.mixing.out_proj.weight", (8,)), ("x.norm1.weight", (8,))],
)  # fmt: skip
def test_weights_of_impossible_shapes(name: str, shape: tuple[int, ...]) -> None:
    state = opus_weights() | {f"pts_bbox_head.transformer.decoder.decoder_layers.{name}": torch.zeros(shape)}
    if name.startswith("x"):
        assert opus_config(state) == opus_config(opus_weights()), "no layer has this name"
    else:
        with pytest.raises(InvalidInput, match="shape"):
            opus_config(state)


def test_a_db3_file_with_a_topic_without_a_name(tmp_path: Path) -> None:
    file = tmp_path / "bag.db3"
    with closing(sqlite3.connect(file)) as base:
        base.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
        base.execute("CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)")
        base.execute("INSERT INTO topics VALUES (1, NULL, 'std_msgs/msg/String', 'cdr')")
        base.execute("INSERT INTO messages VALUES (1, 1, 1, x'0001000000000000')")
        base.commit()
    with pytest.raises(InvalidInput, match="no text"):
        BagReader(file)


@pytest.mark.parametrize(("old", "new"), [("name: /count", "name: 7"), ("depth: 10", "depth: {a: b}")])
def test_bag_metadata_of_wrong_types(tmp_path: Path, old: str, new: str) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.string("/count", 10**18, "1")
    file = tmp_path / "bag" / "metadata.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(InvalidInput, match=r"metadata|depth"):
        BagReader(tmp_path / "bag")
