"""Logs of a training run: JSON lines, TensorBoard if installed, and pictures."""

from __future__ import annotations

import importlib
import json
import logging
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

log = logging.getLogger(__name__)


class RunLog:
    """Writes OUT/log.jsonl, OUT/tensorboard and OUT/pictures; appends to the logs of a resumed run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._board: Any = None
        try:
            self._board = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))
        except ImportError:
            log.info("tensorboard is not installed: only log.jsonl is written")

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Log the numbers of a step; kind: train or validation."""
        known = {k: (float(f"{v:.6g}") if math.isfinite(v) else None) for k, v in values.items()}
        self._lines.write(json.dumps({"kind": kind, "step": step, **known}) + "\n")
        self._lines.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, name: str, step: int, rgb: np.ndarray) -> Path:
        """Save an RGB image, uint8 [H, W, 3]; returns its path."""
        path = self._folder / "pictures" / f"{name}_{step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), rgb[..., ::-1])
        if self._board is not None:
            self._board.add_image(name, rgb, step, dataformats="HWC")
        return path

    def close(self) -> None:
        """Flush and close the files."""
        self._lines.close()
        if self._board is not None:
            self._board.close()
