"""The verb models: presets, public weights and their conversion. Heavy imports happen inside the functions."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from sparseoccvla_ros.cli.console import one_line_errors, wide_console
from sparseoccvla_ros.core.errors import InvalidInput

if TYPE_CHECKING:
    from sparseoccvla_ros.occupancy.config import OccupancyConfig

app = typer.Typer(no_args_is_help=True, help="Presets and public weights: list, fetch, convert.")

SHAPES = (
    "queries", "embed_dims", "groups", "frames", "points_per_group", "points_per_layer", "heads", "ffn_dims",
    "mixing_points", "strides", "backbone_width", "decoder", "point_features", "densifier_dims",
)  # fmt: skip
"""Options of OccupancyConfig that are inferred from the shapes of a checkpoint."""
SOURCE = "source.json"


@dataclass(frozen=True)
class PublicModel:
    """Weights published by others. files: patterns of the required files in the hub repository; revision: pinned
    commit; if empty, the first fetch records the commit that it gets, and later ones request the same; scores:
    published results on Occ3D-nuScenes (voxel mIoU in camera-visible space, RayIoU) and speed."""

    name: str
    about: str
    licence: str
    by_hand: str
    then: str
    repository: str = ""
    revision: str = ""
    files: tuple[str, ...] = ()
    scores: str = ""


_CONVERT = "./run models convert {folder}/{file} --preset {preset}, then --preset {preset} everywhere"
_SCORES = {
    "opus_t": (33.2, 38.4, 22.4), "opus_v2_t": (36.5, 42.0, 25.8),
    "opus_s": (34.2, 39.1, 20.7), "opus_v2_s": (37.3, 42.7, 23.7),
    "opus_m": (35.6, 40.3, 13.4), "opus_v2_m": (37.7, 43.3, 16.0),
    "opus_l": (36.2, 41.2, 7.2), "opus_v2_l": (38.6, 44.0, 8.6),
}  # fmt: skip
"""mIoU, RayIoU and frames per second from the README of OPUS (100 epochs; it does not name the GPU)."""


def _scores(name: str) -> str:
    return "mIoU {} RayIoU {}, {} FPS".format(*_SCORES[name])


def _opus_v2(size: str) -> PublicModel:
    name = f"opus_v2_{size}"
    return PublicModel(
        name,
        f"OPUS-V2-{size.upper()}, occupancy, 100 epochs on nuScenes (jbwang1997/OPUS, January 2026)",
        "MIT (OPUS' repository); trained on nuScenes (non-commercial)",
        f"the README of jbwang1997/OPUS (GitHub) links the V2 checkpoint of {size.upper()}; put it into {{folder}}",
        _CONVERT.format(folder="{folder}", file="FILE.pth", preset=name),
        "jbwang1997/OPUS",
        # The repository may also hold V1 and other schedules.
        files=(f"*[vV]2*[-_][{size}{size.upper()}][-_.]*.pth", f"*[vV]2*[-_/][{size}{size.upper()}].pth"),
        scores=_scores(name),
    )


def _opus(size: str) -> PublicModel:
    return PublicModel(
        f"opus_{size}",
        f"OPUS-{size.upper()}, occupancy, 100 epochs on nuScenes (Wang et al., NeurIPS 2024)",
        "MIT (OPUS' repository); trained on nuScenes (non-commercial)",
        f"the README of jbwang1997/OPUS (GitHub) links {size.upper()}'s checkpoint; put it into {{folder}}",
        _CONVERT.format(folder="{folder}", file="FILE.pth", preset=f"opus_{size}"),
        scores=_scores(f"opus_{size}"),
    )


PUBLIC = (
    *(_opus(size) for size in "tsml"),
    *(_opus_v2(size) for size in "tsml"),
    PublicModel(
        "sparseworld",
        "SparseWorld, 4-D occupancy (arXiv 2510.17482); its queries of the present are used",
        "no licence file: ask its authors before any use; trained on nuScenes (non-commercial)",
        "download ckpts/epoch_56.pth of that hub repository elsewhere and put it at {folder}/ckpts/epoch_56.pth",
        _CONVERT.format(folder="{folder}", file="ckpts/epoch_56.pth", preset="opus_t"),
        "MSunDYY2001/SparseWorld",
        files=("ckpts/epoch_56.pth",),
    ),
    PublicModel(
        "internvl2-2b",
        "InternVL2-2B, whose language half (InternLM2-1.8B) is the paper's; 4.4 GB",
        "MIT (model card of InternVL2-2B); InternLM2's weights have a licence of their own: read it first",
        "download config.json, tokenizer files and model.safetensors of that hub repository elsewhere, into {folder}",
        "--preset r50_600q, or reasoning.language_model: internvl2-2b in a preset of your own",
        "OpenGVLab/InternVL2-2B",
        "b537a0f49005448bb0ddb8bb4f5043c733025f53",
        ("config.json", "generation_config.json", "*.safetensors", "tokenizer*", "*tokens*.json"),
    ),
)


def folder_of(model: PublicModel) -> Path:
    """Folder of a public model's files in the cache."""
    from sparseoccvla_ros.core.paths import cache_folder

    return cache_folder() / "models" / model.name


@app.command("list")
def show() -> None:
    """List the presets with their weights and requirements, and public weights with their licences."""
    with one_line_errors():
        from sparseoccvla_ros.runtime.presets import load_preset, preset_names

        console = wide_console()
        table = Table("preset", "images", "frames", "stages", "weights", "needs", title="Presets")
        for name in preset_names():
            try:
                preset = load_preset(name)
            except InvalidInput as error:
                table.add_row(name, "", "", "", Text(f"broken: {error}"), "")
                continue
            weights = (
                ", ".join(f"{s} {p.stat().st_size / 1e6:.0f} MB" for s, p in preset.weights.items()) or "untrained"
            )
            model = preset.reasoning.language_model if preset.reasoning is not None else ""
            needs = f"language model {model}: {_language_model(model)}" if model else ""
            if name in {m.name for m in PUBLIC} and not preset.weights:
                needs = f"./run models fetch {name}"
            image = f"{preset.image.height} x {preset.image.width}"
            table.add_row(name, image, str(preset.occupancy.frames), ", ".join(preset.stages), weights, Text(needs))
        console.print(table)
        columns = ("name", "what", "published on Occ3D-nuScenes", "licence", "present")
        table = Table(*columns, title="Public weights (./run models fetch NAME)")
        for public in PUBLIC:
            there = sorted(p for p in folder_of(public).rglob("*") if p.is_file() and p.name != SOURCE)
            size = sum(p.stat().st_size for p in there) / 1e6
            present = f"{size:.0f} MB" if there else "no"
            table.add_row(public.name, public.about, public.scores, public.licence, present)
        console.print(table)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="one of ./run models list")],
    revision: Annotated[str, typer.Option(help="commit of the hub repository; the pinned one if not given")] = "",
) -> None:
    """Fetch public weights, or explain how to place them by hand if no hub is reachable. Prints the licence first."""
    with one_line_errors():
        from sparseoccvla_ros.core.files import file_sha256

        model = next((m for m in PUBLIC if m.name == name), None)
        if model is None:
            raise InvalidInput("name", f"{name!r} is not one of {', '.join(m.name for m in PUBLIC)}")
        target = folder_of(model)
        typer.echo(f"{model.about}\nlicence: {model.licence}")
        if not model.repository:
            typer.echo(f"by hand: {model.by_hand.format(folder=target)}\nthen: {model.then.format(folder=target)}")
            raise typer.Exit(3)
        known = _source(target)
        wanted = revision or known.get("revision", "") or model.revision
        try:
            got = _download(model, target, wanted)
        except Exception as error:  # any error of the hub's client or the network
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            typer.echo(f"cannot fetch {model.repository} ({reason[:200]})", err=True)
            typer.echo(f"by hand: {model.by_hand.format(folder=target)}\nthen: {model.then.format(folder=target)}")
            raise typer.Exit(3) from error
        digests = {p.relative_to(target).as_posix(): file_sha256(p) for p in _files(target)}
        old = known.get("sha256", {})
        changed = sorted(n for n in old.keys() & digests.keys() if old[n] != digests[n])
        if known.get("revision") == got and changed:
            raise InvalidInput("sha256", f"{changed[0]} of {got} is not what was fetched before: delete {target}")
        source = {"repository": model.repository, "revision": got, "licence": model.licence, "sha256": digests}
        (target / SOURCE).write_text(json.dumps(source, indent=1))
        if not digests:
            raise InvalidInput(
                "files", f"{model.repository} has none named {' or '.join(model.files)}: place it by hand"
            )
        for file, digest in digests.items():
            typer.echo(f"  {file} sha256 {digest}")
        typer.echo(f"{target}: revision {got}\nthen: {model.then.format(folder=target)}")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help=".pth or safetensors of OPUS, OPUS-V2 or SparseWorld")],
    preset: Annotated[str, typer.Option(help="preset to take all other options from")] = "opus_t",
    out: Annotated[
        Path | None,
        typer.Option(help="preset folder to write; if not given, the preset itself gets the weights"),
    ] = None,
) -> None:
    """Convert a public OPUS, OPUS-V2 or SparseWorld checkpoint to a preset with safetensors weights and a sha256."""
    with one_line_errors():
        from sparseoccvla_ros.core.files import file_sha256
        from sparseoccvla_ros.runtime.presets import converted_folder

        use = str(out or preset)
        out = out or converted_folder(preset)
        changes = convert_opus(file, out, preset)
        if changes:
            typer.echo(f"other than {preset}: " + ", ".join(f"{k} {v}" for k, v in changes.items()))
        weights = out / "occupancy.safetensors"
        typer.echo(f"{weights}: {weights.stat().st_size / 1e6:.1f} MB; use --preset {use}, or add to a config.yaml:")
        typer.echo(f"weights:\n  occupancy: {{file: {weights.name}, sha256: {file_sha256(weights)}}}")


def convert_opus(file: Path, out: Path, preset: str) -> dict[str, Any]:
    """Write the preset folder `out` from a public checkpoint; returns the options that differ from `preset`.

    Stages of `preset` other than occupancy are kept, without weights. Raises InvalidInput if `out` holds a preset
    already, for a file that cannot be read, an OPUS preset with an OPUS-V2 file or vice versa, and names, shapes or a
    grid that do not match.
    """
    import yaml

    from sparseoccvla_ros.core.files import file_sha256
    from sparseoccvla_ros.occupancy import checkpoints
    from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
    from sparseoccvla_ros.runtime.presets import converted_folder, load_preset

    if (out / "config.yaml").exists():
        raise InvalidInput("out", f"{out} holds a preset already")
    base = load_preset(preset)
    state = checkpoints.public_state(checkpoints.read_state(file)[0])
    found: OccupancyConfig = checkpoints.opus_config(state)
    if found.decoder != base.occupancy.decoder:
        raise InvalidInput("preset", f"{file.name} is of {found.decoder}, {preset} of {base.occupancy.decoder}")
    changes = {n: getattr(found, n) for n in SHAPES if getattr(found, n) != getattr(base.occupancy, n)}
    encoder = OccupancyEncoder(base.occupancy.replace(**changes))
    checkpoints.load_opus(encoder, file)
    out.mkdir(parents=True, exist_ok=True)
    weights = out / "occupancy.safetensors"
    checkpoints.save(encoder, weights)
    content = yaml.safe_load((base.folder / "config.yaml").read_text(encoding="utf-8"))
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in changes.items()}
    content |= {
        "name": base.name if out == converted_folder(preset) else out.name,
        "occupancy": {**(content.get("occupancy") or {}), **plain},
        "weights": {"occupancy": {"file": weights.name, "sha256": file_sha256(weights)}},
    }
    if base.anchors is not None:
        shutil.copy(base.anchors, out)
        content["anchors"] = base.anchors.name
    (out / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    load_preset(str(out))
    return changes


def _download(model: PublicModel, target: Path, revision: str) -> str:
    """Download a model's files; returns their commit."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, snapshot_download

    # Queried first: without a reachable hub it fails at once, the download only after half a minute of retries.
    revision = str(HfApi().model_info(model.repository, revision=revision or None, timeout=10.0).sha)
    snapshot_download(model.repository, revision=revision, allow_patterns=list(model.files), local_dir=target)
    return revision


def _source(folder: Path) -> dict[str, Any]:
    path = folder / SOURCE
    return json.loads(path.read_text()) if path.is_file() else {}


def _files(folder: Path) -> list[Path]:
    """Downloaded files, without the client's metadata in hidden folders."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != SOURCE)
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _language_model(name: str) -> str:
    """Status of a language model, as text: present, or missing with what to do."""
    from sparseoccvla_ros.reasoning.llm import dummy_llm, smollm2
    from sparseoccvla_ros.reasoning.llm.language_model import model_folder

    if name == smollm2.NAME:
        return "package installed" if smollm2.package_file() else "package missing"
    there = name in dummy_llm.NAMES or (model_folder(name) / "config.json").is_file()
    return "present" if there else f"missing, ./run models fetch {name}"
