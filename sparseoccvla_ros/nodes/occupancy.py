"""occupancy node: CameraFrames in; sparse occupancy queries, and the occupancy as cloud, markers and grids, out."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from sparseoccvla_ros.core.classes import OBSTACLES, PALETTES
from sparseoccvla_ros.core.trace import event
from sparseoccvla_ros.core.types import CameraFrames, SceneQueries
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.occupancy.postprocess import occupied_voxels
from sparseoccvla_ros.ros import markers, messages
from sparseoccvla_ros.ros.intra_process import Item
from sparseoccvla_ros.ros.latest_worker import Worker
from sparseoccvla_ros.ros.lifecycle_base import StageNode
from sparseoccvla_ros.ros.process import run
from sparseoccvla_ros.ros.throttle import Throttle
from sparseoccvla_ros.runtime.backend_swap import use_runtime
from sparseoccvla_ros.runtime.factory import build_occupancy
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.runtime.warm_up import warm_up_occupancy

REQUEST_AFTER = 0.7
"""Share of the usual encoding time after which the next frame set is requested, which is decoded during the rest."""


class OccupancyNode(StageNode):
    """Runs the occupancy encoder on the newest frame set and requests the next one from camera_sync."""

    stage = "occupancy"
    waiting_for = "frames from camera_sync"

    def setup(self) -> None:
        """Load the encoder and create the topics."""
        torch.set_num_threads(self.values.threads)
        preset = load_preset(self.values.preset)
        self._encoder = build_occupancy(preset, self.values.device)
        fallback = use_runtime(self._encoder, preset, self.values.runtime, self.values.threads)
        warm_up_occupancy(self._encoder, preset)
        self._mean_encode_s = 0.0
        self._ready = self.stage_output("occupancy/ready", messages.header)
        self._queries = self.stage_output("occupancy/queries", messages.queries_to_msg)
        self._points = self.output("occupancy/points")
        self._markers = self.output("occupancy/markers")
        self._legend = self.output("occupancy/legend")
        self._obstacles = self.output("occupancy/obstacles")
        self._grid = self.output("occupancy/grid")
        self._costmap = self.output("occupancy/costmap")
        self._marker_throttle = Throttle(lambda: self.values.marker_rate)
        self._worker: Worker[Item] = Worker("occupancy", lambda item: self.attempt(lambda: self._encode(item)))
        self.stage_input("frames", self.hand_over, messages.frames_from_msg)
        self.monitor.show(weights="trained" if self._encoder.trained else "untrained", preset=self.values.preset)
        self.monitor.show(runtime=f"torch: {fallback}" if fallback else self.values.runtime)
        if fallback:
            self.get_logger().warning(f"runtime {self.values.runtime}: torch computes instead: {fallback}")
        for warning in self._encoder.warnings:
            self.get_logger().warning(warning)

    def stopped(self) -> None:
        """Drop the waiting frame set and the encoder's memory."""
        self._worker.discard()
        self._encoder.reset()

    def teardown(self) -> None:
        """Stop the worker and free the model."""
        if self._worker is not None:
            self._worker.stop()
            del self._worker, self._encoder

    @contextlib.contextmanager
    def _requesting_next(self, stamp: int) -> Iterator[None]:
        """Request the next set once: after REQUEST_AFTER of the usual time, or at the end of the block if earlier."""
        requested = threading.Lock()

        def request() -> None:
            if requested.acquire(blocking=False):
                self._ready.publish(stamp)

        timer = threading.Timer(REQUEST_AFTER * self._mean_encode_s, request)
        timer.daemon = True
        timer.start()
        began = time.monotonic()
        try:
            yield
        finally:
            timer.cancel()
            request()
            # Smoothed: one slow set must not delay the next request by much.
            self._mean_encode_s += 0.3 * (time.monotonic() - began - self._mean_encode_s)

    def _encode(self, item: Item) -> None:
        began = time.monotonic()
        frames: CameraFrames = item()
        with self._requesting_next(frames.stamp):
            queries = self._encoder.encode(frames)
        queries = replace(queries, trace=(*frames.trace, event(self.get_name(), "encoded")))
        if not self.active:
            return
        self._queries.publish(queries)
        latency = time.monotonic() - began
        self._show(queries)
        if self._encoder.traffic_light_head is not None:
            light = queries.traffic_light
            self.monitor.show(traffic_light=f"{light.colour}, {light.distance:.0f} m" if light else "none")
        reasons = tuple(f"missing_camera:{name}" for name in queries.missing)
        if not queries.trained:
            reasons += ("untrained_weights",)
        self.monitor.finished(latency, reasons)

    def _show(self, queries: SceneQueries) -> None:
        due, frame = self._marker_throttle.due(), queries.ego.base_frame
        if due and self._legend.get_subscription_count():
            self._legend.publish(markers.class_legend(self.values.palette, queries.stamp, frame))
        wants_markers = due and self._markers.get_subscription_count() > 0
        wants_points = self._points.get_subscription_count() > 0
        wanted = [p for p in (self._obstacles, self._grid, self._costmap) if p.get_subscription_count()]
        if not (wants_markers or wants_points or wanted):
            return
        voxels = occupied_voxels(queries, self._encoder.grid, self._encoder.config)
        palette = PALETTES[self.values.palette]
        self.monitor.show(voxels=len(voxels))
        if wants_points:
            self._points.publish(messages.cloud_to_msg([(0.0, voxels)], queries.stamp, palette, frame))
        if self._obstacles in wanted:
            kept = np.isin(voxels.labels, OBSTACLES)
            standing = SparseVoxels(voxels.indices[kept], voxels.labels[kept], voxels.scores[kept], voxels.grid)
            self._obstacles.publish(messages.cloud_to_msg([(0.0, standing)], queries.stamp, palette, frame))
        for publisher, costs in ((self._grid, messages.GRID_COSTS), (self._costmap, messages.SEMANTIC_COSTS)):
            if publisher in wanted:
                publisher.publish(messages.grid_to_msg(voxels, queries.stamp, frame, costs))
        if wants_markers:
            limit = self.values.marker_limit
            self._markers.publish(
                markers.cubes(voxels, queries.stamp, "occupancy", limit, palette=palette, frame=frame)
            )


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run sparseoccvla_ros occupancy`."""
    return run(OccupancyNode, args=args)


if __name__ == "__main__":
    sys.exit(main())
