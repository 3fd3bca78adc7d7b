"""Markers for RViz: voxels as one CUBE_LIST written as bytes, candidates as lines, text."""

from __future__ import annotations

import struct

import numpy as np
from geometry_msgs.msg import Point
from rclpy.serialization import serialize_message
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from sparseoccvla_ros.core.classes import PALETTE
from sparseoccvla_ros.core.types import Plan
from sparseoccvla_ros.core.voxels import SparseVoxels

from .messages import duration_msg, header

LIFETIME = 3.0
"""Seconds after which RViz forgets a marker that is not renewed, so a dead node leaves nothing standing."""
_COLOURS = np.concatenate([PALETTE / 255.0, np.ones((len(PALETTE), 1))], 1).astype("<f4")
_TAIL_BYTES = 69
"""Bytes of a serialised Marker after its two lists, when its later fields are empty."""


def delete_all(stamp: int, namespace: str) -> MarkerArray:
    """Removes every marker of the topic from the screen."""
    return MarkerArray(markers=[Marker(header=header(stamp), ns=namespace, action=Marker.DELETEALL)])


def cubes(voxels: SparseVoxels, stamp: int, namespace: str, limit: int, alpha: float = 1.0) -> bytes | MarkerArray:
    """The voxels as one CUBE_LIST, ready for `publisher.publish`; DELETEALL when there are none.

    At most `limit` cubes, those with the highest score. The lists are written straight into the serialised message:
    building a Point and a ColorRGBA per voxel in Python costs about a hundred times as much.
    """
    if not len(voxels):
        return delete_all(stamp, namespace)
    centres, labels = voxels.centres(), voxels.labels
    if len(voxels) > limit:
        best = np.argpartition(-voxels.scores, limit)[:limit]
        centres, labels = centres[best], labels[best]
    marker = Marker(header=header(stamp), ns=namespace, type=Marker.CUBE_LIST, frame_locked=True)
    marker.scale.x = marker.scale.y = marker.scale.z = float(voxels.grid.size)
    marker.color.a = 1.0
    marker.pose.orientation.w = 1.0
    marker.lifetime = duration_msg(LIFETIME)
    empty = bytes(serialize_message(MarkerArray(markers=[marker])))
    start = len(empty) - _TAIL_BYTES - 8
    colours = _COLOURS[labels]
    if alpha != 1.0:
        colours = colours.copy()
        colours[:, 3] = alpha
    # CDR aligns float64 to 8 bytes, counted from the end of the 4-byte encapsulation header.
    padding = -(start + 4 - 4) % 8
    return b"".join(
        (
            empty[:start],
            struct.pack("<I", len(centres)),
            b"\0" * padding,
            centres.astype("<f8").tobytes(),
            struct.pack("<I", len(centres)),
            colours.tobytes(),
            empty[start + 8 :],
        )
    )


def candidates(plan: Plan) -> MarkerArray:
    """Every candidate as a line in namespace candidates, coloured by score; the chosen one in namespace chosen."""
    if not len(plan.candidates):
        return delete_all(plan.stamp, "candidates")
    out = MarkerArray()
    best = max(float(plan.scores.max()), 1e-6)
    for k, (points, score) in enumerate(zip(plan.candidates.tolist(), plan.scores.tolist(), strict=True)):
        chosen = k == plan.chosen
        marker = Marker(header=header(plan.stamp), ns="candidates", id=k, type=Marker.LINE_STRIP, frame_locked=True)
        marker.pose.orientation.w = 1.0
        marker.scale.x = 0.25 if chosen else 0.06
        share = score / best
        marker.color = ColorRGBA(
            r=1.0 - share, g=share, b=1.0 if chosen else 0.2, a=1.0 if chosen else 0.2 + 0.6 * share
        )
        marker.points = [Point(z=0.1)] + [Point(x=x, y=y, z=0.1) for x, y in points]
        marker.lifetime = duration_msg(LIFETIME)
        out.markers.append(marker)
    return out


def text(content: str, stamp: int) -> Marker:
    """Text above the vehicle."""
    marker = Marker(header=header(stamp), ns="text", type=Marker.TEXT_VIEW_FACING, frame_locked=True, text=content)
    marker.pose.position.z = 4.0
    marker.pose.orientation.w = 1.0
    marker.scale.z = 0.6
    marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    return marker
