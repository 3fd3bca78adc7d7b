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
from sparseoccvla_ros.core.types import CommandSource, EgoState, Plan, PlanStatus, Reasoning, SceneQueries
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

CLOCK_MISMATCH_NS = 3600 * 10**9
"""ns between stamp and node clock beyond which they count as different clocks (a bag played without use_sim_time)."""


class PlanningNode(StageNode):
    """Plans from the newest queries, with the newest reasoning that is not too old.

    The ego state comes with the queries (camera_sync takes it from tf or odometry at the image stamps), so the pose and
    the occupancy of a plan always belong to the same moment.
    """

    stage = "planning"
    waiting_for = "occupancy/queries from occupancy"

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
        self._route = RouteCommand(timeout=self.values.command_timeout, distances=self._planner.config.target_points)
        self._next_route: tuple[str, np.ndarray] | None = None  # frame and points, until an ego pose is known
        self._reasoning: Reasoning | None = None
        self._epoch: int | None = None
        self._ego: EgoState | None = None
        self._followed: Plan | None = None  # newest plan with a path, until the followers are told to stop
        self._followed_ego: EgoState | None = None  # at its stamp
        self._followed_since = 0.0  # steady clock, s
        self._followers_lock = threading.RLock()  # a plan goes out before a stop or not at all
        self._reasoning_condition = threading.Condition()
        # outputs; types and QoS: ros/topics.py
        self._plan_pub = self.stage_output("planning/plan", messages.plan_to_msg)
        self._path_pub = self.output("planning/path")
        self._trajectory_pub = self.output("planning/trajectory")
        self._autoware_pub = self.optional_output("planning/autoware_trajectory")
        self._autoware_candidates_pub = self.optional_output("planning/autoware_candidates")
        self._turn_indicators_pub = self.optional_output("planning/turn_indicators")
        self._instruction_pub = self.output("planning/instruction")
        self._candidates_pub = self.output("planning/candidates")
        self._markers_pub = self.output("planning/markers")
        self._worker: Worker[Item] = Worker("planning", lambda item: self.attempt(lambda: self._work(item())))
        # inputs
        self.stage_input("occupancy/queries", self.hand_over, messages.queries_from_msg)
        self.stage_input("reasoning/state", self._on_reasoning, messages.reasoning_from_msg)
        self.input("planning/command", self._on_command)
        self.input("planning/route", self._on_route)
        self.input("planning/goal", self._on_goal)
        self.monitor.show(weights="trained" if self._planner.trained else "untrained", preset=self.values.preset)

    def stopped(self) -> None:
        """Stop the followers of the path and drop all state of the drive."""
        self._worker.discard()
        self._stop_followers()
        self._reset_drive()

    def teardown(self) -> None:
        """Stop the worker and free the model."""
        if self._worker is not None:
            self._worker.stop()
            del self._worker, self._planner

    def watch(self) -> None:
        """Stop the followers after `stale_after` without queries or without a path, e.g. because all are refused."""
        with self._followers_lock:
            state, reason = self.monitor.state(self.values.stale_after)
            age = time.monotonic() - self._followed_since
            if state is State.STALE:
                self._stop_followers(reason)
            elif age > self.values.stale_after + self.values.reasoning_wait:
                self._stop_followers(f"no path for {age:.1f} s, state {state.value}")

    # --- inputs

    def _on_reasoning(self, item: Item) -> None:
        reasoning: Reasoning = item()
        with self._reasoning_condition:
            self._reasoning = reasoning
            self._reasoning_condition.notify_all()

    def _on_command(self, message: String) -> None:
        self._route.set_command(self.get_clock().now().nanoseconds, parse_command(message.data))

    def _on_route(self, message: Path) -> None:
        _, points, frame = messages.path_from_msg(message)
        self._next_route = frame, points
        if self._ego is not None:
            self._apply_pending_route()

    def _apply_pending_route(self) -> None:
        """Use the newest route, now that its frame can be checked."""
        if self._next_route is not None:
            (frame, points), self._next_route = self._next_route, None
            self._in_fixed_frame(frame)
            self._route.set_route(points)

    def _on_goal(self, message: PoseStamped) -> None:
        pose = messages.pose_from_msg(message.pose, "goal")
        ego_pose = self._in_fixed_frame(message.header.frame_id)
        self._route.set_goal(ego_pose, pose[:2, 3])

    def _in_fixed_frame(self, frame: str) -> np.ndarray:
        ego = self._ego
        if ego is None:
            raise InvalidInput("goal", "came before the first ego pose")
        if frame != ego.fixed_frame:
            raise InvalidInput("route", f"is in frame '{frame}', the ego pose is in '{ego.fixed_frame}'")
        return ego.pose

    # --- work

    def _work(self, queries: SceneQueries) -> None:
        began = time.monotonic()
        now = self.get_clock().now().nanoseconds
        age = now - queries.stamp
        mismatch = abs(age) >= CLOCK_MISMATCH_NS
        if age > self.values.max_age * 1e9 and not mismatch:
            raise InvalidInput("queries", f"are {age / 1e9:.2f} s old, max_age is {self.values.max_age} s")
        self.monitor.show(clock="apart from stamps: use_sim_time?" if mismatch else "same as stamps")
        if queries.epoch != self._epoch:
            self._reset_drive()
            self._epoch = queries.epoch
        self._ego = queries.ego
        self._history.add(queries.stamp, queries.ego.pose, queries.ego.twist)
        self.attempt(self._apply_pending_route)
        self._route.timeout = self.values.command_timeout  # may change while the node runs
        choice = self._route.choose(now, queries.ego.pose, queries.ego.speed)
        voxels = occupied_voxels(queries, config=self._occupancy)
        reasoning = self._await_reasoning(queries)
        plan = self._planner.plan(
            queries, voxels, reasoning, self._history, choice.command, choice.source, choice.target_points
        )
        plan = replace(plan, trace=(*queries.trace, event(self.get_name(), "planned")))
        with self._followers_lock:
            if self.active:
                self._publish(plan, queries.ego, time.monotonic() - began)

    def _await_reasoning(self, queries: SceneQueries) -> Reasoning | None:
        """Returns the newest reasoning of this epoch within reasoning_max_age, None without one.

        Waits up to reasoning_wait for that of this stamp.
        """

        def caught_up() -> bool:
            return self._reasoning is not None and self._reasoning.stamp >= queries.stamp

        with self._reasoning_condition:
            until = time.monotonic() + self.values.reasoning_wait
            while not caught_up() and not self.closing and (left := until - time.monotonic()) > 0:
                self._reasoning_condition.wait(min(left, 0.1))
            reasoning = self._reasoning
        if reasoning is None or reasoning.epoch != queries.epoch or reasoning.stamp > queries.stamp:
            return None
        age = (queries.stamp - reasoning.stamp) / 1e9
        self.monitor.show(reasoning_age_s=age)
        return reasoning if age <= self.values.reasoning_max_age else None

    def _publish(self, plan: Plan, ego: EgoState, latency: float) -> None:
        self._plan_pub.publish(plan)
        if plan.status is PlanStatus.REJECTED:
            self._stop_followers("; ".join(plan.reasons), plan)
        else:
            self._path_pub.publish(messages.path_to_msg(plan))
            self._trajectory_pub.publish(messages.trajectory_to_msg(plan))
            self._followed_ego, self._followed_since, self._followed = ego, time.monotonic(), plan
            self.monitor.show(followers="have a path")
        self._publish_for_autoware(plan, ego)
        if instruction := self._route.instruction(ego.pose):
            self._instruction_pub.publish(String(data=instruction))
        if self._candidates_pub.get_subscription_count():
            self._candidates_pub.publish(markers.candidates(plan))
        if self._markers_pub.get_subscription_count():
            size = self._vehicle.length_m, self._vehicle.width_m, self._vehicle.centre_m
            self._markers_pub.publish(markers.vehicle(plan, ego.speed, *size))
        self._report(plan, latency)

    def _report(self, plan: Plan, latency: float) -> None:
        """Log and show in diagnostics what is wrong with a plan."""
        reasons = plan.reasons
        if plan.status is PlanStatus.BRAKING:
            reasons = ("braking", *reasons)
            self.get_logger().warning(with_code("braking", ", ".join(plan.reasons)), throttle_duration_sec=5.0)
        elif plan.command_source is CommandSource.TIMEOUT:
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
        if self._autoware_pub is not None and self._autoware_pub.get_subscription_count():
            self._autoware_pub.publish(autoware().trajectory_to_msg(plan, ego))
        if self._autoware_candidates_pub is not None and self._autoware_candidates_pub.get_subscription_count():
            self._autoware_candidates_pub.publish(autoware().candidates_to_msg(plan, ego))
        if self._turn_indicators_pub is not None and self._turn_indicators_pub.get_subscription_count():
            self._turn_indicators_pub.publish(autoware().turn_indicators_to_msg(plan))

    def _stop_followers(self, why: str = "deactivated", rejected: Plan | None = None) -> None:
        """Tell followers once to stop instead of using the last path: an empty Path, and a standstill for Autoware.

        rejected: the plan that is the cause; `_publish_for_autoware` sends its standstill.
        """
        with self._followers_lock:
            followed, self._followed = self._followed, None
            if followed is None:
                return
            plan = rejected or followed
            self.get_logger().warning(with_code("stopping", why))
            self.monitor.show(followers=f"stopped: {why}")
            if self.values.publish_empty_on_stop:
                self._path_pub.publish(Path(header=messages.header(plan.stamp, plan.base_frame)))
            if rejected is None and self._autoware_pub is not None and self._followed_ego is not None:
                self._autoware_pub.publish(autoware().standstill_to_msg(plan.stamp, self._followed_ego))
            self._candidates_pub.publish(markers.delete_all(plan.stamp, "candidates", plan.base_frame))

    def _reset_drive(self) -> None:
        self._history.clear()
        self._planner.reset()
        self._ego = None
        with self._reasoning_condition:
            # the first reasoning of a new epoch may be here before its queries: keep it
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
