"""What training drives tell without a camera: the baselines that a network has to beat are made of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class TrainingPriors:
    """source: where it comes from, in words; prior: uint8 [X, Y, Z], most frequent label of each voxel, 17 = free, None
    without labels; features float32 [N, F] and truth float64 [N, 6, 2] m: causal ego features and where the car went;
    answers: how often each answer was given, by question key."""

    source: str
    prior: np.ndarray | None
    features: np.ndarray
    truth: np.ndarray
    answers: dict[str, Counter[str]]

    def answer(self, key: str) -> str:
        """The usual answer to a question, of its template where the question itself never came up; "" if neither."""
        if key in self.answers:
            return self.answers[key].most_common(1)[0][0]
        alike: Counter[str] = Counter()
        for other, counts in self.answers.items():
            if other.split("/")[0] == key.split("/")[0]:
                alike.update(counts)
        return alike.most_common(1)[0][0] if alike else ""
