"""Pretraining of the connector: its tokens approximate word embeddings for a query's class, direction and distance.

Stage 2 teaches two things at once: the meaning of a token, and answering from it. The first needs no forward pass of
the language model, because each query's class and position are known, and so are the embeddings of the words for them.
Before stage 2 the connector is therefore regressed to the mean embedding of its query's words ("car", "front left",
"10 m"), at hundreds of queries per millisecond instead of a few answers per second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ...core.classes import CLASSES, FLAT, NUM_CLASSES
from ...core.errors import InvalidInput
from ...reasoning.llm.language_model import LanguageModel
from ...reasoning.model.connector import Connector
from ..features.dataset import FeatureSample

DIRECTIONS = ("front", "front left", "left", "back left", "back", "back right", "right", "front right")
"""45-degree sectors, the first centred straight ahead; names as in the questions."""
METRES = (5, 10, 15, 20, 25, 30, 40)
_MOST, _BATCH_SIZE, _LEARNING_RATE, _GROUND = 100_000, 1024, 1e-3, 0.3


def words_of(labels: np.ndarray, scores: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns each query's class, direction and distance: int64 [..., 3], indices into CLASSES, DIRECTIONS, METRES.

    labels uint8 [..., R], scores float32 [..., R] of a query's points, whose class with the largest summed score is
    the query's; centres float32 [..., 3] m, base_link.
    """
    votes = np.stack([np.where(labels == c, scores, 0.0).sum(-1) for c in range(NUM_CLASSES)], -1)
    sector = np.round(np.arctan2(centres[..., 1], centres[..., 0]) / (np.pi / 4)).astype(np.int64) % len(DIRECTIONS)
    away = np.linalg.norm(centres[..., :2], axis=-1)
    return np.stack([votes.argmax(-1), sector, np.abs(away[..., None] - METRES).argmin(-1)], -1)


class WordTable:
    """Target tokens: mean word embeddings, normalised to the scale of the connector's tokens."""

    def __init__(self, model: LanguageModel) -> None:
        def mean(texts: Iterator[str]) -> Tensor:
            ids = [model.tokens(" " + text) for text in texts]
            return torch.stack([model.embedding_weight.detach()[row].float().mean(0) for row in ids])

        self._tables = (
            mean(name.replace("_", " ") for name in CLASSES), mean(iter(DIRECTIONS)), mean(f"{m} m" for m in METRES)
        )  # fmt: skip
        self._size = float(model.embedding_weight.detach().float().pow(2).mean().sqrt())

    def tokens(self, words: Tensor) -> Tensor:
        """Returns target tokens float32 [..., D] of words int64 [..., 3] from `words_of`."""
        total = torch.stack([table[words[..., k]] for k, table in enumerate(self._tables)]).sum(0)
        return total * (self._size / total.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-8))


def pretrain_connector(
    connector: Connector, model: LanguageModel, data: Sequence[FeatureSample], seed: int, steps: int = 400
) -> float:
    """Regress a connector's tokens to their queries' words; returns their mean cosine similarity at the end.

    data: samples with features, centres, labels and scores. The learning rate falls linearly to 0; ground queries, the
    majority, have a lower weight. Raises InvalidInput("steps") below 1.
    """
    if steps < 1:
        raise InvalidInput("steps", f"want at least 1, got {steps}")
    rng = np.random.default_rng([seed, 31])
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for index in rng.permutation(len(data)):
        found = data[int(index)].arrays
        words = words_of(found["labels"], found["scores"], found["centres"])
        for part, rows in zip(parts, (found["features"], found["centres"], words), strict=True):
            part.append(rows)
        if sum(map(len, parts[0])) >= _MOST:
            break
    features, centres, words = (torch.from_numpy(np.concatenate(part)) for part in parts)
    device = next(connector.parameters()).device
    table = WordTable(model)
    weight = torch.where(torch.isin(words[:, 0], torch.tensor(FLAT)), _GROUND, 1.0)
    optimizer = torch.optim.AdamW(connector.parameters(), _LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    close = 0.0
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.from_numpy(rng.integers(len(features), size=_BATCH_SIZE))
            target = table.tokens(words[rows].to(model.device)).to(device)
            token = connector(features[rows].to(device), centres[rows].to(device))
            cosine = torch.cosine_similarity(token, target, dim=-1)
            size = (token.pow(2).mean(-1).sqrt() / target.pow(2).mean(-1).sqrt() - 1).square()
            loss = (weight[rows].to(device) * (1 - cosine + size)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            close = 0.98 * close + 0.02 * float(cosine.detach().mean()) if close else float(cosine.detach().mean())
    return close
