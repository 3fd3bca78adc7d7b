"""reasoning node: queries in; reasoning state, forecasts and answers out. Answers never delay the state."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

import torch
from std_msgs.msg import String

from sparseoccvla_ros.core.classes import PALETTES
from sparseoccvla_ros.core.motion import PlannedMotion
from sparseoccvla_ros.core.types import BASE_FRAME, HORIZONS, Plan, Reasoning, SceneQueries
from sparseoccvla_ros.occupancy.object_boxes import object_boxes
from sparseoccvla_ros.occupancy.postprocess import occupied_voxels
from sparseoccvla_ros.planning.plan_words import agrees, plan_action, with_action
from sparseoccvla_ros.reasoning.serving.generation import Answer, check_question
from sparseoccvla_ros.ros import markers, messages
from sparseoccvla_ros.ros.adapters import detections
from sparseoccvla_ros.ros.ask_server import Questions
from sparseoccvla_ros.ros.intra_process import Item
from sparseoccvla_ros.ros.latest_worker import Worker
from sparseoccvla_ros.ros.lifecycle_base import StageNode
from sparseoccvla_ros.ros.process import run
from sparseoccvla_ros.ros.throttle import Throttle
from sparseoccvla_ros.runtime.factory import build_reasoning
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.runtime.warm_up import warm_up_reasoning


class ReasoningNode(StageNode):
    """Runs one prefill per frame set; a separate thread answers questions."""

    stage = "reasoning"
    waiting_for = "occupancy/queries from occupancy"
    niceness = 5

    def setup(self) -> None:
        """Load the language model and create topics, action and threads."""
        torch.set_num_threads(self.values.threads)
        self.get_logger().info("loading the language model")
        preset = load_preset(self.values.preset)
        self._reasoner = build_reasoning(preset, self.values.device, self.get_logger().info)
        warm_up_reasoning(self._reasoner, preset)
        self._occupancy = preset.occupancy
        self._planned = PlannedMotion()
        self._plan: Plan | None = None
        self._ego_speed = 0.0
        self._agreed = [0, 0]
        self._epoch: int | None = None
        self._text = ""
        self._base_frame = BASE_FRAME
        self._text_lock = threading.Lock()
        self._state = self.stage_output("reasoning/state", messages.reasoning_to_msg)
        self._points = self.output("occupancy/forecast/points")
        self._markers = self.output("occupancy/forecast/markers")
        self._detections = self.optional_output("occupancy/detections")
        self._detection_markers = self.output("occupancy/detections/markers")
        self._texts = self.output("reasoning/text")
        self._text_marker = self.output("reasoning/text_marker")
        self._marker_throttle = Throttle(lambda: self.values.marker_rate)
        self._answering_throttle = Throttle(lambda: self.values.answering_rate)
        self._self_throttle = Throttle(lambda: 1 / self.values.question_period if self.values.question_period else 0.0)
        self._worker: Worker[Item] = Worker("reasoning", lambda item: self.attempt(lambda: self._work(item())))
        self._questions = Questions(self, self._reasoner, self._on_answer, self._in_context)
        self.stage_input("occupancy/queries", self.hand_over, messages.queries_from_msg)
        self.stage_input("planning/plan", self._on_plan, messages.plan_from_msg)
        self.input("reasoning/question", self._on_question)
        self.monitor.show(weights="trained" if self._reasoner.trained else "untrained", preset=self.values.preset)

    def stopped(self) -> None:
        """Drop the waiting queries and the scene; cancel answers."""
        self._worker.discard()
        self._questions.cancel_all()
        self._reasoner.reset()
        self._planned.clear()
        self._plan = None
        self._begin_drive(None)

    def teardown(self) -> None:
        """Stop the threads and free the model."""
        if self._worker is not None:
            self._questions.stop()
            self._worker.stop()
            del self._worker, self._questions, self._reasoner

    # --- inputs

    def _on_plan(self, item: Item) -> None:
        self._plan = item()
        self._planned.add(self._plan)

    def _on_question(self, message: String) -> None:
        self._questions.enqueue(check_question(message.data))

    # --- work

    def _work(self, queries: SceneQueries) -> None:
        began = time.monotonic()
        # Prefills have priority at the model: without gaps between them an answer would never be generated, and each
        # short answer would first wait for a prefill.
        if not self._answering_throttle.due() and self._questions.in_conversation:
            self.monitor.count("deferred_for_generation")
            # Where the plan waits for this reasoning, and the simulator for the plan (lockstep), no newer set follows.
            self._worker.defer(lambda: queries, self._answering_throttle.remaining())
            return
        if queries.epoch != self._epoch:
            self._planned.clear()
            self._plan = None
            self._reasoner.reset()
            # Before cancelling, so that the last text of a cancelled answer counts as the previous drive's.
            self._begin_drive(queries.epoch)
            self._questions.cancel_all()
        self._ego_speed = queries.ego.speed
        self._base_frame = queries.ego.base_frame
        planned = self._planned.at(queries)
        reasoning = self._reasoner.reason(queries, planned if self.values.forecast_motion == "planned" else None)
        if not self.active:
            self._reasoner.reset()  # nobody asks about a scene that came after the stop
            return
        with self._text_lock:
            reasoning = replace(reasoning, text=self._text)
        latency = time.monotonic() - began
        self._state.publish(reasoning, latency=latency)
        self._show(reasoning)
        self._show_objects(queries, reasoning)
        self.monitor.finished(latency, () if reasoning.trained else ("untrained_weights",))
        self.monitor.show(forecast_motion=reasoning.forecast_motion, prefill_ms=1e3 * self._reasoner.prefill_seconds)
        if self.values.self_question and self._self_throttle.due():
            self._questions.enqueue(self.values.self_question, from_itself=True)

    def _begin_drive(self, epoch: int | None) -> None:
        with self._text_lock:
            self._epoch, self._text = epoch, ""

    def _show(self, reasoning: Reasoning) -> None:
        palette = PALETTES[self.values.palette]
        if self._points.get_subscription_count():
            layers = list(zip(HORIZONS, reasoning.forecasts, strict=False))
            self._points.publish(messages.cloud_to_msg(layers, reasoning.stamp, palette, reasoning.base_frame))
        if self._markers.get_subscription_count() and self._marker_throttle.due():
            for horizon, voxels in zip(HORIZONS, reasoning.forecasts, strict=False):
                name = f"forecast/{horizon:.0f}s"
                # Later forecasts are fainter, to tell the three apart when shown together.
                alpha = 0.7 - 0.2 * (horizon - 1.0)
                limit = self.values.marker_limit
                cubes = markers.cubes(voxels, reasoning.stamp, name, limit, alpha, palette, reasoning.base_frame)
                self._markers.publish(cubes)

    def _show_objects(self, queries: SceneQueries, reasoning: Reasoning) -> None:
        wanted = [p for p in (self._detections, self._detection_markers) if p and p.get_subscription_count()]
        if not wanted:
            return
        future = reasoning.forecasts[0] if reasoning.forecasts else None
        boxes = object_boxes(occupied_voxels(queries, config=self._occupancy), future, HORIZONS[0])
        if self._detections in wanted:
            self._detections.publish(detections.detections_to_msg(boxes, queries.stamp, queries.ego.base_frame))
        if self._detection_markers in wanted:
            frame = queries.ego.base_frame
            made = detections.detection_markers(boxes, queries.stamp, self.values.palette, frame)
            self._detection_markers.publish(made)

    def _action(self) -> str | None:
        """The vehicle's next action according to the newest plan of this drive; None without one."""
        plan = self._plan
        return None if plan is None or plan.epoch != self._epoch else plan_action(plan, self._ego_speed)

    def _in_context(self, question: str) -> str:
        action = self._action() if self._reasoner.plan_in_prompt else None
        told = question if action is None else with_action(question, action)
        return told if len(told) <= self._reasoner.config.max_question_chars else question

    def _on_answer(self, answer: Answer) -> None:
        with self._text_lock:
            if answer.epoch != self._epoch:  # of a drive that is over
                return
            self._text = answer.text
        action = self._action()
        agreed = None if action is None else agrees(answer.text, action)
        if agreed is not None:
            self._agreed[0] += agreed
            self._agreed[1] += 1
            self.monitor.show(text_agrees_with_plan=f"{self._agreed[0]} of {self._agreed[1]} answers")
        self._texts.publish(String(data=answer.text))
        self._text_marker.publish(markers.text(answer.text, answer.stamp, self._base_frame))


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros reasoning`."""
    return run(ReasoningNode, args=args)


if __name__ == "__main__":
    sys.exit(main())
