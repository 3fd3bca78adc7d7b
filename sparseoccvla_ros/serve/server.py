"""The process behind `./run serve egodriver`."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Literal

from ..core.errors import InvalidInput
from ..pipeline import SparseOccVLA

log = logging.getLogger(__name__)


def serve_egodriver(
    preset: str, runtime: Literal["alpasim", "carla"], host: str, port: int, device: str, period: float
) -> None:
    """Serve the driver contract until SIGINT or SIGTERM.

    Args:
        preset: Name or folder of the preset.
        runtime: Client, AlpaSim or autoware_carla_scenario: they fill the contract's opaque fields differently.
        host: Address, or unix:///PATH.
        port: 0 picks a free port, which is logged.
        device: auto, cpu or cuda.
        period: Simulated seconds between two plans.

    Raises:
        InvalidInput: The packages of requirements/serve.txt are missing, or the preset cannot drive.
    """
    try:
        from carla_driver_interface.server import bind_address, build_server

        from .egodriver import EgoDriver
    except ImportError:
        raise InvalidInput("serve", "needs carla-driver-interface and grpcio: requirements/serve.txt") from None
    driver = EgoDriver(SparseOccVLA.from_preset(preset, device=device, reason_behind=True), period)
    server, bound = build_server(driver, port, host, mode=runtime)
    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    server.start()
    log.info("preset %s drives for %s at %s", preset, runtime, bind_address(host, bound))
    ended.wait()
    server.stop(grace=1.0).wait()
