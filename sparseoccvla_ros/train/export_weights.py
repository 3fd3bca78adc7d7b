"""Installing trained weights into a preset: conversion to float16, and their digest in config.yaml."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..core.errors import InvalidInput
from ..core.files import file_sha256, written
from ..eval.world.seeds import seed_range
from ..runtime.presets import ADAPTER, STAGES, load_preset

_WEIGHTS = (*STAGES, ADAPTER)
_SECTION = re.compile(r"^weights:.*\n(?:[ \t]+.*\n)*", re.MULTILINE)


def ship(source: Path, folder: Path, stage: str, train_seeds: str | None = None) -> Path:
    """Install exported weights in a preset as those of `stage` (or "adapter", after its reasoning); returns the file.

    source: safetensors file written by Stage.export; folder: of the preset. Matrices and kernels become float16, which
    halves the file; vectors (biases, norms and their statistics) keep their dtype. train_seeds: A:B, the range of world
    seeds used in training, about which the evaluation warns; None means the whole training split. Raises InvalidInput
    if the file cannot be read, belongs to another stage, or contains a number outside the range of float16.
    """
    if stage not in _WEIGHTS:
        raise InvalidInput("stage", f"{stage!r} is not one of {', '.join(_WEIGHTS)}")
    try:
        with safe_open(source, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise InvalidInput("weights", f"{source} cannot be read: {error}") from None
    if train_seeds is not None:
        seed_range(train_seeds)
        metadata["train_seeds"] = train_seeds
    if metadata.get("stage", stage) != stage:
        raise InvalidInput("weights", f"{source} holds weights of {metadata['stage']}, not of {stage}")
    for name, value in tensors.items():
        if value.is_floating_point() and value.ndim > 1:
            tensors[name] = value.half()
            if not bool(tensors[name].isfinite().all()):
                raise InvalidInput("weights", f"{name} does not fit into float16")
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    target = folder / f"{stage}.safetensors"
    with written(target) as part:
        save_file(tensors, part, metadata)
        part.chmod(0o644)
        entries = yaml.safe_load(text).get("weights") or {}
        entries[stage] = {"file": target.name, "sha256": file_sha256(part)}
        section = yaml.safe_dump({"weights": {s: entries[s] for s in _WEIGHTS if s in entries}}, sort_keys=False)
        changed, count = _SECTION.subn(lambda _: section, text, count=1)
        if not count:
            changed = text.rstrip("\n") + "\n" + section
    config.write_text(changed, encoding="utf-8")
    load_preset(str(folder))
    return target
