"""viewer node: shows the running stack in a browser or Foxglove; writes a recording, a bag of outputs and a picture."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String

from sparseoccvla_ros.core.vehicle import Vehicle
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.data.bags.recorder import BagRecorder
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.adapters.occupancy_labels import voxels_from_cloud
from sparseoccvla_ros.ros.adapters.scene_collector import KEPT, STAMPED, Scene, SceneCollector
from sparseoccvla_ros.ros.latest_worker import Worker
from sparseoccvla_ros.ros.lifecycle_base import StageNode
from sparseoccvla_ros.ros.msg_utils import stamp_of
from sparseoccvla_ros.ros.parameters import section
from sparseoccvla_ros.ros.process import run
from sparseoccvla_ros.ros.topics import BY_NAME, OUTPUTS
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.view.foxglove_server import FoxgloveServer
from sparseoccvla_ros.view.recording import SceneRecording
from sparseoccvla_ros.view.scene_picture import save_png, scene_picture

NOT_RECORDED = ("frames", "camera_sync/mosaic", "/clock")
"""Topics left out of the bag of outputs: images, which the input already holds, and /clock."""
TRANSFORMS = ("/tf", "/tf_static")
"""Topics that Foxglove needs besides the outputs."""
LABEL_REACH = 0.3
"""Longest time in seconds between a frame set and the labels shown with it."""


class ViewerNode(StageNode):
    """Collects the messages of a stamp and draws them when its plan arrives; no other node waits for it."""

    stage = "viewer"
    waiting_for = "planning/plan from planning"
    niceness = 10
    end_seconds = 9.0  # time to finish the files

    def setup(self) -> None:
        """Open the sinks and subscribe to every output."""
        self._scenes = SceneCollector(load_preset(self.values.preset).occupancy)
        self._vehicle = Vehicle(**section(self.values, "vehicle"))
        self._labels: dict[int, PointCloud2] = {}
        self._labels_lock = threading.Lock()
        self._first_plan: int | None = None
        self._picture_done = False
        self._scene: Scene | None = None
        self._out = Path(self.values.out) if self.values.out else None
        record = self.values.record and self._out is not None
        if self._out is not None:
            self._out.mkdir(parents=True, exist_ok=True)
        self._bag = BagRecorder(self._out / "outputs", force=True) if record else None
        self._recording = None
        if record or self.values.serve:
            self._recording = SceneRecording(
                body=self._vehicle,
                path=self._out / "recording.rrd" if record else None,
                port=self.values.port if self.values.serve else None,
            )
            if self.values.serve:
                self.get_logger().info(f"open {self._recording.url} in a browser on this machine")
        self._foxglove = FoxgloveServer(self.values.foxglove_port) if self.values.foxglove else None
        if self._foxglove is not None:
            self.get_logger().info(f"open {self._foxglove.url} in Foxglove on this machine")
            for name in TRANSFORMS:
                self.raw_input(name, partial(self._to_foxglove, name, name), when_active=False)
        self._worker: Worker[int] = Worker("viewer", lambda stamp: self.attempt(lambda: self._draw(stamp)))
        for topic in OUTPUTS:
            if topic.name != "/clock":
                with contextlib.suppress(ImportError):  # a topic whose message is not installed is not published either
                    self.raw_input(topic.name, partial(self._on_raw, topic.name, topic.full_name))
        if self.values.label_topic:
            self.listen(self.values.label_topic, PointCloud2, self._on_labels, "sensor")
        self.input("reasoning/text", self._on_text)
        self.input("/diagnostics", self._on_states)

    def stopped(self) -> None:
        """Drop the waiting stamp; `teardown` finishes the files."""
        self._worker.discard()

    def teardown(self) -> None:
        """Save the picture if `picture_at` was not reached, then close every sink."""
        if self._worker is None:
            return
        self._worker.stop()
        if not self._picture_done and self._scene is not None:
            self.attempt(self._save_picture)
        if self._bag is not None:
            self._bag.close()
        if self._recording is not None:
            self._recording.close()
        if self._foxglove is not None:
            self._foxglove.close()
        del self._worker

    # --- inputs

    def _to_foxglove(self, name: str, full_name: str, raw: bytes) -> None:
        if self._foxglove is not None:
            self._foxglove.send(full_name, BY_NAME[name].type, self.get_clock().now().nanoseconds, raw)

    def _on_raw(self, name: str, full_name: str, raw: bytes) -> None:
        self._to_foxglove(name, full_name, raw)
        now = self.get_clock().now().nanoseconds
        # Before the first /clock `now` is 0, and a single record at 0 would make the bag begin in 1970.
        if self._bag is not None and name not in NOT_RECORDED and now and self._bag.knows(BY_NAME[name].type):
            self._bag.write(full_name, BY_NAME[name].type, now, raw)
        if name in STAMPED:
            self._scenes.keep(name, stamp_of(raw), raw)
            if name == "planning/plan":
                self.monitor.received()
                self._worker.submit(stamp_of(raw))

    def _on_labels(self, message: PointCloud2) -> None:
        with self._labels_lock:
            self._labels[messages.nanoseconds(message.header.stamp)] = message
            while len(self._labels) > KEPT:
                del self._labels[next(iter(self._labels))]

    def _on_text(self, message: String) -> None:
        if self._recording is not None and self._scene is not None:
            self._recording.log_text(self._scene.frames.stamp, message.data)

    def _on_states(self, message: DiagnosticArray) -> None:
        if self._recording is None or self._scene is None:
            return
        for status in message.status:
            level = ("INFO", "WARN", "ERROR", "ERROR")[int.from_bytes(status.level, "little")]
            if level != "INFO":
                self._recording.log_text(
                    self._scene.frames.stamp, status.message, status.name.removesuffix(": state"), level
                )

    # --- drawing

    def _draw(self, stamp: int) -> None:
        began = time.monotonic()
        scene = self._scenes.collect(stamp)
        if scene is None:
            self.monitor.count("incomplete")
            return
        self._scene = scene
        if self._recording is not None:
            self._recording.log_scene(**self._shown(scene))
            self._recording.log_scalars(stamp, {k: 1e3 * v for k, v in scene.delays.items()})
        if self._first_plan is None or stamp < self._first_plan:
            self._first_plan = stamp
        if not self._picture_done and stamp - self._first_plan >= self.values.picture_at * 1e9:
            self._save_picture()
        self.monitor.finished(time.monotonic() - began)

    def _shown(self, scene: Scene) -> dict[str, Any]:
        """Returns a scene as arguments of SceneRecording.log_scene and scene_picture."""
        notes = {"latency": f"{1e3 * scene.delays['frames to plan']:.0f} ms to plan"}
        if scene.reasoning is not None and scene.reasoning.text:
            notes["says"] = scene.reasoning.text
        if not scene.queries.trained:
            notes["weights"] = "untrained"
        return {
            "frames": scene.frames,
            "voxels": scene.voxels,
            "plan": scene.plan,
            "forecasts": scene.forecasts,
            "labels": self._labels_near(scene.frames.stamp),
            "notes": notes,
            "trained": scene.queries.trained,
        }

    def _labels_near(self, stamp: int) -> SparseVoxels | None:
        with self._labels_lock:
            found = min(self._labels, key=lambda s: abs(s - stamp), default=None)
            if found is None or abs(found - stamp) > LABEL_REACH * 1e9:
                return None
            message = self._labels[found]
        return voxels_from_cloud(message)

    def _save_picture(self) -> None:
        self._picture_done = True
        if self._out is not None and self._scene is not None:
            page = scene_picture(**self._shown(self._scene), body=self._vehicle)
            save_png(self._out / "scene.png", page)
            self.get_logger().info(f"wrote {self._out / 'scene.png'}")


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros viewer`."""
    return run(ViewerNode, args=args)


if __name__ == "__main__":
    sys.exit(main())
