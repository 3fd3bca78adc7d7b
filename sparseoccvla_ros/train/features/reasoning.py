"""Cached reasoning features: a frozen reasoner's token, anchor scores and occupancy tokens for cached queries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...core.paths import cache_folder
from ...reasoning.model.connector import ranking_scores
from ...reasoning.model.ego_motion import constant_velocity
from ...reasoning.model.reasoner import Reasoner
from .nuscenes import NuscenesFeatures
from .rollouts import RolloutFeatures
from .synthetic import FeatureCache, file_digest, read_arrays, write_arrays

if TYPE_CHECKING:  # a training server lacks the bag library
    from .bags import BagFeatures

FORMAT_VERSION = 2
FIELDS = ("token", "anchor_scores", "occupancy", "chosen")
_INPUTS = ("features", "centres", "scores", "view_features")


class ReasoningFeatures:
    """Cache of a reasoner's output on an encoder's features. weights: files of the reasoner, adapter included."""

    def __init__(
        self, features: FeatureCache | RolloutFeatures | NuscenesFeatures | BagFeatures, weights: Sequence[Path]
    ) -> None:
        self.features = features
        text = json.dumps([FORMAT_VERSION, features.key, *(file_digest(path) for path in weights)])
        self._folder = cache_folder() / "readings" / hashlib.sha256(text.encode()).hexdigest()[:12]

    def file(self, seed: int) -> Path:
        """Returns the file of a scene."""
        return self._folder / f"{seed:08d}.safetensors"

    @torch.inference_mode()
    def prepare(self, reasoner: Reasoner, seed: int, rows: Sequence[int] | None = None) -> None:
        """Run the reasoner on a scene whose features are cached, one prefill per frame set, and write its output.

        token float16 [S, D]; anchor_scores float32 [S, A]; occupancy float16 [S, K, D]; chosen int16 [S, K]. rows: the
        frame sets to process, all if None; for the others the token is NaN (missing reasoning) and the rest 0.
        """
        if self.file(seed).is_file():
            return
        arrays = read_arrays(self.features.file(seed), (*_INPUTS, "labels", "twist"))
        device = reasoner.anchors.device
        wanted = list(range(len(arrays["twist"]))) if rows is None else list(rows)
        inputs = {name: torch.from_numpy(arrays[name][wanted].astype(np.float32)).to(device) for name in _INPUTS}
        # Ranked as online and in stage 2; otherwise other queries would become tokens.
        labels = torch.from_numpy(arrays["labels"][wanted]).to(device)
        inputs["scores"] = ranking_scores(inputs["scores"], labels, reasoner.config.ground_score)
        motion = torch.from_numpy(np.stack([constant_velocity(t) for t in arrays["twist"][wanted]])).to(device)
        read = reasoner(*inputs.values(), motion)
        out = {
            "token": read.token.half(), "anchor_scores": read.anchor_logits.float(),
            "occupancy": read.occupancy.half(), "chosen": read.chosen.short(),
        }  # fmt: skip
        whole = {}
        for name, value in out.items():
            found = value.cpu().numpy()
            nothing = np.nan if name == "token" else 0
            whole[name] = np.full((len(arrays["twist"]), *found.shape[1:]), nothing, found.dtype)
            whole[name][wanted] = found
        write_arrays(self.file(seed), whole, {"seed": str(seed)})

    def read(self, seed: int, fields: Sequence[str], rows: Sequence[int] | None = None) -> dict[str, np.ndarray] | None:
        """Reads some FIELDS of a scene, for all frame sets or `rows`; returns None if they are not cached."""
        if not self.file(seed).is_file():
            return None
        arrays = read_arrays(self.file(seed), fields)
        return arrays if rows is None else {k: v[list(rows)] for k, v in arrays.items()}
