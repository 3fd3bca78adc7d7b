"""Presets: models/<name>/config.yaml and its weights, as checked dataclasses.

A preset is data, not code. Its sections are the configs of the stages; an unknown key is an error, so a misspelt option
never goes unnoticed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.files import file_sha256, read_yaml
from sparseoccvla_ros.core.paths import cache_folder, share
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.planning.config import PlanningConfig
from sparseoccvla_ros.reasoning.config import ReasoningConfig

FORMAT_VERSION = 1
"""Format version of config.yaml; a file of another version is rejected."""
SECTIONS = {
    "image": ImageConfig,
    "occupancy": OccupancyConfig,
    "reasoning": ReasoningConfig,
    "planning": PlanningConfig,
}
STAGES = ("occupancy", "reasoning", "planning")
"""Sections that are networks, in the order of the data flow."""
ADAPTER = "adapter"
"""The language model's adapter: weights of the reasoning stage in a separate file."""
T = TypeVar("T")


@dataclass(frozen=True)
class Preset:
    """A loaded preset.

    folder: of its files; seed: of the random initialisation of untrained stages; weights: safetensors file of each
    trained stage (occupancy, reasoning, planning) and of the language model's adapter if it has one; anchors: the
    AnchorSet file. A perception-only preset (`stages: [occupancy]` in its config) has no reasoning, planning or
    anchors.
    """

    name: str
    folder: Path
    seed: int
    image: ImageConfig
    occupancy: OccupancyConfig
    reasoning: ReasoningConfig | None
    planning: PlanningConfig | None
    anchors: Path | None
    weights: dict[str, Path] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages that the preset has, in the order of the data flow."""
        return tuple(stage for stage in STAGES if getattr(self, stage) is not None)

    @property
    def trained(self) -> bool:
        """True when every stage has weights."""
        return not self.untrained

    @property
    def untrained(self) -> tuple[str, ...]:
        """Stages without weights, in the order of the data flow."""
        return tuple(stage for stage in self.stages if stage not in self.weights)

    def need(self, stage: str) -> None:
        """Raise InvalidInput naming the stage when the preset does not have it."""
        if stage not in self.stages:
            raise InvalidInput("preset", f"{self.name} has no {stage}, only {', '.join(self.stages)}")


def _config(kind: type[T], section: str, values: dict[str, Any] | None) -> T:
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InvalidInput(section, f"want options with their values, got {values!r}")
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(map(str, set(values) - known))
    if unknown:
        raise InvalidInput(f"{section}.{unknown[0]}", f"is no option; known are {', '.join(sorted(known))}")
    try:
        return kind(**{k: _tuples(v) for k, v in values.items()})
    except TypeError as error:  # for instance text in place of a number
        raise InvalidInput(section, str(error)) from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def preset_names() -> tuple[str, ...]:
    """Presets in the package's models folder."""
    return tuple(sorted(p.parent.name for p in share("models").glob("*/config.yaml")))


def converted_folder(name: str) -> Path:
    """Default folder where `./run models convert` puts a preset with its public weights."""
    return cache_folder() / "models" / name / "preset"


def load_preset(name: str) -> Preset:
    """Load the preset in the folder at a path, else the one converted with public weights, else models/<name>.

    Raises InvalidInput naming the wrong option, the missing file, or the weights whose sha256 differs.
    """
    places = (Path(name), converted_folder(name), share("models", name))
    folder = next((p for p in places if (p / "config.yaml").is_file()), places[-1])
    file = folder / "config.yaml"
    if not file.is_file():
        raise InvalidInput(
            "preset", f"'{name}' is neither a folder with config.yaml nor one of {', '.join(preset_names())}"
        )
    content = read_yaml(file, "preset")
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        version = content.get("format_version") if isinstance(content, dict) else None
        raise InvalidInput("format_version", f"{file} has {version}, this package reads {FORMAT_VERSION}")
    known = {"format_version", "name", "seed", "stages", "anchors", "weights", *SECTIONS}
    unknown = sorted(map(str, set(content) - known))
    if unknown:
        raise InvalidInput(unknown[0], f"is no section of {file}; known are {', '.join(sorted(known))}")
    stages = content.get("stages", list(STAGES))
    if stages not in (list(STAGES), ["occupancy"]):
        raise InvalidInput("stages", f"want [{', '.join(STAGES)}] or [occupancy], got {stages}")
    seed = content.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InvalidInput("seed", f"want a whole number from 0, got {seed!r}")
    configs = {section: _config(kind, section, content.get(section)) for section, kind in SECTIONS.items()}
    anchors = None
    if stages == ["occupancy"]:
        configs |= {"reasoning": None, "planning": None}
    else:
        anchors = _inside("anchors", folder, content.get("anchors", "anchors.npz"))
        if not anchors.is_file():
            raise InvalidInput("anchors", f"{anchors} is missing")
    return Preset(
        name=str(content.get("name", folder.name)),
        folder=folder,
        seed=seed,
        anchors=anchors,
        weights=_weights(folder, content.get("weights")),
        **configs,
    )


def _weights(folder: Path, entries: dict[str, dict[str, str]] | None) -> dict[str, Path]:
    """Checked weight files by stage, from the section `weights: {STAGE: {file: NAME, sha256: DIGEST}}`."""
    if entries is None:
        return {}
    if not isinstance(entries, dict) or not all(isinstance(e, dict) and "file" in e for e in entries.values()):
        raise InvalidInput("weights", "want a file and its sha256 for each stage")
    unknown = sorted(map(str, set(entries) - {*STAGES, ADAPTER}))
    if unknown:
        raise InvalidInput(f"weights.{unknown[0]}", f"is no stage; these are {', '.join(STAGES)} (and {ADAPTER})")
    if ADAPTER in entries and "reasoning" not in entries:
        raise InvalidInput(f"weights.{ADAPTER}", "is nothing without weights.reasoning, which it was trained with")
    return {stage: _weight_file(f"weights.{stage}", folder, entry) for stage, entry in entries.items()}


def _inside(field: str, folder: Path, name: Any) -> Path:
    """Returns the path of a preset's file. Raises InvalidInput(field) outside its folder and the package's presets."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise InvalidInput(field, f"want the name of a file, got {name!r}")
    file = folder / name
    resolved = file.resolve()
    if not any(resolved.is_relative_to(place.resolve()) for place in (folder, share("models"))):
        raise InvalidInput(field, f"{name} lies outside of {folder}")
    return file


def _weight_file(field: str, folder: Path, entry: dict[str, str]) -> Path:
    file = _inside(field, folder, entry["file"])
    if file.suffix != ".safetensors":
        raise InvalidInput(field, f"{file.name} is not safetensors; nothing else is loaded")
    if not file.is_file():
        raise InvalidInput(field, f"{file} is missing")
    digest = file_sha256(file)
    if digest != entry.get("sha256"):
        raise InvalidInput(field, f"{file.name} has sha256 {digest}, the config says {entry.get('sha256')}")
    return file
