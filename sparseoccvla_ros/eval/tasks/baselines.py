"""Planning baselines on the same samples: standing still, coasting, and oracles over anchors and candidates.

The coasting ones use only the causal ego features of planning.ego_history; without a known velocity the prediction is
missing.
"""

from __future__ import annotations

import numpy as np

from ...core.errors import InvalidInput
from ...core.types import STEPS, WAYPOINT_TIMES
from ...planning.ego_history import FEATURE_NAMES
from .planning_samples import Method, Prediction, Sample

_VELOCITY = [FEATURE_NAMES.index(name) for name in ("vx", "vy", "yaw_rate")]
_KNOWN = FEATURE_NAMES.index("has_velocity")


def coast(velocity: np.ndarray, yaw_rate: float) -> np.ndarray:
    """Returns waypoints float64 [6, 2] m at constant velocity [2] m/s in the vehicle's frame and yaw rate rad/s."""
    angle = yaw_rate * WAYPOINT_TIMES
    # sin(a)/a and (1 - cos(a))/a in forms that are smooth at a = 0
    along = WAYPOINT_TIMES * np.sinc(angle / np.pi)
    across = WAYPOINT_TIMES * np.sinc(angle / (2 * np.pi)) * np.sin(angle / 2)
    vx, vy = velocity
    return np.stack([vx * along - vy * across, vx * across + vy * along], -1)


def _coasting(sample: Sample, turning: bool) -> Prediction:
    features = sample.ego_features.astype(np.float64)
    if features[_KNOWN] == 0:
        return Prediction(None, reason="velocity unknown")
    vx, vy, yaw_rate = features[_VELOCITY]
    return Prediction(coast(np.array([vx, vy]), yaw_rate if turning else 0.0))


STATIONARY = Method("stationary", lambda sample: Prediction(np.zeros((STEPS, 2))), about="stays where it is")
CONSTANT_VELOCITY = Method(
    "constant velocity", lambda sample: _coasting(sample, turning=False), about="present velocity, straight on"
)
CONSTANT_TURN_RATE = Method(
    "constant turn rate", lambda sample: _coasting(sample, turning=True), about="present velocity and yaw rate"
)
BASELINES: tuple[Method, ...] = (STATIONARY, CONSTANT_VELOCITY, CONSTANT_TURN_RATE)
"""Without the ego-only MLP (ego_mlp.py), which needs fitting."""


def closest(candidates: np.ndarray, sample: Sample) -> int:
    """Returns the index of the candidate [K, 6, 2] m with the least mean distance to the truth over valid steps."""
    if candidates.ndim != 3 or candidates.shape[1:] != (STEPS, 2) or len(candidates) == 0:
        raise InvalidInput("candidates", f"want [1.., {STEPS}, 2], got {list(candidates.shape)}")
    error = np.linalg.norm(candidates - sample.truth, axis=-1) * sample.mask
    return int(error.sum(1).argmin())


def anchor_oracle(anchors: np.ndarray) -> Method:
    """Returns an oracle that takes the anchor [K, 6, 2] m nearest to the truth: the error of the anchor set itself."""

    def predict(sample: Sample) -> Prediction:
        best = closest(anchors, sample)
        return Prediction(anchors[best], chosen=best)

    return Method("nearest anchor", predict, oracle=True, about=f"of {len(anchors)} anchors the one nearest the truth")


def best_of(name: str, candidates: dict[str, np.ndarray]) -> Method:
    """Returns an oracle that takes a method's best candidate [K, 6, 2] m, by token: the error without its scoring."""

    def predict(sample: Sample) -> Prediction | None:
        found = candidates.get(sample.token)
        if found is None or len(found) == 0:
            return None
        best = closest(found, sample)
        return Prediction(found[best], chosen=best)

    return Method(f"best candidate of {name}", predict, oracle=True, about="the candidate nearest the truth")
