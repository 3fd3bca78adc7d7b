"""bag_player node: plays a rosbag2 bag as live topics with /clock; pause, step and loop as in `ros2 bag play`."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rosgraph_msgs.msg import Clock as ClockMsg
from std_srvs.srv import SetBool, Trigger

from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.core.errors import InvalidInput, format_error
from sparseoccvla_ros.data.bags.playback import Clock, Event, Playback
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.ros.diagnostics import State
from sparseoccvla_ros.ros.lifecycle_base import SourceNode, message_class
from sparseoccvla_ros.ros.messages import time_msg
from sparseoccvla_ros.ros.process import run

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class BagPlayerNode(SourceNode):
    """Publishes the raw messages of a bag at their record times."""

    stage = "bag_player"
    waiting_for = "playback"

    def setup(self) -> None:
        """Open the bag and create a publisher for every topic whose message type is installed."""
        self._reader = BagReader(self.values.bag)
        excluded = {topic for topic in self.values.exclude if topic}
        self._outputs: dict[str, Any] = {}
        skipped = [f"{name} ({problem})" for name, problem in self._reader.left_out.items()]
        for topic in self._reader.topics.values():
            if topic.name in excluded or topic.name == "/clock":
                continue
            try:
                kind = message_class(topic.type)
            except (ImportError, AttributeError):
                skipped.append(f"{topic.name} ({topic.type} is not installed)")
                continue
            self._outputs[topic.name] = self.publisher(kind, topic.name, "latched" if topic.latched else "output")
        if skipped:
            self.get_logger().warning(f"not played: {', '.join(skipped)}")
        for note in self._reader.notes:
            self.get_logger().warning(note)
        self._images = [t.name for t in self._reader.topics.values() if t.type in IMAGES and t.name in self._outputs]
        cameras = profile(self.values.profile).cameras.values()
        self._cameras = [c.image_topic for c in cameras if c.image_topic in self._outputs]
        self._clock_output = self.output("/clock")
        values = self.values
        self._playback = Playback(
            self._reader,
            rate=values.rate,
            loop=values.loop,
            start_offset=values.start_offset,
            duration=values.duration or None,
            clock_hz=values.clock_rate,
            topics=tuple(self._outputs),
        )
        self._lock = threading.Lock()
        self.control(SetBool, "~/pause", self._on_pause)
        self.control(Trigger, "~/step", self._on_step)
        info = self._reader
        self.get_logger().info(f"{info.path.name}: {info.message_count} messages, {info.duration:.1f} s")

    def teardown(self) -> None:
        """Close the bag."""
        super().teardown()
        if getattr(self, "_reader", None) is not None:
            self._reader.close()
            self._reader = None

    def _unheard(self) -> list[str]:
        """Profile cameras short of `wait_for` subscribers; if the bag has none, all images until one has enough."""

        def few(names: list[str]) -> list[str]:
            return [n for n in names if self._outputs[n].get_subscription_count() < self.values.wait_for]

        if self._cameras:
            return few(self._cameras)
        unheard = few(self._images)
        return unheard if len(unheard) == len(self._images) else []

    def work(self) -> None:
        """Wait for subscribers, then play the bag to its end."""
        until = time.monotonic() + self.values.wait_timeout
        while self._running and (unheard := self._unheard()):
            if time.monotonic() > until:
                self.get_logger().error(
                    f"fewer than {self.values.wait_for} subscribers on {', '.join(unheard)} "
                    f"within {self.values.wait_timeout:g} s"
                )
                self.exit_code = 1
                self.finished.set()
                return
            time.sleep(0.05)
        time.sleep(self.values.settle)
        with self._lock:
            self._playback.start(time.monotonic(), paused=self.values.start_paused)
        late = 0.0
        while self._running:
            now = time.monotonic()
            with self._lock:
                if self._playback.finished:
                    break
                events = list(self._playback.due(now))
                next_time = self._playback.next_time()
            for event in events:
                self._publish(event)
            if next_time is not None:
                late = max(late, time.monotonic() - next_time)
            self.monitor.received()
            wait = 0.02 if next_time is None else next_time - time.monotonic()
            if wait > 0:
                time.sleep(min(wait, 0.05))
        if self._running:
            self.get_logger().info("end of the bag")
            self.monitor.show(position="end", latest_s=late)
            self.monitor.forced = State.OK
            self.finished.set()

    def _publish(self, event: Event) -> None:
        if isinstance(event, Clock):
            self._clock_output.publish(ClockMsg(clock=time_msg(event.stamp)))
            self.monitor.show(position=f"{(event.stamp - self._reader.start) / 1e9:.2f} s")
        else:
            self._outputs[event.topic].publish(event.raw)
            self.monitor.count("published")

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._lock:
            (self._playback.pause if request.data else self._playback.resume)(time.monotonic())
        response.success, response.message = True, "paused" if request.data else "playing"
        return response

    def _on_step(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            with self._lock:
                self._playback.step()
        except InvalidInput as error:
            response.success, response.message = False, format_error(error)
            return response
        response.success = True
        return response


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros bag_player`: exits when the bag ends."""
    return run(lambda: BagPlayerNode(once=True), args=args)


if __name__ == "__main__":
    sys.exit(main())
