"""Object boxes as vision_msgs/Detection3DArray, and as markers with an arrow for the velocity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import Point, Pose
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from sparseoccvla_ros.core.classes import PALETTES
from sparseoccvla_ros.core.types import BASE_FRAME
from sparseoccvla_ros.occupancy.object_boxes import HEADING_SPEED, ObjectBox

from ..markers import LIFETIME
from ..messages import duration_msg, header


def _pose(box: ObjectBox) -> Pose:
    out = Pose()
    out.position.x, out.position.y, out.position.z = box.centre.tolist()
    out.orientation.z, out.orientation.w = math.sin(box.yaw / 2), math.cos(box.yaw / 2)
    return out


def detections_to_msg(boxes: Sequence[ObjectBox], stamp: int, frame: str = BASE_FRAME) -> Any:
    """Return a vision_msgs/Detection3DArray in the vehicle frame at the stamp; ids are array indices, not tracks.

    Raises ImportError if vision_msgs is not installed.
    """
    from vision_msgs.msg import BoundingBox3D, Detection3D, Detection3DArray, ObjectHypothesisWithPose

    out = Detection3DArray(header=header(stamp, frame))
    for number, box in enumerate(boxes):
        pose = _pose(box)
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = box.name, box.score
        hypothesis.pose.pose = pose
        bounds = BoundingBox3D(center=pose)
        bounds.size.x, bounds.size.y, bounds.size.z = box.size.tolist()
        out.detections.append(Detection3D(header=out.header, results=[hypothesis], bbox=bounds, id=str(number)))
    return out


def detection_markers(boxes: Sequence[ObjectBox], stamp: int, palette: str, frame: str = BASE_FRAME) -> MarkerArray:
    """Return translucent boxes, with an arrow of one second's travel for moving ones; deletes earlier markers."""
    out = MarkerArray(markers=[Marker(header=header(stamp, frame), action=Marker.DELETEALL)])
    for number, box in enumerate(boxes):
        red, green, blue = (float(c) / 255 for c in PALETTES[palette][box.label])
        cube = Marker(header=header(stamp, frame), ns="boxes", id=number, type=Marker.CUBE, pose=_pose(box))
        cube.scale.x, cube.scale.y, cube.scale.z = box.size.tolist()
        cube.color = ColorRGBA(r=red, g=green, b=blue, a=0.3)
        cube.lifetime = duration_msg(LIFETIME)
        out.markers.append(cube)
        if box.velocity is None or math.hypot(*box.velocity) < HEADING_SPEED:
            continue
        x, y, z = box.centre.tolist()
        arrow = Marker(header=header(stamp, frame), ns="velocity", id=number, type=Marker.ARROW)
        arrow.pose.orientation.w = 1.0
        arrow.points = [Point(x=x, y=y, z=z), Point(x=x + box.velocity[0], y=y + box.velocity[1], z=z)]
        arrow.scale.x, arrow.scale.y, arrow.scale.z = 0.15, 0.4, 0.5
        arrow.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=0.9)
        arrow.lifetime = duration_msg(LIFETIME)
        out.markers.append(arrow)
    return out
