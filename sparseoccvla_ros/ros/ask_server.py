"""Question answering of the reasoning node: questions from a topic, its own, and those of the AskScene action."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future
from sparseoccvla_msgs.action import AskScene

from sparseoccvla_ros.core.errors import InvalidInput, format_error
from sparseoccvla_ros.reasoning.serving.generation import Answer, check_question

from .lifecycle_base import StageNode
from .messages import time_msg
from .topics import ACTION

PAUSE = 0.5
"""Seconds after an answer for which `answering_rate` still applies, because another question may follow."""


@dataclass(eq=False)
class _Question:
    text: str
    max_tokens: int
    time_limit: float
    cancel: threading.Event = field(default_factory=threading.Event)
    on_text: Callable[[str], None] = lambda piece: None
    done: Callable[[Any], None] = lambda answer: None
    problem: str = ""
    """Reason for a missing answer."""


class Questions:
    """Answers questions one at a time in its own thread; at most `queue_limit` wait, more are refused.

    node: for parameters and the action server; reasoner: has `ask`; on_answer: called with the whole answer, for
    topics; in_context: converts a question to the text that the language model gets.
    """

    def __init__(
        self,
        node: StageNode,
        reasoner: Any,
        on_answer: Callable[[Answer], None],
        in_context: Callable[[str], str] = lambda question: question,
    ) -> None:
        self._node = node
        self._reasoner = reasoner
        self._in_context = in_context
        self._on_answer = on_answer
        self._queue: queue.Queue[_Question | None] = queue.Queue(maxsize=node.values.queue_limit)
        self._current: _Question | None = None
        self._ended = float("-inf")
        self._running = True
        self._thread = threading.Thread(target=self._loop, name="answers", daemon=True)
        self._thread.start()
        self._goals: dict[bytes, _Question] = {}
        self._server = ActionServer(
            node,
            AskScene,
            ACTION,
            execute_callback=self._execute,
            goal_callback=self._accept,
            cancel_callback=self._cancel,
        )

    def enqueue(self, text: str, from_itself: bool = False) -> bool:
        """Queue a question; returns False and counts it if too many wait. A self-question is queued only when idle."""
        if from_itself and (self._current is not None or not self._queue.empty()):
            return False
        question = _Question(text, self._node.values.max_tokens, self._node.values.time_limit)
        question.done = self._publish
        return self._put(question)

    @property
    def busy(self) -> bool:
        """Whether an answer is being generated."""
        return self._current is not None

    @property
    def in_conversation(self) -> bool:
        """Whether an answer is being generated, or ended less than PAUSE ago."""
        return self.busy or time.monotonic() - self._ended < PAUSE

    def cancel_all(self) -> None:
        """Cancel the current answer and drop all waiting questions."""
        while True:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                break
            if waiting is not None:
                waiting.cancel.set()
                waiting.done(None)
        current = self._current  # the answering thread may reset it at any time
        if current is not None:
            current.cancel.set()

    def stop(self) -> None:
        """Cancel everything and stop the thread."""
        self._running = False
        self.cancel_all()
        self._queue.put(None)
        self._thread.join(10.0)
        self._server.destroy()

    def _put(self, question: _Question) -> bool:
        try:
            self._queue.put_nowait(question)
        except queue.Full:
            self._node.monitor.count("questions_refused")
            return False
        return True

    def _publish(self, answer: Answer | None) -> None:
        if answer is not None and self._node.active:
            self._on_answer(answer)

    def _loop(self) -> None:
        while self._running:
            question = self._queue.get()
            if question is None:
                return
            self._current = question
            answer = None

            def work(question: _Question = question) -> None:
                nonlocal answer
                try:
                    text = self._in_context(question.text)
                    answer = self._reasoner.ask(
                        text, question.on_text, question.cancel, question.max_tokens, question.time_limit
                    )
                except Exception as error:
                    question.problem = format_error(error) if isinstance(error, InvalidInput) else str(error)
                    raise
                self._node.monitor.count("questions_answered")
                rate = answer.tokens / max(answer.seconds, 1e-6)
                self._node.monitor.show(answer_tokens_per_s=rate)

            self._node.attempt(work)
            self._ended = time.monotonic()
            self._current = None
            question.done(answer)

    # --- action

    def _accept(self, request: AskScene.Goal) -> GoalResponse:
        try:
            check_question(request.question)
        except InvalidInput as error:
            self._node.refuse(format_error(error))
            return GoalResponse.REJECT
        if not self._node.active or self._queue.full():
            self._node.monitor.count("questions_refused")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        question = self._goals.get(bytes(goal.goal_id.uuid))
        if question is not None:
            question.cancel.set()
        return CancelResponse.ACCEPT

    async def _execute(self, goal: ServerGoalHandle) -> AskScene.Result:
        """Await the answer without blocking the executor: the answering thread completes the future."""
        request = goal.request
        limit = request.time_limit.sec + request.time_limit.nanosec / 1e9
        future: Future = Future(executor=self._node.executor)
        question = _Question(
            check_question(request.question),
            int(request.max_tokens) or self._node.values.max_tokens,
            limit or self._node.values.time_limit,
            on_text=lambda piece: goal.publish_feedback(AskScene.Feedback(text=piece)),
            done=future.set_result,
        )
        key = bytes(goal.goal_id.uuid)
        self._goals[key] = question
        if goal.is_cancel_requested:
            question.cancel.set()
        try:
            answer = await future if self._put(question) else None
        finally:
            del self._goals[key]
        result = AskScene.Result(trained=bool(self._reasoner.trained))
        if answer is None:
            result.reason = "cancelled" if question.cancel.is_set() else question.problem or "too many questions wait"
            goal.canceled() if goal.is_cancel_requested else goal.abort()
            return result
        result.answer, result.reason, result.stamp = answer.text, answer.reason, time_msg(answer.stamp)
        if goal.is_cancel_requested:
            goal.canceled()
        else:
            self._publish(answer)
            goal.succeed()
        return result
