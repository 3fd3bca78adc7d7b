"""The harness for the paper presets, at reduced size on the CPU."""

from sparseoccvla_ros.bench.hardware import run_pipeline, with_random_language
from sparseoccvla_ros.reasoning.llm import dummy_llm
from sparseoccvla_ros.runtime.presets import load_preset


def test_paper_presets_take_one_token_per_query():
    for name, queries in (("r50_300q", 300), ("r50_600q", 600)):
        preset = load_preset(name)
        assert preset.occupancy.queries == preset.reasoning.occupancy_tokens == queries
        assert preset.occupancy.backbone == "resnet50"
        assert (preset.image.height, preset.image.width) == (256, 704)
        assert preset.planning.reasoning_dims == 2048
        assert preset.reasoning.language_model == "internvl2-2b"
        assert with_random_language(preset, reduced=False).reasoning.language_model == dummy_llm.LARGE


def test_the_reduced_pipeline_plans_reasons_and_answers_at_once():
    preset = with_random_language(load_preset("r50_600q"), reduced=True)
    numbers = run_pipeline(preset, "cpu", seconds=3.0, rate=10.0)
    times = numbers["camera_to_path_ms"]
    # How long it takes is the bench's business: the machine of a test may be busy.
    assert 0 < times["p50"] <= times["p99"]
    assert 0 < numbers["plans_per_s"] <= 11
    assert numbers["states_per_s"] > 0
    assert numbers["tokens_per_s"] > 0
    assert 0.1 < numbers["memory_gb"] < 8
