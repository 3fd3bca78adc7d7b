"""Statistics of the world's training seeds for baselines without a camera.

Most frequent label per voxel, ego motion with its future, frequent answers. No image is rendered. The result is cached
under a hash of the seeds and the world's version.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...core.classes import FREE
from ...core.errors import InvalidInput
from ...core.files import written
from ...core.geometry import inverse
from ...core.paths import cache_folder
from ...core.types import NANOSECONDS, WAYPOINT_TIMES
from ...core.voxels import OCC3D_GRID
from ...data.synthetic.dataset import SPLITS
from ...data.synthetic.drives import START
from ...data.synthetic.scenes import WORLD_VERSION
from ...world.labels.occupancy import dense_labels
from ...world.qa.questions import balanced, templates
from ...world.qa.scene_relations import SceneView
from ...world.scene import Scene
from ..metrics.qa_accuracy import KINDS
from ..tasks.priors import TrainingPriors
from .drives import history_before

VERSION = 1
"""Version of the cached content; raise it when that changes."""
SEEDS = tuple(SPLITS["train"][:64])
LABELLED, ASKED, DRIVEN = 3, 2, 40
"""Number of moments per seed for labels, questions and ego motion."""
SECONDS = 20.0


def known(
    seeds: Sequence[int] = SEEDS, on_progress: Callable[[int, int], None] = lambda done, all_: None
) -> TrainingPriors:
    """Returns the statistics of seeds, from the cache or computed from the world (2 to 3 s per seed on one core).

    Raises InvalidInput("seeds") if empty or not all are training seeds.
    """
    foreign = [s for s in seeds if s not in SPLITS["train"]]
    if foreign or not seeds:
        raise InvalidInput("seeds", f"{foreign[:3]} are no training seeds" if foreign else "there are none")
    path = _file(tuple(seeds))
    if path.is_file():
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
            path.unlink(missing_ok=True)  # damaged: recomputed
    found = _observe(tuple(seeds), on_progress)
    _write(tuple(seeds), found, path)
    return found


def _file(seeds: tuple[int, ...]) -> Path:
    text = json.dumps([VERSION, WORLD_VERSION, SECONDS, LABELLED, ASKED, DRIVEN, seeds, _questions_key()])
    return cache_folder() / "world" / f"known-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"


@lru_cache(maxsize=1)
def _questions_key() -> str:
    return hashlib.sha256(json.dumps(templates(), sort_keys=True).encode()).hexdigest()


def _moments(seed: int, count: int, stream: int) -> np.ndarray:
    """Returns times float64 [count] s, evenly spread over the drive with an offset per seed."""
    offset = np.random.default_rng([seed, stream]).random()
    return np.round((np.arange(count) + offset) / count * SECONDS, 2)


def _observe(seeds: tuple[int, ...], on_progress: Callable[[int, int], None]) -> TrainingPriors:
    votes = np.zeros((FREE + 1, int(np.prod(OCC3D_GRID.shape))), np.uint16)
    every = np.arange(votes.shape[1])
    features, truth = [], []
    answers: dict[str, Counter[str]] = {}
    for done, seed in enumerate(seeds):
        on_progress(done, len(seeds))
        scene = Scene.generate(seed, SECONDS)
        for time in _moments(seed, LABELLED, 29):
            votes[dense_labels(scene, time, scene.ego.at(time)[0]).ravel(), every] += 1
        for time in _moments(seed, DRIVEN, 31):
            stamp = START + round(time * NANOSECONDS)
            back = inverse(scene.ego.at(time)[0])
            features.append(history_before(scene.ego, stamp).features(stamp))
            truth.append([(back @ scene.ego.at(time + ahead)[0])[:2, 3] for ahead in WAYPOINT_TIMES])
        for time in _moments(seed, ASKED, 37):
            for fact in balanced(SceneView(scene, time)):
                if templates()["questions"][fact.name]["kind"] in KINDS:
                    answers.setdefault(fact.key, Counter())[fact.answer] += 1
    on_progress(len(seeds), len(seeds))
    prior = votes.argmax(0).astype(np.uint8).reshape(OCC3D_GRID.shape)
    return TrainingPriors(_source(seeds), prior, np.stack(features), np.array(truth, np.float64), answers)


def _source(seeds: tuple[int, ...]) -> str:
    return f"{len(seeds)} training seeds ({seeds[0]}..{seeds[-1]}), no image"


def _write(seeds: tuple[int, ...], found: TrainingPriors, path: Path) -> None:
    """Writes the cache file atomically."""
    with written(path) as part, part.open("wb") as file:  # numpy would append .npz to a name
        np.savez_compressed(
            file, seeds=np.array(seeds), prior=found.prior, features=found.features, truth=found.truth,
            answers=np.array(json.dumps(found.answers, sort_keys=True)),
        )  # fmt: skip


def _read(path: Path) -> TrainingPriors:
    with np.load(path, allow_pickle=False) as stored:
        answers = {key: Counter(counts) for key, counts in json.loads(str(stored["answers"])).items()}
        seeds = tuple(int(s) for s in stored["seeds"])
        return TrainingPriors(_source(seeds), stored["prior"], stored["features"], stored["truth"], answers)
