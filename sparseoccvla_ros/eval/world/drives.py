"""One seed of the world: on-line inputs (frame sets in time order, history up to each) and ground truth."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ...core import geometry
from ...core.classes import CLASSES
from ...core.errors import InvalidInput
from ...core.types import HORIZONS, NANOSECONDS, STEP_SECONDS, STEPS, CameraFrames, Command, CommandSource, EgoState
from ...data.synthetic.drives import FIXED_FRAME, START
from ...data.synthetic.scenes import WorldScene, exposures, rig_of
from ...planning.ego_history import WINDOW_NS, EgoHistory
from ...world.agents.actors import EGO, LEAD_SECONDS
from ...world.labels import annotations
from ...world.labels.annotations import Boxes
from ...world.labels.reactions import otherwise, reactions
from ...world.qa.questions import Question, questions
from ...world.qa.reasons import Surroundings
from ...world.qa.scene_relations import SceneView
from ...world.scene import EgoMotion, Scene
from ..metrics.plan_reactions import TwoPlans
from ..protocols.grids import LIDAR_AHEAD
from ..tasks.planning_samples import ROAD_CELLS, ROAD_EXTENT, AgentBoxes, Sample

HISTORY_STEP = NANOSECONDS // 10
"""Period of the poses in the ego history, ns: as in a planning node that receives frame sets at 10 Hz."""
AGENT_REACH = 70.0
"""Radius around the vehicle within which agents are listed, m; no protocol uses more than 50 m along an axis."""
LIDAR = np.array([[LIDAR_AHEAD, 0.0, 1.84]])
"""Ray origin: the lidar position of the nuScenes cars, m in base_link, at the present only."""
_CATEGORIES = {
    "barrier": "movable_object.barrier", "bicycle": "vehicle.bicycle", "bus": "vehicle.bus.rigid",
    "car": "vehicle.car", "construction_vehicle": "vehicle.construction", "motorcycle": "vehicle.motorcycle",
    "pedestrian": "human.pedestrian.adult", "traffic_cone": "movable_object.trafficcone",
    "trailer": "vehicle.trailer", "truck": "vehicle.truck",
}  # fmt: skip


def history_before(ego: EgoMotion, stamp: int) -> EgoHistory:
    """Returns the planner's history at a stamp (ns): a pose every HISTORY_STEP over its window, up to the stamp."""
    history = EgoHistory()
    for age in range(WINDOW_NS // HISTORY_STEP, -1, -1):
        at = stamp - age * HISTORY_STEP
        if at >= START - LEAD_SECONDS * NANOSECONDS:
            history.add(at, *ego.at((at - START) / NANOSECONDS))
    return history


def command_at(ego: EgoMotion, stamp: int) -> Command:
    """Returns the route command at a stamp (ns), from pose and speed at that time, as used in training."""
    return ego.command((stamp - START) / NANOSECONDS)


def agents_of(now: Boxes, future: tuple[Boxes, ...]) -> AgentBoxes:
    """Returns agents at steps 0..6 from boxes in one frame; `future` has every instance of `now`. Visibility is set to
    full, because hidden agents can be hit as well."""
    rows = np.searchsorted(future[0].instance, now.instance)
    boxes = [now, *(f[rows] for f in future)]
    return AgentBoxes(
        centres=np.stack([b.centre[:, :2] for b in boxes], 1).astype(np.float64),
        yaws=np.stack([b.yaw for b in boxes], 1).astype(np.float64),
        present=np.ones((len(now), STEPS + 1), bool),
        sizes=now.size[:, :2].astype(np.float64),
        categories=tuple(_CATEGORIES[CLASSES[label]] for label in now.label),
        visibility=np.full(len(now), 4, np.int8),
    )


class Drive:
    """One seed: its rendered frame sets and, from the same seed, the ground truth.

    Indices are those of the rendered sets. A clip is a section of the drive; memories restart with each. `presents`
    are the evaluated sets: those with `frames` - 1 predecessors in their clip. Raises InvalidInput("frames") if a clip
    is shorter than `frames`.
    """

    def __init__(self, rendered: WorldScene, frames: int) -> None:
        if not 1 <= frames <= rendered.settings.sets:
            raise InvalidInput("frames", f"clips of {rendered.settings.sets} sets hold no history of {frames} frames")
        self.rendered, self.settings, self._frames = rendered, rendered.settings, frames
        self.name = f"world {rendered.seed}"
        self.rig = rig_of(rendered.seed, self.settings)
        moments = exposures(rendered.seed, self.settings, self.rig)
        self._stamps = START + np.round(moments * NANOSECONDS).astype(np.int64)
        self._views: dict[int, SceneView] = {}
        self._front = [c.name for c in self.rig].index("CAM_FRONT")

    @cached_property
    def world(self) -> Scene:
        """The scene behind the images."""
        return Scene.generate(self.rendered.seed, self.settings.seconds)

    @property
    def clips(self) -> list[range]:
        """Indices of each clip, in time order."""
        sets = self.settings.sets
        return [range(c * sets, (c + 1) * sets) for c in range(self.settings.clips)]

    @property
    def presents(self) -> list[int]:
        """Indices of the evaluated sets."""
        return [i for clip in self.clips for i in clip[self._frames - 1 :]]

    def stamp(self, index: int) -> int:
        """Returns the stamp of a set, ns: the exposure of its front camera."""
        return int(self._stamps[index, self._front])

    def token(self, index: int) -> str:
        """Returns a unique name of a set."""
        return f"{self.name} at {self.rendered.time[index]:.2f} s"

    def frames(self, index: int, epoch: int) -> CameraFrames:
        """Returns a set as camera_sync publishes it."""
        scene, names = self.rendered, tuple(c.name for c in self.rig)
        return CameraFrames(
            stamp=self.stamp(index),
            epoch=epoch,
            names=names,
            stamps=self._stamps[index],
            valid=np.ones(len(names), bool),
            images=np.ascontiguousarray(scene.images(index)),
            ego2img=scene.ego2img[index],
            ego=EgoState(scene.pose[index], scene.twist[index], FIXED_FRAME),
        )

    def history(self, index: int) -> EgoHistory:
        """Returns the ego history up to a set."""
        return history_before(self.world.ego, self.stamp(index))

    def command(self, index: int) -> tuple[Command, CommandSource]:
        """Returns the route command at a set."""
        return command_at(self.world.ego, self.stamp(index)), CommandSource.ROUTE

    def semantics(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns labels uint8 [X, Y, Z] (17 = free) and the camera visibility mask, bool [X, Y, Z]."""
        return self.rendered.dense(index), self.rendered.mask(index)

    def ray_origins(self, index: int) -> np.ndarray:
        """Returns the lidar position of the nuScenes cars, at the present only."""
        return LIDAR

    def future(self, index: int) -> np.ndarray:
        """Returns float64 [6, 4, 4]: base_link at 0.5, 1, .. 3 s to present base_link."""
        return geometry.inverse(self.rendered.pose[index]) @ self.rendered.future[index]

    def two_plans(self, index: int) -> TwoPlans:
        """Returns a set under the recorded plan and another: braking if the expert drives, starting if it waits."""
        time = float(self.rendered.time[index])
        motion, movers = reactions(self.world, time, None)
        other_motion, other_movers = reactions(self.world, time, otherwise(self.world, time))
        return TwoPlans(motion, other_motion, movers, other_movers)

    def in_window(self, index: int) -> bool:
        """Returns False: SparseWorld's protocol applies to nuScenes only."""
        return False

    def future_semantics(self, index: int) -> np.ndarray:
        """Returns labels uint8 [3, X, Y, Z] at HORIZONS, each in base_link of its own time, visible or not."""
        steps = [round(h / STEP_SECONDS) for h in HORIZONS]
        return annotations.future_occupancy(self.world, float(self.rendered.time[index]), steps=steps)

    def questions(self, index: int) -> list[Question]:
        """Returns the questions about a set."""
        return questions(self._view(index))

    def surroundings(self, index: int) -> Surroundings:
        """Returns what the cameras show at a set."""
        return Surroundings.of(self._view(index))

    def _view(self, index: int) -> SceneView:
        if index not in self._views:
            # Only the latest is cached: a view is requested twice in a row.
            self._views = {index: SceneView(self.world, float(self.rendered.time[index]), self.rig)}
        return self._views[index]

    def sample(self, index: int) -> Sample:
        """Returns a set for the planning evaluation: truth, agents and road of the world, inputs up to its stamp."""
        time, pose = float(self.rendered.time[index]), self.rendered.pose[index]
        command, source = self.command(index)
        side = (-ROAD_EXTENT, -ROAD_EXTENT), (ROAD_EXTENT, ROAD_EXTENT)
        road = annotations.drivable_area(self.world, pose, *side, 2 * ROAD_EXTENT / ROAD_CELLS)
        return Sample(
            token=self.token(index),
            scene=self.name,
            truth=np.ascontiguousarray(self.future(index)[:, :2, 3]),
            mask=np.ones(STEPS, bool),
            agents=agents_of(
                annotations.boxes(self.world, time, pose, AGENT_REACH), annotations.future_boxes(self.world, time)
            ),
            ego_features=self.history(index).features(self.stamp(index)),
            command=command,
            command_source=source,
            ego=EGO,
            drivable=np.ascontiguousarray(road.T),
        )
