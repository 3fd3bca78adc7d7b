"""Comfort of a drive: NAVSIM's C, HC and two-frame EC from Savitzky-Golay traces.

Follows navsim `pdm_comfort_metrics`, including its windows and the shift of HC's acceleration to the centre.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import savgol_filter

from .vehicle import AX, AY, DT, HEADING, PACIFICA, STEER_RATE, YAW_ACC, YAW_RATE, Vehicle

LIMITS = np.array([[-4.05, 2.40], [-4.89, 4.89], [-8.37, 8.37], [-4.13, 4.13], [-1.93, 1.93], [-0.95, 0.95]])
"""Longitudinal and lateral acceleration m/s^2, jerk and longitudinal jerk m/s^3, yaw acceleration rad/s^2, yaw rate."""
TWO_FRAME_LIMITS = np.array([0.7, 0.5, 0.1, 0.1])
"""Limits on the RMS differences of acceleration, jerk, yaw rate and yaw acceleration."""
_INNER = 8


def smooth(values: np.ndarray, window: int, order: int = 2, derivative: int = 0) -> np.ndarray:
    """Savitzky-Golay filter along the last axis (0.1 s steps), polynomial edges, 8 decimals; derivative per s^n."""
    window = min(window, values.shape[-1])
    return np.round(savgol_filter(values, window, order, deriv=derivative, delta=DT, mode="interp"), 8)


def _traces(states: np.ndarray, longitudinal: np.ndarray, window: int, jerk_window: int) -> np.ndarray:
    heading = np.unwrap(states[..., HEADING], axis=-1)
    magnitude = np.hypot(states[..., AX], states[..., AY])
    return np.stack(
        [
            smooth(longitudinal, window),
            smooth(states[..., AY], window),
            smooth(smooth(magnitude, _INNER), jerk_window, 2, 1),
            smooth(smooth(longitudinal, _INNER), jerk_window, 2, 1),
            smooth(heading, 5, 3, 2),
            smooth(heading, 5, 2, 1),
        ],
        -2,
    )


def traces_v1(states: np.ndarray) -> np.ndarray:
    """Computes the six quantities of LIMITS [..., 6, T] from states [..., T, 11], as in PDMS."""
    count = states.shape[-2]
    return _traces(states, states[..., AX], count, count)


def traces_v2(states: np.ndarray, vehicle: Vehicle = PACIFICA) -> np.ndarray:
    """Computes the six quantities of LIMITS [..., 6, T] from states [..., T, 11] with history, as in EPDMS."""
    longitudinal = states[..., AX] + vehicle.centre * (states[..., YAW_RATE] ** 2 + states[..., YAW_ACC])
    return _traces(states, longitudinal, 8, 15)


def within(traces: np.ndarray) -> np.ndarray:
    """bool [..., 6]: which quantities stay strictly within LIMITS at every step."""
    return ((traces > LIMITS[:, :1]) & (traces < LIMITS[:, 1:])).all(-1)


def history_to_10hz(states: np.ndarray) -> np.ndarray:
    """Interpolates states [4, 11] at -1.5, -1, -0.5 and 0 s to [14, 11] at -1.5 .. -0.2 s (without -0.1 s)."""
    times, wanted = np.arange(-3, 1) * 0.5, np.arange(-15, -1) * DT
    columns = [np.unwrap(c) if i == HEADING else c for i, c in enumerate(states.T)]
    out = np.stack([np.interp(wanted, times, c) for c in columns], -1)
    out[:, HEADING] = (out[:, HEADING] + np.pi) % (2 * np.pi) - np.pi
    out[:, [STEER_RATE, YAW_RATE, YAW_ACC]] = 0.0
    return out


def two_frame_traces(heading: np.ndarray, ax: np.ndarray, ay: np.ndarray) -> np.ndarray:
    """Computes acceleration, jerk, yaw rate, yaw acceleration [4, T] of one drive from heading, ax, ay [T]."""
    heading, acceleration = np.unwrap(heading), smooth(np.hypot(ax, ay), 8)
    return np.stack([acceleration, smooth(acceleration, 15, 2, 1), smooth(heading, 5, 2, 1), smooth(heading, 5, 2, 2)])


def two_frame(now: np.ndarray, before: np.ndarray, seconds: float = 0.5) -> np.ndarray:
    """Computes the RMS differences [4] of two drives' traces over their common time.

    now, before: [T, 3] = heading, ax, ay; `now` begins `seconds` after `before`.
    """
    shift = round(seconds / DT)
    one = two_frame_traces(*now[: len(now) - shift].T)
    two = two_frame_traces(*before[shift:].T)
    return np.sqrt(np.mean((one - two) ** 2, -1))


def extended_comfort(now: np.ndarray, before: np.ndarray, seconds: float = 0.5) -> float:
    """EC of EPDMS, 1 or 0; arguments as in two_frame."""
    return float((two_frame(now, before, seconds) <= TWO_FRAME_LIMITS).all())
