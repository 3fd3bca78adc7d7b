"""`./run serve egodriver` as a process, driven over gRPC as AlpaSim and the CARLA scenario runner do."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

grpc = pytest.importorskip("grpc", reason="requirements/serve.txt is not installed")
pytest.importorskip("carla_driver_interface", reason="requirements/serve.txt is not installed")
from carla_driver_interface import protocol  # noqa: E402
from carla_driver_interface.contract import contract_metadata  # noqa: E402
from carla_driver_interface.driver import CameraFrame, DriveContext, SessionState, TurnIndicator  # noqa: E402
from carla_driver_interface.geometry import Pose, Trajectory  # noqa: E402
from carla_driver_interface.testing import FakeCamera, FakeLoop  # noqa: E402

from sparseoccvla_ros.core.classes import CAMERAS  # noqa: E402
from sparseoccvla_ros.core.errors import InvalidInput  # noqa: E402
from sparseoccvla_ros.pipeline import SparseOccVLA  # noqa: E402
from sparseoccvla_ros.serve.egodriver import EgoDriver, camera_model  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
YAW = {
    "CAM_FRONT": 0,
    "CAM_FRONT_RIGHT": -55,
    "CAM_FRONT_LEFT": 55,
    "CAM_BACK": 180,
    "CAM_BACK_LEFT": 110,
    "CAM_BACK_RIGHT": -110,
}
RIG = [FakeCamera(n, 352, 198, 110.0 if n == "CAM_BACK" else 70.0, x=1.5, yaw_left_deg=YAW[n]) for n in CAMERAS]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("egodriver") / "log"
    command = [sys.executable, "-m", "sparseoccvla_ros.cli", "serve", "egodriver", "--port", "0", "--runtime", "carla"]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT)
    try:
        until = time.monotonic() + 240
        while not (found := re.search(r"at (127\.0\.0\.1:\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield found.group(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        text = log.read_text()
        assert "Traceback" not in text
        assert "plans: " in text, "how long its steps took"
        print(text)
    finally:
        process.kill()
        process.wait(10)


def test_fake_loop_drives_along_the_road(address):
    with FakeLoop(address, RIG, initial_speed_mps=5.0) as loop:
        result = loop.run(11)
    assert result.steps == 11
    x, y, _ = result.ego.positions.T
    assert 1.5 < x[-1] < 8.0, "1 s from 5 m/s; what it takes for an obstacle slows it"
    assert np.abs(y).max() < 0.67
    plans = [d for d in result.debug if "planned" in d.scalars]
    assert len(plans) == 3, "every half second"
    assert [c.turn_indicator for c in result.commands[1:]] == [TurnIndicator.DISABLE] * 10
    step, planning = np.mean([d.inference_seconds for d in result.debug]), [d.inference_seconds for d in plans]
    print(f"step: {step:.3f} s mean; with a plan: {np.median(planning):.3f} s median, {max(planning):.3f} s max")
    print({k: round(float(np.median([d.scalars[k] for d in plans])), 3) for k in plans[0].scalars if k.endswith("_s")})
    # Every fifth step plans. Other test processes share the cores.
    assert step < 0.5 * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def test_a_route_to_the_left_sets_the_indicator(address):
    with FakeLoop(address, RIG, initial_speed_mps=3.0, initial_heading_rad=-0.6) as loop:
        result = loop.run(1)
    assert result.commands[0].turn_indicator == TurnIndicator.ENABLE_LEFT


@pytest.fixture
def session(address) -> Iterator[tuple[protocol.EgodriverServiceStub, str]]:
    """A session of one camera, with a vehicle at 8 m/s."""
    with grpc.insecure_channel(address) as channel:
        stub = protocol.EgodriverServiceStub(channel)
        start(stub, "one", RIG[0].available_camera())
        motion = protocol.RolloutEgoTrajectory(session_uuid="one")
        motion.trajectory.CopyFrom(Trajectory([0], [Pose.identity()]).to_proto())
        motion.dynamic_states.append(protocol.DynamicState(linear_velocity=protocol.Vec3(x=8.0)))
        stub.submit_egomotion_observation(motion)
        yield stub, "one"
        stub.close_session(protocol.DriveSessionCloseRequest(session_uuid="one"))


def start(stub, uuid: str, camera: protocol.AvailableCamera) -> None:
    request = protocol.DriveSessionRequest(session_uuid=uuid)
    request.rollout_spec.vehicle.available_cameras.append(camera)
    stub.start_session(request, metadata=contract_metadata())


def test_without_images_it_brakes(session):
    stub, uuid = session
    answer = stub.drive(protocol.DriveRequest(session_uuid=uuid, time_now_us=0, time_query_us=100_000))
    x = Trajectory.from_proto(answer.trajectory).positions[:, 0]
    steps = np.diff(x)
    assert (steps >= 0).all(), x
    assert (np.diff(steps) <= 1e-6).all(), x
    assert steps[-1] < 0.1, x


def test_what_cannot_be_planned_from_ends_in_braking(preset):
    """Black images, and a clock that falls back: no error that ends the simulation, and no path that goes on."""
    driver = EgoDriver(SparseOccVLA.from_preset(preset, ("occupancy", "planning"), untrained=True))
    cameras = {name: c.available_camera() for name, c in zip(CAMERAS, RIG, strict=True)}
    session = SessionState("one", 0, "made", cameras)
    driver.on_session_start(session)

    def drive(seconds: float, bright: int) -> dict[str, float]:
        now = round(1e6 * seconds)
        session.ego_trajectory = Trajectory([now], [Pose(np.array([5.0 * seconds, 0, 0]), np.array([0, 0, 0, 1.0]))])
        session.dynamic_states = [protocol.DynamicState(
            linear_velocity=protocol.Vec3(x=5.0), angular_velocity=protocol.Vec3()
        )]  # fmt: skip
        driver.on_egomotion(session, session.ego_trajectory)
        pixels = np.random.default_rng(0).integers(0, bright, (198, 352, 3), np.uint8)
        for name in CAMERAS:
            driver.on_frame(session, CameraFrame(name, now, now, cv2.imencode(".png", pixels)[1].tobytes()))
        return driver.drive(DriveContext(session, now, now + 100_000, None)).debug_scalars

    try:
        assert drive(10.0, 255)["planned"] == 1.0
        assert drive(10.6, 1) == {}, "the plan before"
        assert drive(11.6, 1) == {"braking": 1.0}
        assert drive(12.2, 255)["planned"] == 1.0
        assert drive(4.0, 1) == {"braking": 1.0}, "no plan of a time to come"
    finally:
        driver.on_session_close(session)


def test_another_session_is_refused_while_one_is_driven(session):
    stub, _ = session
    with pytest.raises(grpc.RpcError, match="is being driven") as refused:
        start(stub, "two", RIG[0].available_camera())
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def lens(**fields: object) -> protocol.AvailableCamera:
    camera = FakeCamera("front", 640, 360, pitch_down_deg=5.0).available_camera()
    camera.intrinsics.opencv_pinhole_param.MergeFrom(protocol.OpenCVPinholeCameraParam(**fields))
    return camera


def test_lenses_become_calibrations():
    plain = camera_model(lens())
    assert not plain.distorted
    assert (plain.width, plain.height, plain.intrinsics[0, 2]) == (640, 360, 319.5), (
        "from the centre of the first pixel"
    )
    assert plain.camera2ego[:3, 2] == pytest.approx((np.cos(np.radians(5)), 0, -np.sin(np.radians(5)))), "looks ahead"
    short = camera_model(lens(radial_coeffs=[0.1, 0.2, 0.3], tangential_coeffs=[1e-3, 2e-3]))
    assert (short.distortion_model, *short.distortion) == ("plumb_bob", 0.1, 0.2, 1e-3, 2e-3, 0.3)
    long = camera_model(lens(radial_coeffs=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert (long.distortion_model, len(long.distortion), long.distortion[-1]) == ("rational_polynomial", 8, 0.6)


def test_lenses_that_nobody_undoes_are_refused_by_name():
    camera = lens()
    camera.intrinsics.ftheta_param.max_angle = 1.0
    with pytest.raises(InvalidInput, match=r"front.*ftheta_param.*pinhole"):
        camera_model(camera)
    with pytest.raises(InvalidInput, match="thin prism"):
        camera_model(lens(thin_prism_coeffs=[0.1]))
