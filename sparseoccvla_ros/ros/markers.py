"""Markers for RViz: voxels as one CUBE_LIST written as bytes, candidates as lines, vehicle, readout, legend, text.

Markers of a stamp are not frame-locked: RViz draws them where base_link was then, like path and points. Only markers
that move with the vehicle are locked.
"""

from __future__ import annotations

import struct

import numpy as np
from geometry_msgs.msg import Point
from rclpy.serialization import serialize_message
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from sparseoccvla_ros.core.classes import PALETTE, legend
from sparseoccvla_ros.core.types import BASE_FRAME, Plan, PlanStatus
from sparseoccvla_ros.core.voxels import SparseVoxels

from .messages import duration_msg, header

LIFETIME = 3.0
"""Seconds after which RViz removes a marker that is not renewed, so a dead node leaves none behind."""
PATH_HEIGHT = 0.6
"""z of candidates, m: above the voxels of the road, whose top is at 0.2 m; the path lies 0.1 m higher in RViz."""
TEXT_PLACE, READOUT_PLACE = (24.0, 0.0, 7.2), (-4.2, 0.0, 0.8)
LEGEND_PLACE, LEGEND_STEP = (-5.6, 0.8), 2.6
"""Positions of text, readout and legend in base_link, m: above and below the scene, as viewed from behind."""
_TAIL_BYTES = 69
"""Bytes of a serialised Marker after its two lists, when its later fields are empty."""


def delete_all(stamp: int, namespace: str, frame: str = BASE_FRAME) -> MarkerArray:
    """Return the message that removes every marker of the topic."""
    return MarkerArray(markers=[Marker(header=header(stamp, frame), ns=namespace, action=Marker.DELETEALL)])


def cubes(
    voxels: SparseVoxels,
    stamp: int,
    namespace: str,
    limit: int,
    alpha: float = 1.0,
    palette: np.ndarray = PALETTE,
    frame: str = BASE_FRAME,
) -> bytes | MarkerArray:
    """Return the voxels as one CUBE_LIST, ready for `publisher.publish`; DELETEALL without voxels.

    At most `limit` cubes, those with the highest score. palette: uint8 [17, 3], RGB per class. The lists are written
    straight into the serialised message: a Point and a ColorRGBA per voxel cost about a hundred times as much.
    """
    if not len(voxels):
        return delete_all(stamp, namespace, frame)
    centres, labels = voxels.centres(), voxels.labels
    if len(voxels) > limit:
        best = np.argpartition(-voxels.scores, limit)[:limit]
        centres, labels = centres[best], labels[best]
    marker = Marker(header=header(stamp, frame), ns=namespace, type=Marker.CUBE_LIST)
    marker.scale.x = marker.scale.y = marker.scale.z = float(voxels.grid.size)
    marker.color.a = 1.0
    marker.pose.orientation.w = 1.0
    marker.lifetime = duration_msg(LIFETIME)
    empty = bytes(serialize_message(MarkerArray(markers=[marker])))
    start = len(empty) - _TAIL_BYTES - 8
    colours = np.full((len(labels), 4), alpha, "<f4")
    colours[:, :3] = palette[labels] / 255.0
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
    """Return every candidate as a line in namespace candidates, coloured by score; the chosen one is wider."""
    if not len(plan.candidates):
        return delete_all(plan.stamp, "candidates", plan.base_frame)
    out = MarkerArray()
    best = max(float(plan.scores.max()), 1e-6)
    for k, (points, score) in enumerate(zip(plan.candidates.tolist(), plan.scores.tolist(), strict=True)):
        chosen = k == plan.chosen
        marker = Marker(header=header(plan.stamp, plan.base_frame), ns="candidates", id=k, type=Marker.LINE_STRIP)
        marker.pose.orientation.w = 1.0
        marker.scale.x = 0.25 if chosen else 0.06
        share = score / best
        marker.color = ColorRGBA(
            r=1.0 - share, g=share, b=1.0 if chosen else 0.2, a=1.0 if chosen else 0.2 + 0.6 * share
        )
        marker.points = [Point(z=PATH_HEIGHT)] + [Point(x=x, y=y, z=PATH_HEIGHT) for x, y in points]
        marker.lifetime = duration_msg(LIFETIME)
        out.markers.append(marker)
    return out


_STATUS_COLOURS = {
    PlanStatus.OK: (0.55, 0.95, 0.70),
    PlanStatus.DEGRADED: (1.0, 0.75, 0.24),
    PlanStatus.BRAKING: (1.0, 0.36, 0.36),
    PlanStatus.REJECTED: (1.0, 0.36, 0.36),
}


def vehicle(plan: Plan, speed: float, length: float, width: float, centre: float) -> MarkerArray:
    """Return the vehicle as a box (namespace ego), with speed, command and plan status as text behind it (readout).

    speed: present, m/s; length, width: of the vehicle, m; centre: x of its middle in base_link, m.
    """
    height = 1.5
    box = _locked(
        Marker.CUBE, plan.stamp, "ego", 0, (centre, 0.0, height / 2 + 0.2), (0.86, 0.89, 0.94), 0.55, plan.base_frame
    )
    box.scale.x, box.scale.y, box.scale.z = length, width, height
    why = f": {plan.reasons[0]}" if plan.reasons and plan.status is not PlanStatus.OK else ""
    words = f"{3.6 * speed:.0f} km/h   {plan.command.value}   {plan.status.value}{why}".replace("_", " ")
    readout = _locked(
        Marker.TEXT_VIEW_FACING,
        plan.stamp,
        "readout",
        0,
        READOUT_PLACE,
        _STATUS_COLOURS[plan.status],
        1.0,
        plan.base_frame,
    )
    readout.scale.z, readout.text = 0.8, words
    return MarkerArray(markers=[box, readout])


def class_legend(palette: str, stamp: int, frame: str = BASE_FRAME) -> MarkerArray:
    """Return a row of cubes and names behind the vehicle, one per colour of a palette of core/classes.py."""
    out = MarkerArray()
    entries = legend(palette)
    for i, (name, colour) in enumerate(entries):
        x, z = LEGEND_PLACE
        y = LEGEND_STEP * ((len(entries) - 1) / 2 - i)
        red, green, blue = (c / 255.0 for c in colour)
        cube = _locked(Marker.CUBE, stamp, "legend", 2 * i, (x, y, z), (red, green, blue), 1.0, frame)
        cube.scale.x = cube.scale.y = cube.scale.z = 0.4
        label = _locked(
            Marker.TEXT_VIEW_FACING, stamp, "legend", 2 * i + 1, (x - 0.6, y, z - 0.5), (0.75, 0.79, 0.85), 1.0, frame
        )
        label.scale.z, label.text = 0.42, name
        out.markers += [cube, label]
    return out


def text(content: str, stamp: int, frame: str = BASE_FRAME) -> Marker:
    """Return text above the road ahead, where it hides neither road nor vehicle in the view from behind."""
    marker = _locked(Marker.TEXT_VIEW_FACING, stamp, "text", 0, TEXT_PLACE, (1.0, 1.0, 1.0), 1.0, frame)
    marker.scale.z, marker.text = 1.2, content
    # An answer stays until the next one replaces it.
    marker.lifetime = duration_msg(0.0)
    return marker


def _locked(
    kind: int,
    stamp: int,
    namespace: str,
    number: int,
    place: tuple[float, float, float],
    colour: tuple[float, float, float],
    alpha: float,
    frame: str = BASE_FRAME,
) -> Marker:
    """Return a marker that moves with the vehicle frame. place: m; colour: red, green, blue 0..1."""
    marker = Marker(header=header(stamp, frame), ns=namespace, id=number, type=kind, frame_locked=True)
    marker.pose.position.x, marker.pose.position.y, marker.pose.position.z = place
    marker.pose.orientation.w = 1.0
    marker.color = ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=alpha)
    marker.lifetime = duration_msg(LIFETIME)
    return marker
