"""Statistics of the nuScenes training split for baselines without a camera."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...core.classes import FREE
from ...core.errors import InvalidInput
from ...core.voxels import OCC3D_GRID
from ...data.nuscenes.index import NuscenesIndex
from ...data.nuscenes.labels import load_occ3d, occ3d_file
from ...data.nuscenes.omnidrive import read_questions
from ...planning.ego_history import FEATURE_NAMES
from ..metrics.qa_accuracy import KINDS
from ..tasks.captions import captions_of
from ..tasks.priors import TrainingPriors

READ = 200
"""Number of training samples, evenly spread, from which labels and answers are read."""
_VELOCITY = FEATURE_NAMES.index("has_velocity")


def known(
    root: Path,
    index: NuscenesIndex,
    labels: Path | None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingPriors | None:
    """Returns the statistics of the split "train", or None if the version has none. labels: Occ3D folder or None."""
    try:
        rows = index.rows("train")
    except InvalidInput:
        return None
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, READ).round().astype(int))]
    votes = np.zeros((FREE + 1, int(np.prod(OCC3D_GRID.shape))), np.uint16)
    every, labelled, questioned = np.arange(votes.shape[1]), 0, 0
    answers: dict[str, Counter[str]] = {}
    for done, row in enumerate(chosen.tolist()):
        on_progress(done, len(chosen))
        token = str(index.token[row])
        file = None if labels is None else labels / occ3d_file(str(index.scene_name[index.scene[row]]), token)
        if file is not None and file.is_file():
            votes[load_occ3d(file).semantics.ravel(), every] += 1
            labelled += 1
        asked = read_questions(root, "train", token)
        questioned += bool(asked)
        for question in (*(q for q in asked if q.kind in KINDS), *captions_of(asked)):
            answers.setdefault(question.key, Counter())[question.answer] += 1
    on_progress(len(chosen), len(chosen))
    usable = rows[index.future_mask[rows].all(1) & (index.features[rows, _VELOCITY] > 0)]
    prior = votes.argmax(0).astype(np.uint8).reshape(OCC3D_GRID.shape) if labelled else None
    source = (
        f"the training split of {index.version}: ego motion of {len(usable)} samples, labels of {labelled}, answers of "
        f"{questioned}, no image"
    )
    truth = np.ascontiguousarray(index.future[usable][:, :, :2, 3])
    return TrainingPriors(source, prior, index.features[usable], truth, answers)
