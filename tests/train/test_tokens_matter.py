"""Answers come from the occupancy tokens: after minutes of training, another scene's tokens answer worse.

The bridge starts from its seed, under a language model that can speak already (the preset's adapters). It renders and
encodes what the cache lacks of the scenes, up to half a minute per scene on two cores, so it runs on request only:

    SPARSEOCCVLA_LONG_TESTS=1 ./run test tests/train/test_tokens_matter.py -s

Seen on two cores: 51.0 % of the answers right, 39.1 % with another scene's tokens. With 120 scenes and 700 steps of
reading it was 47.9 against 43.9: what is read of few scenes holds for those alone.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparseoccvla_ros.data.synthetic.dataset import SPLITS
from sparseoccvla_ros.data.synthetic.qa_cache import QuestionCache, question_rows
from sparseoccvla_ros.data.synthetic.scenes import prepare_scenes
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.train import build
from sparseoccvla_ros.train.features.synthetic import QUERY_FIELDS, prepare_features
from sparseoccvla_ros.train.settings import TrainSettings
from sparseoccvla_ros.train.stages.language import LanguageStage, LanguageStageSettings
from sparseoccvla_ros.train.trainer import Trainer

SEEDS = {"train": range(350), "validation": SPLITS["validation"][:20]}
"""Training seeds, and held-out ones: 350 and 20 scenes of three moments each."""
READER_STEPS, LANGUAGE_STEPS = 1500, 40
"""Seven and three minutes on two cores."""
ASKED = 24
"""Closed questions per moment, which is all: those on what to do as well as those on what there is."""
BETTER = 0.10
"""Share of right answers by which the own tokens must be ahead of another scene's. Of 708 questions the standard error
of that difference is about 0.02; saying what is usual is right as often as another scene's tokens are."""


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.skipif(not os.environ.get("SPARSEOCCVLA_LONG_TESTS"), reason="trains for minutes: SPARSEOCCVLA_LONG_TESTS")
def test_shuffled_tokens_answer_worse(tmp_path: Path) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    preset = load_preset("tiny")
    network, file = build.frozen_encoder(preset, None, "cpu")
    for split, seeds in SEEDS.items():
        cache = build.feature_cache(network, file, preset, split)
        for _ in prepare_scenes(seeds, cache.world, workers=2):
            pass
        for _ in prepare_features(network, cache, seeds):
            pass
        asked = QuestionCache(cache.world, question_rows(cache.world, split))
        for seed in seeds:
            asked.prepare(seed)
    sources = build.world_sources(network, file, preset, 1, 1)
    learned, held_out = (
        replace(sources[split], seeds=seeds).samples(QUERY_FIELDS, sources[split].asked, sources[split].questions)
        for split, seeds in SEEDS.items()
    )
    reasoner, parts = build.reasoner_of(preset, None)
    assert parts == ()
    reasoner.load_adapter(preset.weights["adapter"], merge=False)
    stage = LanguageStage(reasoner, settings=LanguageStageSettings(asked=ASKED, question_steps=READER_STEPS))
    settings = TrainSettings(steps=LANGUAGE_STEPS, warmup_steps=5)

    trained = Trainer(stage, learned, held_out, settings, tmp_path, augment=stage.augment, device="cpu").run()

    assert trained is not None
    numbers = trained.numbers
    print(numbers)
    assert numbers["questions"] >= 700
    assert numbers["accuracy"] > numbers["accuracy_shuffled"] + BETTER
