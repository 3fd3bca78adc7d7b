"""Vehicles with 1 to 8 cameras, mixed lenses and names of their own, from a bag through the nodes to a path."""

import pytest
import yaml

from sparseoccvla_ros.bringup.live_rig import check_live
from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.nodes.bag_player import BagPlayerNode
from sparseoccvla_ros.nodes.camera_sync import CameraSyncNode
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.planning import PlanningNode
from sparseoccvla_ros.ros import messages
from tests import rig_bags

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("count", [1, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 5)), 8])
def test_plays_to_a_path(graph, preset, until, tmp_path, count):
    cameras = rig_bags.rig(count)
    bag, profile = rig_bags.write(tmp_path, cameras)
    names = rig_bags.cut(profile, "eye.left", {"eye.l1": 45, "eye.l2": -45}) if count == 5 else tuple(cameras)
    frames, paths = graph.probe.listen("frames"), graph.probe.listen("planning/path")
    sync = graph.add(CameraSyncNode, preset=preset, profile=str(profile), use_sim_time=True)
    occupancy = graph.add(OccupancyNode, preset=preset, use_sim_time=True)
    planning = graph.add(PlanningNode, preset=preset, use_sim_time=True, max_age=20.0)
    player = graph.add(BagPlayerNode, bag=str(bag), profile=str(profile), rate=2.0, settle=0.5)
    assert until(player.finished.is_set, 60)
    told = [node.monitor.state(9) for node in (sync, occupancy, planning)]
    assert until(lambda: any(path.poses for path in paths), 20), told
    got = [messages.frames_from_msg(message) for message in frames]
    assert {f.names for f in got} == {names}
    assert any(f.valid.all() and f.images.any((1, 2, 3)).all() for f in got), told
    assert any(f.trace for f in got), "arrival of its images"
    path = next(path for path in paths if path.poses)
    assert messages.nanoseconds(path.header.stamp) in {f.stamp for f in got}


@pytest.mark.slow
def test_the_topics_of_a_running_vehicle_are_checked(graph, tmp_path):
    """Three cameras that play, the stern's CameraInfo under another name than the profile says."""
    bag, path = rig_bags.write(tmp_path, rig_bags.rig(3))
    content = yaml.safe_load(path.read_text())
    content["cameras"]["stern"]["info_topic"] = "/rig/cam1/camera_info"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(content, sort_keys=False))
    graph.add(BagPlayerNode, bag=str(bag), profile=str(path), settle=0.5, loop=True, wait_for=0)
    report = check_live(profile(wrong), ImageConfig(64, 176), 6.0, domain_id=graph.domain_id)
    told = {camera.name: camera for camera in report.cameras}
    assert all(camera.images >= 6 for camera in told.values()), report.lines()
    assert any("has no calibration: nothing came on /rig/cam1/camera_info" in text for text in told["stern"].problems)
    for name in ("bow", "eye.left"):
        assert told[name].lens, "its CameraInfo was heard"
        assert told[name].camera2ego is not None, "tf was heard"
        assert not any("calibration" in text for text in told[name].problems)
        # A recording that plays is of another day, and says so.
        assert any("behind the recorder's clock" in text for text in told[name].problems)
