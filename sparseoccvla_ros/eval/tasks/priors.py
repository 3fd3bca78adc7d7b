"""Statistics of training drives, from which the baselines without a camera are built."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class TrainingPriors:
    """source: description of the origin; prior: uint8 [X, Y, Z], most frequent label of each voxel, 17 = free, None
    without labels; features float32 [N, F], truth float64 [N, 6, 2] m: causal ego features and driven waypoints;
    answers: counts of answers by question key."""

    source: str
    prior: np.ndarray | None
    features: np.ndarray
    truth: np.ndarray
    answers: dict[str, Counter[str]]

    def answer(self, key: str) -> str:
        """Returns the most frequent answer to a question, falling back to its template; "" if both are unknown."""
        if key in self.answers:
            return self.answers[key].most_common(1)[0][0]
        alike: Counter[str] = Counter()
        for other, counts in self.answers.items():
            if other.split("/")[0] == key.split("/")[0]:
                alike.update(counts)
        return alike.most_common(1)[0][0] if alike else ""
