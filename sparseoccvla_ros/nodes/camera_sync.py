"""camera_sync node: camera images, calibration and ego motion in, synchronised frame sets out."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import partial

from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from sparseoccvla_ros.camera_sync.arrival_times import ArrivalTimes
from sparseoccvla_ros.camera_sync.drop_reasons import DropReason
from sparseoccvla_ros.camera_sync.frame_assembler import CameraSync
from sparseoccvla_ros.camera_sync.message_adapter import MessageAdapter
from sparseoccvla_ros.camera_sync.profiles import CameraInput, profile
from sparseoccvla_ros.core.errors import with_code
from sparseoccvla_ros.core.trace import event
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.cv_bridge_compat import cv_bridge_fallback
from sparseoccvla_ros.ros.intra_process import Item
from sparseoccvla_ros.ros.latest_worker import Worker
from sparseoccvla_ros.ros.lifecycle_base import StageNode
from sparseoccvla_ros.ros.process import run
from sparseoccvla_ros.ros.throttle import Throttle
from sparseoccvla_ros.runtime.presets import load_preset

READY_TIMEOUT = 1.0
"""Seconds without a request from the encoder after which a frame set is decoded anyway."""
_REFUSALS = frozenset(
    {
        DropReason.MISSING_CAMERA,
        DropReason.SPREAD,
        DropReason.POSE_TIMEOUT,
        DropReason.POSE_TOO_OLD,
        DropReason.MOUNT_UNKNOWN,
        DropReason.MOUNT_IMPLAUSIBLE,
        DropReason.NO_CALIBRATION,
        DropReason.CALIBRATION_MISMATCH,
        DropReason.DECODE,
        DropReason.NO_IMAGE,
        DropReason.NO_TWIST,
        DropReason.IMPLAUSIBLE_MOTION,
    }
)
"""Drop reasons that need a fix in the setup; the others (overload, a clock jump) are transient."""


class CameraSyncNode(StageNode):
    """Feeds a CameraSync from topics and publishes its frame sets; decoding runs in the worker thread.

    While an encoder is running, a set is decoded only at its request: always the newest, and none that goes unused.
    """

    stage = "camera_sync"
    waiting_for = "camera images"

    def setup(self) -> None:
        """Read profile and calibration, create the topics."""
        values = self.values
        chosen = profile(values.profile)
        settings = {name: getattr(values, name) for name in ("tolerance", "policy", "max_hold", "tf_timeout")}
        if values.reference_camera:
            settings["reference"] = values.reference_camera
        if values.base_frame:
            settings["base_frame"] = values.base_frame
        if any(values.fixed_frames):
            settings["fixed_frames"] = tuple(filter(None, values.fixed_frames))
        self._sync = CameraSync(
            chosen.sync_config(**settings), load_preset(values.preset).image, fallback=cv_bridge_fallback()
        )
        self._sync.preparer.warm_up()
        self._arrivals = ArrivalTimes(self.get_name())
        self._adapter = MessageAdapter(self._sync, chosen, values.calibration_file)
        self._frames = self.stage_output("frames", messages.frames_to_msg)
        self._unrequested: tuple[int, float] | None = None  # stamp [ns] and steady clock [s] of the last set sent
        self._mosaic = self.output("camera_sync/mosaic")
        self._set_throttle = Throttle(lambda: values.max_rate)
        self._mosaic_throttle = Throttle(lambda: values.mosaic_rate)
        self._worker: Worker[bool] = Worker("camera_sync", lambda _: self.attempt(self._process_newest))
        for camera in chosen.cameras.values():
            self._subscribe_camera(camera)
        self.stage_input("occupancy/ready", self._on_ready, lambda message: messages.nanoseconds(message.stamp))
        self.input("/tf", partial(self._on_transforms, static=False))
        self.input("/tf_static", partial(self._on_transforms, static=True))
        # Publishers that repeat /tf_static instead of latching it do not match the latched subscription.
        self.listen("/tf_static", TFMessage, partial(self._on_transforms, static=True), "transforms")
        odometry = values.odometry_topic or chosen.odometry_topic
        if odometry:
            self.input("/odom", self._adapter.add_odometry, topic=odometry)
        self.monitor.show(profile=chosen.name, preset=values.preset)

    def stopped(self) -> None:
        """Drop images and poses; keep calibrations."""
        self._worker.discard()
        self._sync.reset()
        self._unrequested = None

    def teardown(self) -> None:
        """Stop the threads."""
        if self._worker is not None:
            self._worker.stop()
            self._sync.close()
            del self._worker, self._sync

    def watch(self) -> None:
        """Wake the worker, so that waiting for a silent camera or a late pose times out without a new image."""
        self._worker.submit(True)

    def report(self) -> None:
        """Show the synchroniser's statistics; drops are counted in `_process_newest`."""
        self.monitor.show(**{k: v for k, v in self._sync.statistics().items() if not k.startswith("dropped.")})

    # --- inputs

    def _subscribe_camera(self, camera: CameraInput) -> None:
        if self.values.rectified:
            camera = replace(camera, rectified=self.values.rectified == "true")
        kind = CompressedImage if camera.transport == "compressed" else Image
        self.listen(camera.image_topic, kind, partial(self._on_image, camera), "sensor")
        if camera.info_topic:
            callback = partial(self._adapter.add_camera_info, camera)
            self.listen(camera.info_topic, CameraInfo, callback, "sensor")

    def _on_image(self, camera: CameraInput, message: Image | CompressedImage) -> None:
        self.monitor.received()
        for name in camera.names:
            self._arrivals.add(name, messages.nanoseconds(message.header.stamp))
        if self._adapter.add_image(camera, message, self.get_clock().now().nanoseconds):
            self._worker.submit(True)

    def _on_transforms(self, message: TFMessage, static: bool) -> None:
        try:
            self._adapter.add_transforms(message, static)
        finally:
            if self._sync.waiting:
                self._worker.submit(True)

    def _on_ready(self, item: Item) -> None:
        unrequested = self._unrequested
        if unrequested is not None and unrequested[0] == item():
            self._unrequested = None
            self._worker.submit(True)

    # --- work

    def _may_decode(self) -> bool:
        """Whether to decode a set: False while a running encoder has one and has not requested the next."""
        unrequested = self._unrequested
        if unrequested is None or time.monotonic() - unrequested[1] > READY_TIMEOUT:
            return True
        return self._handover is None and not self.count_publishers("occupancy/ready")

    def _process_newest(self) -> None:
        if not self._may_decode() or not self._set_throttle.due():
            return
        began, taken = time.monotonic(), event(self.get_name(), "taken")
        frames = self._sync.take(self.get_clock().now().nanoseconds)
        for reason, text in self._sync.messages():
            self.monitor.count(f"dropped.{reason.value}")
            # With an encoder slower than the cameras, sets are dropped all the time: counted, but no warning.
            log = self.get_logger().debug if reason is DropReason.OVERLOAD else self.get_logger().warning
            log(with_code(reason.value, text), throttle_duration_sec=5.0)
            if reason in _REFUSALS:
                self.monitor.refused(with_code(reason.value, text))
        if frames is None or not self.active:
            if frames is None:
                self._set_throttle.undo()
            return
        trace = self._arrivals.trace(frames)
        if trace:
            frames = replace(frames, trace=(*trace, taken, event(self.get_name(), "prepared")))
        # Set before publishing: in a composed process the request may arrive during publish().
        self._unrequested = (frames.stamp, time.monotonic())
        self._frames.publish(frames)
        self.monitor.finished(time.monotonic() - began, tuple(f"missing_camera:{name}" for name in frames.missing))
        if self._mosaic_throttle.due() and self._mosaic.get_subscription_count():
            self._mosaic.publish(messages.mosaic_to_msg(frames))


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros camera_sync`."""
    return run(CameraSyncNode, args=args)


if __name__ == "__main__":
    sys.exit(main())
