"""Question templates of the random model, and the text format of positions and trajectories.

The templates of prompts.yaml only train the tokenizer of the tests' random model (llm/dummy_llm.py). A preset
does not use them: its prompts are system_prompt, scene_prompt and scoring_prompt of config.py, put into the language
model's chat template by `LanguageModel.prompt_parts`; the questions it is trained on are in world/qa/questions.yaml.

Families follow OmniDrive (Wang et al., CVPR 2025): description, attention, conversation, keywords, action,
counterfactual and planning. A trajectory in text is `[PT, (+x.xx, +y.yy), ...]`: metres, base_link, 0.5 s apart. A
position is one such pair, or outside a trajectory three numbers including the height.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import numpy as np
import yaml

from ..core.errors import InvalidInput

FORMAT_VERSION = 1
ACTION = "Name the next driving action in a few words."
"""Question whose reading token is added to the reasoning token (config.token_reads); its answers are trained on."""


@lru_cache(maxsize=1)
def templates() -> dict[str, tuple[str, ...]]:
    """Loads the question templates per family from prompts.yaml."""
    data = yaml.safe_load(files(__package__).joinpath("prompts.yaml").read_text(encoding="utf-8"))
    if data["format_version"] != FORMAT_VERSION:
        raise InvalidInput("prompts.format_version", f"want {FORMAT_VERSION}, got {data['format_version']!r}")
    families = {family: tuple(texts) for family, texts in data["families"].items()}
    for family, texts in families.items():
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InvalidInput(f"prompts.families.{family}", "want a list of strings")
    return families


def trajectory_text(waypoints: np.ndarray) -> str:
    """Formats waypoints [S, 2] m in base_link as `[PT, (+1.00, +0.00), ...]`.

    Two decimals with a sign; values within 0.01 m of zero are written as +0.00 (OmniDrive writes 0.0).
    """
    points = np.asarray(waypoints, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InvalidInput("waypoints", f"want finite [S, 2], got {list(points.shape)}")
    near_zero = np.where(np.abs(points) <= 0.01, 0.0, points)
    return "[PT, " + ", ".join(f"({x:+.2f}, {y:+.2f})" for x, y in near_zero) + "]"
