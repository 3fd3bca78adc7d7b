"""Ground-truth annotations: boxes, drivable area, the driven trajectory and future occupancy.

Everything is computed from the scene in closed form, so the future is as exact as the present. The frame is base_link
at the given time unless stated otherwise; headings and velocities are over ground (nuScenes' convention).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core import geometry
from ...core.classes import LABEL, MOVABLE
from ...core.errors import InvalidInput
from ...core.types import STEP_SECONDS, STEPS, WAYPOINT_TIMES
from ...core.voxels import OCC3D_GRID, VoxelGrid
from ...planning.trajectory import SWEEP_TIMES
from ..agents.actors import EGO
from ..agents.traffic import overlap, rectangle
from ..scene import Scene
from ..shapes.objects import Shape
from .occupancy import dense_labels

ANNOTATED = (LABEL["barrier"], *MOVABLE)
"""Labels that get boxes: those of the nuScenes detection classes."""
UNKNOWN = 255
"""Label of a resampled voxel that lies outside the source grid."""
MOVING_SPEED = 0.2
"""m/s above which an object counts as moving (OmniDrive, Wang et al., CVPR 2025, prints velocities above this)."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """N oriented boxes; centre float32 [N, 3] m, size float32 [N, 3] = length, width, height m, yaw float32 [N] rad,
    velocity float32 [N, 2] m/s along the frame's axes, label uint8 [N] (Occ3D), instance int64 [N] (constant over a
    scene), attributes: N nuScenes attribute names, empty where nuScenes has none."""

    centre: np.ndarray
    size: np.ndarray
    yaw: np.ndarray
    velocity: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    attributes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: np.ndarray) -> Boxes:
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, np.int64)
        arrays = (self.centre, self.size, self.yaw, self.velocity, self.label, self.instance)
        return Boxes(*(a[rows] for a in arrays), tuple(self.attributes[r] for r in rows))

    @property
    def plans(self) -> np.ndarray:
        """Footprints float64 [N, 5] = centre x, centre y, yaw, length, width, as for traffic.overlap."""
        return np.concatenate([self.centre[:, :2], self.yaw[:, None], self.size[:, :2]], 1).astype(np.float64)

    def distance(self) -> np.ndarray:
        """Return the distance float64 [N] m from the frame's origin to the nearest point of each footprint."""
        plans = self.plans
        c, s = np.cos(plans[:, 2]), np.sin(plans[:, 2])
        along, across = -plans[:, 0] * c - plans[:, 1] * s, plans[:, 0] * s - plans[:, 1] * c
        return np.hypot(
            np.maximum(np.abs(along) - 0.5 * plans[:, 3], 0), np.maximum(np.abs(across) - 0.5 * plans[:, 4], 0)
        )


def _label_of(shape: Shape) -> int:
    return int(shape.parts[0].label)


def _extent(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Return lowest and highest x, y, z of a shape's parts in its own frame, the y range symmetric about 0."""
    centre, half = (np.array([getattr(p, name) for p in shape.parts]) for name in ("centre", "half"))
    yaw = np.array([p.yaw for p in shape.parts])
    c, s = np.abs(np.cos(yaw)), np.abs(np.sin(yaw))
    reach = np.stack([c * half[:, 0] + s * half[:, 1], s * half[:, 0] + c * half[:, 1], half[:, 2]], -1)
    side = np.abs(centre[:, 1]) + reach[:, 1]
    low, high = (centre - reach).min(0), (centre + reach).max(0)
    low[1], high[1] = -side.max(), side.max()
    return low, high


def _attribute(shape: Shape, speed: float, standing: bool) -> str:
    label = _label_of(shape)
    if label == LABEL["pedestrian"]:
        return "pedestrian.moving" if speed > MOVING_SPEED else "pedestrian.standing"
    if label in (LABEL["bicycle"], LABEL["motorcycle"]):
        return "cycle.with_rider" if shape.name == "cyclist" else "cycle.without_rider"
    if label in (LABEL["barrier"], LABEL["traffic_cone"]):
        return ""
    return "vehicle.parked" if standing else "vehicle.moving" if speed > MOVING_SPEED else "vehicle.stopped"


def boxes(scene: Scene, time: float, ego2map: np.ndarray | None = None, reach: float = np.inf) -> Boxes:
    """Return boxes of all moving and ANNOTATED standing objects with their state at `time` s of the drive.

    ego2map: frame of the boxes, default the ego's at `time`; reach: largest distance of a box centre from its origin,
    m. Instances are owners of the scene's primitives (Primitives.owner). Sorted by instance.
    """
    frame = scene.ego.at(time)[0] if ego2map is None else ego2map
    things: list[tuple[int, Shape, np.ndarray, float, bool]] = []
    for i, placed in enumerate(scene.standing):
        if _label_of(placed.shape) in ANNOTATED:
            things.append((i, placed.shape, np.array(placed.pose), 0.0, True))
    for i, moving in enumerate(scene.moving, len(scene.standing)):
        speed = float(moving.mover.motion(time)[1])
        things.append((i, moving.shape, moving.mover.pose(time), speed, False))
    # Tight boxes, as annotators draw them; the footprints used by the traffic may be slightly larger or smaller.
    extents = np.array([_extent(t[1]) for t in things]).reshape(-1, 2, 3)
    middle, size = extents.mean(1), extents[:, 1] - extents[:, 0]
    poses = np.array([t[2] for t in things]).reshape(-1, 3)
    plans = np.stack([rectangle(p, 0, 0, m[0]) for p, m in zip(poses, middle, strict=True)]) if things else poses
    inverse, turn = geometry.inverse(frame), geometry.yaw_of(frame)
    centre = geometry.apply(inverse, np.column_stack([plans[:, :2], middle[:, 2]]))
    yaw = np.arctan2(np.sin(plans[:, 2] - turn), np.cos(plans[:, 2] - turn))
    speed = np.array([t[3] for t in things])
    rows = np.flatnonzero(np.hypot(centre[:, 0], centre[:, 1]) <= reach)
    return Boxes(
        centre=centre[rows].astype(np.float32),
        size=size[rows].astype(np.float32),
        yaw=yaw[rows].astype(np.float32),
        velocity=(speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], -1))[rows].astype(np.float32),
        label=np.array([_label_of(things[r][1]) for r in rows], np.uint8),
        instance=np.array([things[r][0] for r in rows], np.int64),
        attributes=tuple(_attribute(things[r][1], things[r][3], things[r][4]) for r in rows),
    )


def future_boxes(scene: Scene, time: float) -> tuple[Boxes, ...]:
    """Return boxes at WAYPOINT_TIMES in base_link at `time`; all have the same instances in the same order."""
    frame = scene.ego.at(time)[0]
    return tuple(boxes(scene, time + dt, frame) for dt in WAYPOINT_TIMES)


def drivable_area(
    scene: Scene,
    ego2map: np.ndarray,
    lower: tuple[float, float] = (-40.0, -40.0),
    upper: tuple[float, float] = (40.0, 40.0),
    size: float = 0.2,
) -> np.ndarray:
    """Return paved road bool [X, Y], x forward, y left, cell (i, j) centred at lower + (i + 0.5, j + 0.5) * size.

    Sidewalks, the raised median and land are not drivable; a lane closed by a construction site is. Raises
    InvalidInput("raster") if empty.
    """
    counts = [round((u - lo) / size) if size > 0 else 0 for lo, u in zip(lower, upper, strict=True)]
    if min(counts) < 1:
        raise InvalidInput("raster", f"lower {lower}, upper {upper}, size {size} is no area")
    x, y = (lo + (np.arange(n) + 0.5) * size for lo, n in zip(lower, counts, strict=True))
    points = np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros(counts)], -1)
    return on_road(scene, geometry.apply(ego2map, points)[..., :2])


def on_road(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Return whether map points [..., 2] lie on paved road, bool [...]."""
    label = scene.streets.label(np.asarray(points, np.float64).reshape(-1, 2))
    return (label == LABEL["driveable_surface"]).reshape(points.shape[:-1])


def ego_plan(poses: np.ndarray) -> np.ndarray:
    """Return footprints [..., 5] of the ego with base_link at poses x, y, yaw [..., 3]."""
    return rectangle(poses, EGO.length_m, EGO.width_m, EGO.centre_m)


def in_frame(frame2map: np.ndarray, poses2map: Sequence[np.ndarray]) -> np.ndarray:
    """Convert poses [4, 4] in the map to x, y, yaw float64 [T, 3] in a frame."""
    back = geometry.inverse(frame2map)
    local = [back @ p for p in poses2map]
    return np.array([(p[0, 3], p[1, 3], geometry.yaw_of(p)) for p in local])


@dataclass(frozen=True, eq=False)
class Expert:
    """The ego's driven trajectory over the next six half-seconds, in base_link at the given time.

    waypoints float32 [6, 2] m, heading float32 [6] rad, speed float32 [6] m/s; sweep float64 [30, 3]: x, y, yaw at
    planning.trajectory.SWEEP_TIMES.
    """

    waypoints: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    sweep: np.ndarray


@dataclass(frozen=True)
class Contact:
    """First contact of a swept body: seconds after the given time, and the touched instance (Primitives.owner)."""

    seconds: float
    instance: int


def first_contact(scene: Scene, time: float, sweep: np.ndarray) -> Contact | None:
    """Return the ego's first contact on poses x, y, yaw [30, 3] in base_link at SWEEP_TIMES after `time`, else None.

    All others move as in the scene, without reaction to the ego.
    """
    if sweep.shape != (len(SWEEP_TIMES), 3):
        raise InvalidInput("sweep", f"want [{len(SWEEP_TIMES)}, 3], got {list(sweep.shape)}")
    frame = scene.ego.at(time)[0]
    poses = np.empty_like(sweep, np.float64)
    poses[:, :2] = geometry.apply(frame, np.column_stack([sweep[:, :2], np.zeros(len(sweep))]))[:, :2]
    poses[:, 2] = sweep[:, 2] + geometry.yaw_of(frame)
    body = ego_plan(poses)
    times = time + SWEEP_TIMES
    still = np.stack([p.rectangle for p in scene.standing]) if scene.standing else np.zeros((0, 5))
    touched = [overlap(body[:, None], still[None])]
    if scene.moving:
        tracks = np.stack([
            rectangle(m.mover.pose(times), m.shape.length, m.shape.width, m.shape.centre) for m in scene.moving
        ])  # fmt: skip
        touched.append(overlap(body[:, None], tracks.swapaxes(0, 1)))
    hits = np.concatenate(touched, 1)
    if not hits.any():
        return None
    step = int(hits.any(1).argmax())
    return Contact(float(SWEEP_TIMES[step]), int(hits[step].argmax()))


def expert(scene: Scene, time: float) -> Expert:
    """Return the ego's trajectory in the scene. Raises InvalidInput("time") if its motion does not cover the 3 s."""
    frame = scene.ego.at(time)[0]
    local = in_frame(frame, [scene.ego.at(time + dt)[0] for dt in WAYPOINT_TIMES])
    return Expert(
        waypoints=local[:, :2].astype(np.float32),
        heading=local[:, 2].astype(np.float32),
        speed=scene.ego.mover.motion(time + WAYPOINT_TIMES)[1].astype(np.float32),
        sweep=in_frame(frame, [scene.ego.at(t)[0] for t in time + SWEEP_TIMES]),
    )


def future_occupancy(
    scene: Scene,
    time: float,
    grid: VoxelGrid = OCC3D_GRID,
    present: bool = False,
    steps: Sequence[int] = tuple(range(1, STEPS + 1)),
) -> np.ndarray:
    """Return labels uint8 [len(steps), X, Y, Z] at `time` + 0.5 s * step, 17 = free, unobserved voxels included.

    Each is in base_link at its own time, like later frames of Occ3D; with `present` all are in base_link at `time`,
    computed there directly and not resampled.
    """
    times = [time + STEP_SECONDS * k for k in steps]
    frame = scene.ego.at(time)[0]
    return np.stack([dense_labels(scene, t, frame if present else scene.ego.at(t)[0], grid) for t in times])
