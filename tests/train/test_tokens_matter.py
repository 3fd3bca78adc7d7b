"""Answers come from the occupancy tokens: after a few minutes of training, another scene's tokens answer worse.

It renders the scenes that the cache lacks (a quarter of an hour for all of them on two cores) and trains the bridge
for four minutes, so it runs on request only: SPARSEOCCVLA_LONG_TESTS=1 ./run test tests/train/test_tokens_matter.py

It does not pass yet: with 120 scenes 47.9 % of the answers are right, with another scene's tokens 43.9 %. The shipped
bridge has seen 350 scenes for half an hour; of it `./run eval world` says 62.6 against 32.9 % on the test seeds.
"""

from __future__ import annotations

import os

import pytest
import torch

from sparseoccvla_ros.data.future_labels import FutureLabels
from sparseoccvla_ros.data.question_cache import QuestionCache
from sparseoccvla_ros.data.scene_features import QUERY_FIELDS, prepare_features
from sparseoccvla_ros.data.world_cache import prepare_scenes
from sparseoccvla_ros.data.world_samples import SPLITS
from sparseoccvla_ros.runtime.presets import load_preset
from sparseoccvla_ros.train import later
from sparseoccvla_ros.train.language_stage import LanguageStage, LanguageStageSettings
from sparseoccvla_ros.train.reader import start_with_answers

SCENES = {"train": 120, "validation": 10}
STEPS = 700
"""About four minutes on two cores."""
ASKED = 24
"""Closed questions per moment, which is all: those on what to do as well as those on what there is."""
BETTER = 0.10
"""Share of right answers by which the own tokens must be ahead of another scene's; of 350 questions, so that the
standard error of the difference is about 0.03."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get("SPARSEOCCVLA_LONG_TESTS"), reason="trains for minutes: SPARSEOCCVLA_LONG_TESTS")
def test_shuffled_tokens_answer_worse() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    preset = load_preset("tiny")
    network, file = later.frozen_encoder(preset, None, "cpu")
    for split, count in SCENES.items():
        cache, seeds = later.feature_cache(network, file, preset, split), SPLITS[split][:count]
        for _ in prepare_scenes(seeds, cache.world, workers=2):
            pass
        for _ in prepare_features(network, cache, seeds):
            pass
        asked = QuestionCache(cache.world, FutureLabels(cache.world, present=False).rows)
        for seed in seeds:
            asked.prepare(seed)
    sources = later.world_sources(network, file, preset, SCENES["train"], SCENES["validation"])
    learned, held_out = (
        source.samples(QUERY_FIELDS, source.asked, source.questions)
        for source in (sources["train"], sources["validation"])
    )
    # The language model can speak already (the preset's adapters, frozen); the bridge starts from its seed.
    reasoner, parts = later.reasoner_of(preset, None)
    assert parts == ()
    reasoner.load_adapter(preset.weights["adapter"], merge=False)
    stage = LanguageStage(reasoner, settings=LanguageStageSettings(asked=ASKED))
    batches = [stage.collate([held_out[i] for i in range(len(held_out))])]

    untrained = stage.eval().validate(batches).numbers
    start_with_answers(reasoner, learned, seed=1, steps=STEPS)
    trained = stage.eval().validate(batches).numbers

    print(untrained, trained, sep="\n")
    assert trained["questions"] >= 300
    assert trained["accuracy"] > trained["accuracy_shuffled"] + BETTER
    assert trained["accuracy"] > untrained["accuracy"] + BETTER
    assert abs(untrained["accuracy"] - untrained["accuracy_shuffled"]) < BETTER
