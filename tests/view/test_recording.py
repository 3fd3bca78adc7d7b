"""The recording: what a viewer opens again is what was logged, under the camera's stamp."""

from __future__ import annotations

import dataclasses
import socket
import sys
import urllib.request

import cv2
import numpy as np
import pytest

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import EgoState
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.view import recording
from sparseoccvla_ros.view.recording import SceneRecording, split_camera


def test_without_rerun_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ImportError, match=r"sparseoccvla_ros\[viz\]"):
        SceneRecording(tmp_path / "a.rrd")


def test_split_camera_gives_back_the_matrix(make_frames):
    for matrix in make_frames().ego2img:
        intrinsics, camera2ego = split_camera(matrix)
        np.testing.assert_allclose(geometry.camera_matrix(intrinsics, geometry.inverse(camera2ego)), matrix, atol=1e-9)
        np.testing.assert_allclose(camera2ego[:3, 3], (1.5, 0, 1.5), atol=1e-9)
        assert intrinsics[0, 0] == pytest.approx(0.8 * 352)
    mirrored = np.diag((-1.0, 1.0, 1.0, 1.0)) @ make_frames().ego2img[0]
    assert split_camera(mirrored) is None
    assert split_camera(np.zeros((4, 4))) is None


rerun = pytest.importorskip("rerun")


def chunks_of(path) -> dict[str, list]:
    """Entity path -> chunks of the recording in a file, read back by Rerun itself."""
    from rerun.chunk import RrdReader

    out: dict[str, list] = {}
    for chunk in RrdReader(path).stream().to_chunks():
        out.setdefault(chunk.entity_path.lstrip("/"), []).append(chunk)
    return out


def column(chunks: list, name: str) -> list:
    """Values of the components whose name ends in `name`, as Python lists, over all chunks of an entity."""
    values = []
    for chunk in chunks:
        batch = chunk.to_record_batch()
        for field in batch.schema.names:
            if field.endswith(name):
                values += [v for v in batch.column(field).to_pylist() if v is not None]
    return values


def stamps(chunks: list) -> list[int]:
    values = []
    for chunk in chunks:
        batch = chunk.to_record_batch()
        if recording.TIMELINE in batch.schema.names:
            values += [v.value for v in batch.column(recording.TIMELINE)]
    return values


def test_what_is_logged_can_be_opened_again(tmp_path, make_frames, make_plan, voxels):
    path = tmp_path / "deep" / "drive.rrd"
    frames, plan = make_frames(), make_plan()
    moved = dataclasses.replace(
        frames, stamp=frames.stamp + 500_000_007, ego=EgoState(geometry.planar(6, 4, 0.3), frames.ego.twist, "map")
    )
    with SceneRecording(path) as log:
        log.log_scene(frames, voxels, plan, (voxels,) * 3, voxels, {"preset": "tiny"}, False)
        log.log_scene(moved, voxels, plan)
        log.log_text(frames.stamp, "turn\nleft\x00", "reasoning")
        log.log_scalars(frames.stamp, {"occupancy": 310.0, "planning": float("nan")})
    assert path.read_bytes()[:4] == b"RRF2"
    chunks = chunks_of(path)

    boxes = chunks["map/ego/occupancy"]
    np.testing.assert_allclose(column(boxes, "Boxes3D:centers")[0], voxels.centres(), atol=1e-6)
    assert stamps(boxes) == [frames.stamp, moved.stamp]
    for seconds in ("1s", "2s", "3s"):
        assert len(column(chunks[f"map/ego/forecast/{seconds}"], "Boxes3D:centers")[0]) == len(voxels)
    encoded = column(chunks["map/ego/cameras/CAM_FRONT/image"], "EncodedImage:blob")[0][0]
    image = cv2.imdecode(np.frombuffer(bytes(encoded), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(image.astype(int) - frames.images[0]).mean() < 2
    assert len(column(chunks["map/ego/plan/candidates"], "LineStrips3D:strips")[0]) == len(plan.candidates)
    path_end = column(chunks["map/ego/plan/path"], "LineStrips3D:strips")[0][0][-1]
    np.testing.assert_allclose(path_end[:2], plan.waypoints[-1], atol=1e-5)
    np.testing.assert_allclose(column(chunks["map/ego"], "Transform3D:translation")[1][0], (6, 4, 0), atol=1e-6)
    assert column(chunks["log/reasoning"], "TextLog:text") == [["turn left"]]
    assert column(chunks["latency/occupancy"], "Scalars:scalars") == [[310.0]]
    assert "latency/planning" not in chunks
    status = [text for row in column(chunks["status"], "TextDocument:text") for text in row]
    assert "UNTRAINED" in status[0]
    assert "tiny" in status[0]


def test_trained_status_carries_no_warning(tmp_path, make_frames, voxels):
    with SceneRecording(tmp_path / "a.rrd") as log:
        log.log_scene(make_frames(), voxels, None, trained=True)
    (status,) = column(chunks_of(tmp_path / "a.rrd")["status"], "TextDocument:text")
    assert "UNTRAINED" not in status[0]
    assert "no plan" in status[0]


def test_what_is_gone_is_cleared(tmp_path, make_frames, make_plan, voxels):
    """A second frame set without plan, forecasts and one camera must not keep the first one's on screen."""
    frames = make_frames()
    later = dataclasses.replace(make_frames(missing=("CAM_BACK",)), stamp=frames.stamp + 10**9, epoch=frames.epoch + 1)
    with SceneRecording(tmp_path / "a.rrd") as log:
        log.log_scene(frames, voxels, make_plan(), (voxels,) * 3)
        log.log_scene(later, SparseVoxels.empty(), None)
    chunks = chunks_of(tmp_path / "a.rrd")
    gone = ["occupancy", "forecast/1s", "forecast/3s", "plan/path", "plan/candidates", "plan/waypoints"]
    for name in (*gone, "cameras/CAM_BACK/image"):
        cleared = [c for c in chunks[f"map/ego/{name}"] if any("Clear" in f for f in c.to_record_batch().schema.names)]
        assert later.stamp in stamps(cleared), name
    assert len(column(chunks["map/ego/occupancy"], "Boxes3D:centers")[0]) == len(voxels)


def free_ports() -> int:
    """A port that is free together with the next one."""
    for port in range(41000, 42000, 2):
        try:
            for number in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind(("0.0.0.0", number))
        except OSError:
            continue
        return port
    pytest.skip("no free pair of ports")


def test_file_and_browser_at_once(tmp_path, make_frames, voxels, monkeypatch):
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    port = free_ports()
    with SceneRecording(tmp_path / "a.rrd", port=port) as log:
        assert log.url.startswith(f"http://127.0.0.1:{port}/?url=rerun%2Bhttp://127.0.0.1:{port + 1}")
        log.log_scene(make_frames(), voxels)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert b"Rerun" in page.read()
        with socket.create_connection(("127.0.0.1", port + 1), timeout=5):
            pass
        with pytest.raises(InvalidInput, match="port"):
            SceneRecording(tmp_path / "b.rrd", port=port)
        assert not (tmp_path / "b.rrd").exists()
    assert "map/ego/occupancy" in chunks_of(tmp_path / "a.rrd")
    assert not (tmp_path / "home").exists(), "Rerun's viewer program alone collects how it is used, below the home"


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="path"):
        SceneRecording()
    with pytest.raises(InvalidInput, match="port"):
        SceneRecording(port=70000)
    with SceneRecording(tmp_path / "a.rrd") as log, pytest.raises(InvalidInput, match="level"):
        log.log_text(0, "x", level="LOUD")
