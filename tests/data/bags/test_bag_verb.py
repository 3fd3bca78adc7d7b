import inspect
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sparseoccvla_ros.cli.bag import app
from sparseoccvla_ros.data.bags.reader import BagReader


@pytest.fixture
def call(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        result = CliRunner().invoke(app, [str(w) for w in words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def test_info_lists_every_topic_in_full(call, drive):
    result = call("info", drive())
    assert result.exit_code == 0
    for word in ("/CAM_FRONT/image_rect_compressed", "sensor_msgs/CompressedImage", "10.0", "base_link -> CAM_FRONT"):
        assert word in result.output
    assert "23 messages" in result.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("info", "nowhere"), "does not exist"),
        (("nuscenes", "--dataroot", "nowhere", "--scene", "scene-0061"), "does not exist"),
        (("nuscenes", "--dataroot", "."), "v1.0-"),
        (("foxglove", "nowhere.mcap"), "no file"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(call, words, expected):
    result = call(*words)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_a_truncated_bag_says_so(call, drive, tmp_path):
    data = next(drive().glob("*.mcap")).read_bytes()
    (tmp_path / "cut.mcap").write_bytes(data[:-20])
    result = call("info", "cut.mcap")
    assert result.exit_code == 2
    assert "mcap recover cut.mcap" in result.stderr


def test_scenes_are_listed_when_none_is_given(call, tmp_path):
    (tmp_path / "v1.0-mini").mkdir()
    row = {"name": "scene-0061", "nbr_samples": 39, "description": "Parked truck [bold]"}
    (tmp_path / "v1.0-mini" / "scene.json").write_text(json.dumps([row]))
    result = call("nuscenes", "--dataroot", tmp_path)
    assert result.exit_code == 0
    for word in ("scene-0061", "39", "Parked truck [bold]"):
        assert word in result.output


@pytest.mark.parametrize("verb", ["make", "nuscenes", "foxglove", "info"])
def test_help_of_every_verb(call, verb):
    result = call(verb, "--help")
    assert result.exit_code == 0
    assert result.output.count("[default:") >= {"make": 7, "nuscenes": 1}.get(verb, 0)


def test_help_does_not_wait_for_heavy_imports():
    code = (
        "import sys\n"
        "import sparseoccvla_ros.cli.bag\n"
        "print(sorted({'numpy', 'scipy', 'rosbags', 'mcap', 'torch', 'cv2'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_make_offers_every_setting_of_the_world_with_the_same_defaults():
    from sparseoccvla_ros.cli.bag import make
    from sparseoccvla_ros.data.synthetic.to_bag import make_world_bag

    wanted = {n: p.default for n, p in inspect.signature(make_world_bag).parameters.items()}
    del wanted["path"], wanted["on_progress"]
    offered = {n: p.default for n, p in inspect.signature(make).parameters.items() if n != "out"}
    assert offered == wanted


@pytest.mark.slow
def test_make_writes_a_bag_and_does_not_overwrite_it(call, tmp_path):
    words = ("make", "bag", "--seconds", 1, "--rate", 2, "--height", 32, "--width", 57, "--samples", 1)
    assert call(*words).exit_code == 0
    with BagReader(tmp_path / "bag") as reader:
        assert reader.topics["/CAM_FRONT/image_rect_compressed"].count >= 1
    again = call(*words)
    assert again.exit_code == 2
    assert "exists" in again.stderr
