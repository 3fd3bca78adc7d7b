"""Cache of questions and answers about rendered frame sets, generated once per seed; see world/qa/questions.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from ...core.errors import InvalidInput
from ...core.files import written
from ...core.paths import cache_folder
from ...world.qa.questions import questions
from ...world.qa.scene_relations import SceneView
from ...world.scene import Scene
from .scenes import WORLD_VERSION, WorldSettings, load_scene, rig_of


@dataclass(frozen=True)
class QaPair:
    """A question, its answer, and its kind (world.qa.questions.KINDS)."""

    question: str
    answer: str
    kind: str


FORMAT_VERSION = 2
_SOURCES = ("questions.py", "questions.yaml", "balance.yaml", "counterfactuals.py", "scene_relations.py")
"""Files in world/qa that determine the questions and answers; their content is part of the cache key."""


def question_rows(world: WorldSettings, split: str) -> tuple[int, ...]:
    """Frame sets that questions are about: the last of each clip, in training also the one before it."""
    last = world.sets - 1
    return tuple(
        clip * world.sets + place
        for clip in range(world.clips)
        for place in range(max(0, last - (split == "train")), world.sets)
    )


class QuestionCache:
    """Cached questions about the frame sets `rows` of rendered scenes, limited to what each scene's rig shows."""

    def __init__(self, world: WorldSettings, rows: Sequence[int]) -> None:
        self.world, self.rows = world, tuple(rows)
        digest = hashlib.sha256(json.dumps([FORMAT_VERSION, WORLD_VERSION, world.key, self.rows]).encode())
        for name in _SOURCES:
            digest.update(files("sparseoccvla_ros.world.qa").joinpath(name).read_bytes())
        self._folder = cache_folder() / "questions" / digest.hexdigest()[:12]

    def file(self, seed: int) -> Path:
        """Path of a seed's cached questions."""
        return self._folder / f"{seed:08d}.json"

    def prepare(self, seed: int, scene: Scene | None = None) -> None:
        """Generate and cache a seed's questions unless cached; renders its clips if needed. scene: of the seed."""
        path = self.file(seed)
        if path.is_file():
            return
        times = load_scene(seed, self.world).time[list(self.rows)]
        scene, rig = scene or Scene.generate(seed, self.world.seconds), rig_of(seed, self.world)
        sets = [
            [asdict(QaPair(q.question, q.answer, q.kind)) for q in questions(SceneView(scene, float(time), rig))]
            for time in times
        ]
        with written(path) as part:
            part.write_text(json.dumps(sets, ensure_ascii=False), encoding="utf-8")

    def read(self, seed: int) -> dict[str, np.ndarray] | None:
        """Returns {"questions": object array [rows], each a list of QaPair}, or None if the seed is not cached."""
        path = self.file(seed)
        if not path.is_file():
            return None
        try:
            sets = [[QaPair(**entry) for entry in row] for row in json.loads(path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError) as error:
            raise InvalidInput("cache", f"{path} cannot be read ({error}); delete it") from None
        out = np.empty(len(sets), object)
        out[:] = sets
        return {"questions": out}
