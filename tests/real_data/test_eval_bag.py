"""./run eval bag on a converted nuScenes keyframe, followed by the real drive of its scene."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.core.types import NANOSECONDS
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.data.bags.writer import LATCHED_QOS, BagWriter
from sparseoccvla_ros.data.nuscenes.to_bag import convert_scene
from sparseoccvla_ros.eval.bags.evaluation import COAST, Request, evaluate_bag, page, write_result_bag
from tests.real_data.test_streaming import matrix

IMAGE = "sensor_msgs/msg/CompressedImage"
SETS = 3
"""Keyframes with images: there is one real set, so the later ones repeat it at their own stamps and poses."""


@pytest.mark.slow
def test_a_converted_keyframe_and_its_drive_give_a_report(keyframe_1, poses_1, preset, tmp_path):
    if keyframe_1.content["scene"] != poses_1.content["scene"]:
        pytest.skip("of another scene")
    keyframes = poses_1.content["keyframes"]
    convert_scene(keyframe_1.folder, keyframe_1.content["scene"], tmp_path / "keyframe")
    with BagReader(tmp_path / "keyframe") as reader, BagWriter(tmp_path / "drive") as bag:
        for record in reader.messages(reader.topics):
            message = reader.decode(record.raw, record.type)
            bag.write(record.topic, message, record.stamp, *([LATCHED_QOS] if record.topic == "/tf_static" else []))
            if record.type == IMAGE:
                camera = message.header.frame_id
                for keyframe in keyframes[1:SETS]:
                    stamp = keyframe["timestamps_us"][camera] * 1000
                    bag.compressed_image(record.topic, stamp, camera, message.data.tobytes())
        for keyframe in keyframes[1:]:
            stamp = keyframe["timestamps_us"]["CAM_FRONT"] * 1000
            bag.transforms(stamp, [("map", "base_link", matrix(keyframe["ego2global_at_cam_front"]))])
    report = evaluate_bag(Request(tmp_path / "drive", preset=preset, untrained=True))
    first, last = report.drive.stamps[[0, -1]]
    assert last - first == pytest.approx(19.5 * NANOSECONDS, abs=NANOSECONDS)
    assert report.boxes > 50, "the keyframe is annotated"
    assert len(report.plans) + sum(report.refused.values()) == SETS
    assert report.plans, report.refused
    for who in (report.judged, COAST):
        for row in report.rows[who]:
            # The car drives at about 9 m/s: who stops at once is 18 m off on average.
            assert 0.0 < row.ade_m < 25.0
            assert np.isfinite([row.fde_3s_m, row.heading_deg, row.acceleration, row.jerk]).all()
            assert row.ttc is None, "boxes of one moment say nothing of the three seconds after it"
            assert row.epdms is None, "there is no map"
    text = page(report, "./run eval bag drive")
    assert "no map" in text
    write_result_bag(report, tmp_path / "scores")
    with BagReader(tmp_path / "scores") as reader:
        assert reader.topics["/evaluation/ade_m"].count == len(report.plans)
