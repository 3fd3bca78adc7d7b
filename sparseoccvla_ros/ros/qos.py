"""The named QoS profiles; no other module of the package builds a QoSProfile."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(depth: int, reliable: bool, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


PROFILES: dict[str, QoSProfile] = {
    # Best effort matches reliable and best-effort publishers alike, so every camera driver and bag connects.
    "sensor": _profile(5, reliable=False),
    # Between stages only the newest message matters.
    "newest": _profile(1, reliable=True),
    "output": _profile(10, reliable=True),
    # As in tf2: deep enough to lose nothing in a burst at the start of a bag.
    "transforms": _profile(100, reliable=False),
    "latched": _profile(100, reliable=True, latched=True),
    # As map_server offers and Nav2's static layer requests: late subscribers get the last message.
    "map": _profile(1, reliable=True, latched=True),
}
