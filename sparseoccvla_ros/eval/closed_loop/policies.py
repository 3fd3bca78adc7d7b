"""Driving policies: each plans a path every half second, executed by the same follower and vehicle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from ...camera_sync.config import ImageConfig
from ...core import geometry
from ...core.types import NANOSECONDS, WAYPOINT_TIMES, CameraFrames, EgoState, Plan
from ...data.synthetic.drives import FIXED_FRAME, START, load_drive
from ...pipeline import SparseOccVLA, StepResult
from ...planning.ego_history import WINDOW_NS, EgoHistory
from ...planning.route_command import CommandChoice, RouteCommand
from ...planning.trajectory_follower import TimedPath
from ...world.agents.traffic import STEP
from ...world.sim.simulator import Simulator
from ..tasks.ego_mlp import EgoMlp
from .cameras import SimulatedCameras
from .expert import Expert


class Policy(ABC):
    """Plans for one simulator after another."""

    name: str

    def begin(self, simulator: Simulator, expert: Expert) -> None:
        """Starts a new drive and discards all state of the previous one."""
        self._simulator, self._expert = simulator, expert

    @abstractmethod
    def plan(self) -> TimedPath | None:
        """Returns the path in the map from now on, or None without a plan."""


def expert_path(simulator: Simulator, poses: np.ndarray) -> TimedPath:
    """Converts poses [T, 3] every STEP from now on to a path."""
    return TimedPath(simulator.time, STEP * np.arange(len(poses)), poses[:, :2])


class ExpertPolicy(Policy):
    """The privileged planner: the upper bound."""

    name = "expert"

    def plan(self) -> TimedPath | None:
        return expert_path(self._simulator, self._expert.plan())


class ConstantVelocity(Policy):
    """Drives straight on at the current speed."""

    name = "constant velocity"

    def plan(self) -> TimedPath | None:
        state = self._simulator.state
        ahead = np.stack([state.speed * WAYPOINT_TIMES, np.zeros(len(WAYPOINT_TIMES))], -1)
        return TimedPath.of_waypoints(self._simulator.time, state.pose, WAYPOINT_TIMES, ahead)


class BlindLaneKeeping(Policy):
    """Follows the route at a comfortable speed, ignoring other actors and signals."""

    name = "blind lane keeping"

    def plan(self) -> TimedPath | None:
        return expert_path(self._simulator, self._expert.blind())


def history_of(simulator: Simulator) -> tuple[EgoHistory, int]:
    """Returns the planner's ego history at 10 Hz up to now, and the current stamp (ns)."""
    stamp = START + round(simulator.time * NANOSECONDS)
    history = EgoHistory()
    step = round(STEP * NANOSECONDS)
    for age in range(WINDOW_NS // step, -1, -1):
        time = simulator.time - age * STEP
        if time >= -1.9:
            history.add(stamp - age * step, *simulator.ego.at(time))
    return history, stamp


class EgoOnly(Policy):
    """MLP whose only input is the ego's motion, fitted to recorded drives of training seeds."""

    name = "ego-only MLP"

    def __init__(self, seeds: Sequence[int], moments: int = 40) -> None:
        features, truth = [], []
        for seed in seeds:
            ego = load_drive(seed)
            for time in np.linspace(0.0, ego.last, moments, endpoint=False):
                features.append(ego.features(float(time)))
                truth.append(ego.waypoints(float(time)))
        self._network = EgoMlp()
        wanted = np.array(truth, np.float64)
        self._network.fit(np.stack(features), wanted, np.ones(wanted.shape[:2], bool))

    def plan(self) -> TimedPath | None:
        history, stamp = history_of(self._simulator)
        waypoints = self._network.predict(history.features(stamp)[None])[0]
        return TimedPath.of_waypoints(self._simulator.time, self._simulator.state.pose, WAYPOINT_TIMES, waypoints)


class ChainPolicy(Policy):
    """The chain: six rendered cameras and the route through occupancy, reasoning and planning, as in the ROS nodes.

    Args:
        model: A preset's model with at least occupancy and planning.
        name: Row name in the tables.
    """

    def __init__(self, model: SparseOccVLA, name: str = "chain") -> None:
        self.name, self._model = name, model
        self._image: ImageConfig = model.preset.image
        self._epoch = 0

    def begin(self, simulator: Simulator, expert: Expert) -> None:
        super().begin(simulator, expert)
        self._epoch += 1
        self._model.reset()  # policies may share a model, but count epochs separately
        self._cameras = SimulatedCameras(simulator, self._image.height, self._image.width)
        self._route = RouteCommand(distances=self._model.target_points)
        self._route.set_route(simulator.way[:, :2])

    def frames(self) -> CameraFrames:
        """Returns the frame set camera_sync would publish now, all cameras exposed at the current time."""
        simulator, cameras = self._simulator, self._cameras
        pose, twist = simulator.ego.at(simulator.time)
        projections = [
            geometry.camera_matrix(k, geometry.inverse(c.camera2ego))
            for c, k in zip(cameras.rig, cameras.intrinsics, strict=True)
        ]
        stamp = START + round(simulator.time * NANOSECONDS)
        count = len(cameras.rig)
        return CameraFrames(
            stamp=stamp,
            epoch=self._epoch,
            names=tuple(c.name for c in cameras.rig),
            stamps=np.full(count, stamp, np.int64),
            valid=np.ones(count, bool),
            images=cameras.images(),
            ego2img=np.stack(projections),
            ego=EgoState(pose, twist, FIXED_FRAME),
        )

    def plan(self) -> TimedPath | None:
        return self.path_of(self.step(self.frames()).plan)

    def choice(self, frames: CameraFrames) -> CommandChoice:
        """Returns command and target points of the route at a frame set."""
        return self._route.choose(frames.stamp, frames.ego.pose, frames.ego.speed)

    def step(self, frames: CameraFrames) -> StepResult:
        """Runs the chain on a frame set; the ego history consists of the sets' ego states, as in the planning node."""
        choice = self.choice(frames)
        return self._model.step(frames, choice.command, choice.source, target_points=choice.target_points)

    def path_of(self, plan: Plan | None) -> TimedPath | None:
        """Converts a plan to a path in the map from now on; None without waypoints."""
        if plan is None or not len(plan.waypoints):
            return None
        waypoints = plan.waypoints.astype(np.float64)
        return TimedPath.of_waypoints(self._simulator.time, self._simulator.state.pose, WAYPOINT_TIMES, waypoints)
