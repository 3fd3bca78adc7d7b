"""planning node: queries and reasoning in, a path out; no path, or an empty one, when its inputs cannot be trusted."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from types import ModuleType

import numpy as np
import torch
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from std_msgs.msg import String

from sparseoccvla_ros.core.errors import InvalidInput, with_code
from sparseoccvla_ros.core.trace import event
from sparseoccvla_ros.core.types import BASE_FRAME, CommandSource, EgoState, Plan, PlanStatus, Reasoning, SceneQueries
from sparseoccvla_ros.core.vehicle import Vehicle
from sparseoccvla_ros.occupancy.postprocess import occupied_voxels
from sparseoccvla_ros.planning.config import ValidatorConfig
from sparseoccvla_ros.planning.ego_history import EgoHistory
from sparseoccvla_ros.planning.route_command import RouteCommand, parse_command
from sparseoccvla_ros.ros import markers, messages
from sparseoccvla_ros.ros.diagnostics import State
from sparseoccvla_ros.ros.intra_process import Item
from sparseoccvla_ros.ros.latest_worker import Worker
from sparseoccvla_ros.ros.lifecycle_base import StageNode
from sparseoccvla_ros.ros.parameters import section
from sparseoccvla_ros.ros.process import run
from sparseoccvla_ros.runtime.factory import build_planning
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.runtime.warm_up import warm_up_planning

CLOCKS_APART = 3600 * 10**9
"""ns between stamp and node clock beyond which they count as different clocks (a bag played without use_sim_time)."""


class PlanningNode(StageNode):
    """Plans from the newest queries, with the newest reasoning that is not too old.

    The ego state comes with the queries (camera_sync takes it from tf or odometry at the image stamps), so the pose and
    the occupancy of a plan always belong to the same moment.
    """

    waiting_for = "occupancy/queries from occupancy"

    def __init__(self, **kwargs) -> None:
        super().__init__("planning", **kwargs)

    def setup(self) -> None:
        """Load the planner and create the topics."""
        torch.set_num_threads(self.values.threads)
        preset = load_preset(self.values.preset)
        limits = ValidatorConfig(
            vehicle=Vehicle(**section(self.values, "vehicle")),
            on_reject=self.values.on_reject,
            **section(self.values, "validator"),
        )
        self._vehicle = limits.vehicle
        self._planner = build_planning(preset, self.values.device, limits)
        warm_up_planning(self._planner, preset)
        self._occupancy = preset.occupancy
        self._history = EgoHistory()
        self._route = RouteCommand(timeout=self.values.command_timeout)
        self._reasoning: Reasoning | None = None
        self._epoch: int | None = None
        self._ego: tuple[np.ndarray, str] | None = None
        self._last_path: int | None = None
        self._last_ego: EgoState | None = None
        self._base_frame = BASE_FRAME
        self._arrived = threading.Condition()
        self._plan = self.stage_output("planning/plan", messages.plan_to_msg)
        self._path = self.output("planning/path")
        self._trajectory = self.output("planning/trajectory")
        self._autoware = self.optional_output("planning/autoware_trajectory")
        self._autoware_candidates = self.optional_output("planning/autoware_candidates")
        self._turn_indicators = self.optional_output("planning/turn_indicators")
        self._instruction = self.output("planning/instruction")
        self._candidates = self.output("planning/candidates")
        self._markers = self.output("planning/markers")
        self._worker: Worker[Item] = Worker("planning", lambda item: self.attempt(lambda: self._work(item())))
        self.stage_input("occupancy/queries", self._on_queries, messages.queries_from_msg)
        self.stage_input("reasoning/state", self._on_reasoning, messages.reasoning_from_msg)
        self.input("planning/command", self._on_command)
        self.input("planning/route", self._on_route)
        self.input("planning/goal", self._on_goal)
        self.monitor.show(weights="trained" if self._planner.trained else "untrained", preset=self.values.preset)

    def stopped(self) -> None:
        """Stop the followers of the path and drop all state of the drive."""
        self._worker.discard()
        self._stop_followers()
        self._forget()

    def teardown(self) -> None:
        """Stop the worker and free the model."""
        worker = getattr(self, "_worker", None)
        if worker is not None:
            worker.stop()
            del self._worker, self._planner

    def watch(self) -> None:
        """Stop the followers when the queries are stale."""
        state, reason = self.monitor.state(self.values.stale_after)
        if state is State.STALE:
            self._stop_followers(reason)

    # --- inputs

    def _on_queries(self, item: Item) -> None:
        self.hand_over(self._worker, item)

    def _on_reasoning(self, item: Item) -> None:
        reasoning: Reasoning = item()
        with self._arrived:
            self._reasoning = reasoning
            self._arrived.notify_all()

    def _on_command(self, message: String) -> None:
        self._route.set_command(self.get_clock().now().nanoseconds, parse_command(message.data))

    def _on_route(self, message: Path) -> None:
        _, points, frame = messages.path_from_msg(message)
        self._in_fixed_frame(frame)
        self._route.set_route(points)

    def _on_goal(self, message: PoseStamped) -> None:
        pose = messages.pose_from_msg(message.pose, "goal")
        ego = self._in_fixed_frame(message.header.frame_id)
        self._route.set_goal(ego, pose[:2, 3])

    def _in_fixed_frame(self, frame: str) -> np.ndarray:
        if self._ego is None:
            raise InvalidInput("route", "came before the first ego pose")
        if frame != self._ego[1]:
            raise InvalidInput("route", f"is in frame '{frame}', the ego pose is in '{self._ego[1]}'")
        return self._ego[0]

    # --- work

    def _work(self, queries: SceneQueries) -> None:
        began = time.monotonic()
        now = self.get_clock().now().nanoseconds
        age = now - queries.stamp
        if abs(age) < CLOCKS_APART and age > self.values.max_age * 1e9:
            raise InvalidInput("queries", f"are {age / 1e9:.2f} s old, max_age is {self.values.max_age} s")
        self.monitor.show(clock="apart from stamps: use_sim_time?" if abs(age) >= CLOCKS_APART else "same as stamps")
        if queries.epoch != self._epoch:
            self._forget()
            self._epoch = queries.epoch
        self._ego = (queries.ego.pose, queries.ego.fixed_frame)
        self._base_frame = queries.ego.base_frame
        self._history.add(queries.stamp, queries.ego.pose, queries.ego.twist)
        self._route.timeout = self.values.command_timeout  # may change while the node runs
        choice = self._route.choose(now, queries.ego.pose, queries.ego.speed)
        voxels = occupied_voxels(queries, config=self._occupancy)
        plan = self._planner.plan(
            queries, voxels, self._usable_reasoning(queries), self._history, choice.command, choice.source
        )
        plan = replace(plan, trace=(*queries.trace, event(self.get_name(), "planned")))
        if self.active:
            self._publish(plan, choice.source, queries.ego, time.monotonic() - began)

    def _usable_reasoning(self, queries: SceneQueries) -> Reasoning | None:
        """The newest reasoning of this epoch within reasoning_max_age; waits up to reasoning_wait for this stamp's."""

        def matches() -> bool:
            return self._reasoning is not None and self._reasoning.stamp >= queries.stamp

        with self._arrived:
            until = time.monotonic() + self.values.reasoning_wait
            while not matches() and not self.closing and (left := until - time.monotonic()) > 0:
                self._arrived.wait(min(left, 0.1))
            reasoning = self._reasoning
        if reasoning is None or reasoning.epoch != queries.epoch or reasoning.stamp > queries.stamp:
            return None
        age = (queries.stamp - reasoning.stamp) / 1e9
        self.monitor.show(reasoning_age_s=age)
        return reasoning if age <= self.values.reasoning_max_age else None

    def _publish(self, plan: Plan, source: CommandSource, ego: EgoState, latency: float) -> None:
        self._plan.publish(plan)
        if plan.status is PlanStatus.REJECTED:
            self._stop_followers("; ".join(plan.reasons), plan.stamp)
        else:
            self._path.publish(messages.path_to_msg(plan))
            self._trajectory.publish(messages.trajectory_to_msg(plan))
            self._last_path = plan.stamp
        self._last_ego = ego
        self._publish_for_autoware(plan, ego)
        if instruction := self._route.instruction(ego.pose):
            self._instruction.publish(String(data=instruction))
        if self._candidates.get_subscription_count():
            self._candidates.publish(markers.candidates(plan))
        if self._markers.get_subscription_count():
            size = self._vehicle.length_m, self._vehicle.width_m, self._vehicle.centre_m
            self._markers.publish(markers.vehicle(plan, ego.speed, *size))
        reasons = plan.reasons
        if plan.status is PlanStatus.BRAKING:
            reasons = ("braking", *reasons)
            self.get_logger().warning(with_code("braking", ", ".join(plan.reasons)), throttle_duration_sec=5.0)
        elif source is CommandSource.TIMEOUT:
            self.get_logger().warning("command timed out: going straight", throttle_duration_sec=5.0)
        if plan.status is PlanStatus.REJECTED:
            self.monitor.refused("; ".join(plan.reasons))
        else:
            self.monitor.finished(latency, () if plan.status is PlanStatus.OK else reasons)
        self.monitor.show(
            command=plan.command.value,
            command_source=plan.command_source.value,
            score_source=plan.score_source,
            plan_status=plan.status.value,
        )

    def _publish_for_autoware(self, plan: Plan, ego: EgoState) -> None:
        if self._autoware is not None and self._autoware.get_subscription_count():
            self._autoware.publish(autoware().trajectory_to_msg(plan, ego))
        if self._autoware_candidates is not None and self._autoware_candidates.get_subscription_count():
            self._autoware_candidates.publish(autoware().candidates_to_msg(plan, ego))
        if self._turn_indicators is not None and self._turn_indicators.get_subscription_count():
            self._turn_indicators.publish(autoware().turn_indicators_to_msg(plan))

    def _stop_followers(self, why: str = "deactivated", stamp: int | None = None) -> None:
        """Publish one empty path after the last planned one, so that followers stop instead of using an old plan."""
        if self._last_path is None:
            return
        stamp, self._last_path = stamp or self._last_path, None
        self.get_logger().warning(with_code("stopping", why))
        if self.values.publish_empty_on_stop:
            self._path.publish(Path(header=messages.header(stamp, self._base_frame)))
            if self._autoware is not None and self._last_ego is not None:
                self._autoware.publish(autoware().standstill_to_msg(stamp, self._last_ego))
            self._candidates.publish(markers.delete_all(stamp, "candidates", self._base_frame))

    def _forget(self) -> None:
        self._history.clear()
        self._planner.reset()
        self._ego = None
        with self._arrived:
            if self._reasoning is not None and self._reasoning.epoch == self._epoch:
                self._reasoning = None


def autoware() -> ModuleType:
    """Import ros/adapters/autoware.py, which needs Autoware's messages, on first use."""
    from sparseoccvla_ros.ros.adapters import autoware

    return autoware


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros planning`."""
    return run(PlanningNode, args=args)


if __name__ == "__main__":
    sys.exit(main())
