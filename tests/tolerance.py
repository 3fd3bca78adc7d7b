"""How far two processors may differ: tolerances follow from what is added up, not from one machine.

Vector units of another width add in another order, and fuse multiply and add or do not. The rounding errors of n
operations then add up like a random walk: to about sqrt(n) units in the last place of the largest value (Higham and
Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

CONFIDENCE = 5.0
"""Lambda of the theorem, in standard deviations: with 5, rounding exceeds it once in a million results."""


def rounding(*values: Any, terms: int, dtype: type = np.float32) -> float:
    """The absolute difference that rounding alone explains.

    Args:
        values: arrays or numbers as large as what is computed; where large terms cancel, name those too.
        terms: operations between input and result, one after another: the products of a sum times the layers.
        dtype: the type that was computed in.
    """
    size = max(float(np.abs(np.asarray(value)).max()) for value in values)
    return CONFIDENCE * math.sqrt(terms) * float(np.finfo(dtype).eps) * size


def decoder_operations(config: Any) -> int:
    """Operations of an occupancy decoder in a row: per layer ten sums over the channels and one over the hidden."""
    return len(config.points_per_layer) * (10 * config.embed_dims + config.ffn_dims)
