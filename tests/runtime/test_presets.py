"""Every preset of the package loads; those of OPUS are the published variants."""

from __future__ import annotations

import pytest
import torch
import yaml

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.runtime.factory import build_planning, build_reasoning
from sparseoccvla_ros.runtime.presets import load_preset, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_builds(name):
    preset = load_preset(name)
    assert preset.name == name
    with torch.device("meta"):
        OccupancyEncoder(preset.occupancy.replace(pretrained=False))


@pytest.mark.parametrize("variant", ["t", "s", "m", "l"])
def test_opus_presets_are_the_published_variants(variant):
    preset = load_preset(f"opus_{variant}")
    assert preset.occupancy == OccupancyConfig.opus(variant)
    assert (preset.image.height, preset.image.width) == (256, 704)
    # What deviates from the clean way is written down in the preset, not left to a default.
    written = yaml.safe_load((preset.folder / "config.yaml").read_text())["occupancy"]
    for switch in ("scale_weight_order", "unseen_points", "feature_alignment"):
        assert written[switch] == "compatible"


def test_perception_alone_has_no_other_stage():
    preset = load_preset("opus_t")
    assert preset.stages == ("occupancy",)
    assert preset.untrained == ("occupancy",)
    for build in (build_reasoning, build_planning):
        with pytest.raises(InvalidInput, match="opus_t has no"):
            build(preset)


def test_stages_that_do_not_make_a_preset_are_refused(tmp_path):
    content = yaml.safe_load(share("models", "opus_t", "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**content, "stages": ["planning"]}))
    with pytest.raises(InvalidInput) as caught:
        load_preset(str(tmp_path))
    assert caught.value.field == "stages"
