"""Another runtime under the occupancy encoder: its two pieces of arithmetic are replaced, everything else stays.

The seam is OccupancyEncoder.image_features and OccupancyEncoder.decode: a stand-in is set on the instance and hands
back to the class's own method whatever the engine was not built for (another number of cameras, gradients, training).
Memory, checks, epochs and results are the encoder's. Whatever goes wrong, torch takes over and the reason is said.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import InvalidInput
from ..core.paths import cache_folder
from ..occupancy.decoder import LayerOutput
from ..occupancy.encoder import OccupancyEncoder
from ..occupancy.sampling import SceneViews
from .engines import ENGINES, RUNTIMES, TOLERANCE, CannotBuild, Engine, backend, difference
from .export import compare, find, forget
from .graphs import Graph, decoder_graph, image_graph, record, scene_sample
from .presets import Preset
from .warm_up import made_up_frames

log = logging.getLogger(__name__)


def use_runtime(encoder: OccupancyEncoder, preset: Preset, runtime: str, threads: int = 1) -> str:
    """Let `encoder` (built from `preset`) compute with a runtime of RUNTIMES.

    Engines come verified from the cache, where `./run export` puts them; nothing is built here but the kernels of
    `compiled`. Returns "" when it runs as wished, else why torch computes instead; that is logged too. Raises
    InvalidInput("runtime", ...) for an unknown name.
    """
    if runtime not in RUNTIMES:
        raise InvalidInput("runtime", f"'{runtime}' is none of {', '.join(RUNTIMES)}")
    use_torch(encoder)
    if runtime == "torch":
        return ""
    try:
        if runtime == "compiled":
            _compile(encoder, preset)
        else:
            _load(encoder, preset, runtime, threads)
    except CannotBuild as error:
        use_torch(encoder)
        log.warning("runtime %s: torch computes instead: %s", runtime, error)
        return str(error)
    return ""


def use_torch(encoder: OccupancyEncoder) -> None:
    """Back to the encoder's own methods."""
    for name in ("image_features", "decode"):
        encoder.__dict__.pop(name, None)


class StandIn:
    """Engines in place of an encoder's arithmetic, for six images of one size."""

    def __init__(
        self, encoder: OccupancyEncoder, images: Engine, decoder: Engine, graphs: Sequence[Graph], name: str
    ) -> None:
        self._encoder, self._name = encoder, name
        self._images, self._decoder = images, decoder
        self._image_shape = graphs[0].inputs["images"][1]
        self._table_shape = graphs[1].inputs["table"][1]
        self._levels = graphs[0].outputs

    def install(self) -> None:
        """Take over on the encoder."""
        self._encoder.image_features = self.image_features  # type: ignore[method-assign]
        self._encoder.decode = self.decode  # type: ignore[method-assign]

    def image_features(self, images: Tensor) -> list[Tensor]:
        """As OccupancyEncoder.image_features."""
        fits = tuple(images.shape) == self._image_shape and images.dtype == torch.uint8
        if fits and not torch.is_grad_enabled():
            try:
                levels = self._images({"images": images})
                return [levels[name].permute(0, 3, 1, 2) for name in self._levels]
            except (RuntimeError, ValueError) as error:
                self._give_up(error)
        return OccupancyEncoder.image_features(self._encoder, images)

    def decode(self, scene: SceneViews) -> list[LayerOutput]:
        """As OccupancyEncoder.decode, with the last layer only."""
        if tuple(scene.table.shape) == self._table_shape and not torch.is_grad_enabled():
            try:
                out = self._decoder(scene_sample(scene, clone=False))
                return [LayerOutput(out["features"], out["logits"], out["points"])]
            except (RuntimeError, ValueError) as error:
                self._give_up(error)
        return OccupancyEncoder.decode(self._encoder, scene)

    def _give_up(self, error: Exception) -> None:
        reason = f"{self._name} failed while running, torch computes from now on: {error}"
        log.error(reason)
        self._encoder.warnings += (reason,)
        use_torch(self._encoder)


def graphs_of(encoder: OccupancyEncoder, preset: Preset, runtime: str) -> tuple[Graph, Graph]:
    """The image and decoder graphs of an encoder as a runtime of ENGINES wants them."""
    size = (preset.image.height, preset.image.width)
    wanted = backend(runtime).graph_precision(encoder.config.backbone_dtype)
    return image_graph(encoder, size, wanted), decoder_graph(encoder, size)


def precisions(encoder: OccupancyEncoder, runtime: str) -> tuple[str, str]:
    """Precision of the image engine and of the decoder's, which holds the geometry and stays float32."""
    return backend(runtime).precision(encoder.config.backbone_dtype), "float32"


def _load(encoder: OccupancyEncoder, preset: Preset, runtime: str, threads: int) -> None:
    assert runtime in ENGINES
    engine_of = backend(runtime)
    problem = engine_of.cannot_run(encoder.pixel_mean.device)
    if problem:
        raise CannotBuild(problem)
    graphs = graphs_of(encoder, preset, runtime)
    engines = []
    for graph, precision in zip(graphs, precisions(encoder, runtime), strict=True):
        path = find(preset.name, graph, engine_of, precision)
        if path is None:
            raise CannotBuild(
                f"no verified {runtime} engine of {graph.name} for these weights, this version and this machine: run "
                f"./run export --preset {preset.name} --runtime {runtime}"
            )
        engines.append(engine_of.load(path, precision, threads))
    # What was verified where it was built is checked once more where it runs.
    seen = record(encoder, made_up_frames(preset, 2), keep=1)
    for graph, engine, sample, precision in zip(
        graphs, engines, (seen.images[0], seen.decoder[0]), precisions(encoder, runtime), strict=True
    ):
        try:
            compare(engine, graph, [sample], [graph.run(sample)], precision)
        except CannotBuild:
            forget(preset.name, graph, engine_of, precision)
            raise
    StandIn(encoder, engines[0], engines[1], graphs, runtime).install()


def _compile(encoder: OccupancyEncoder, preset: Preset) -> None:
    """torch.compile for backbone with neck and for the decoder; the kernels are kept in the cache folder."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    cuda = encoder.pixel_mean.device.type == "cuda"
    # CUDA graphs hand out the same memory again and again, which the encoder's results would not survive.
    options = {"triton.cudagraphs": False} if cuda else {"freezing": True}
    images = torch.compile(_bound(encoder, "image_features"), dynamic=False, options=options)
    decode = torch.compile(_bound(encoder, "decode"), dynamic=False, options=options)
    size = (preset.image.height, preset.image.width)
    graphs = (image_graph(encoder, size), decoder_graph(encoder, size))
    seen = record(encoder, made_up_frames(preset, 2), keep=1)

    def run_images(inputs) -> dict[str, Tensor]:
        levels = images(inputs["images"])
        return {f"level{i}": level.permute(0, 2, 3, 1) for i, level in enumerate(levels)}

    def run_decoder(inputs) -> dict[str, Tensor]:
        scene = SceneViews(
            inputs["table"], graphs[1].module.sizes, inputs["ego2img"], inputs["usable"],
            graphs[1].module.image_size, inputs["slots"],
        )  # fmt: skip
        last = decode(scene)[-1]
        return {"features": last.features, "logits": last.logits, "points": last.points}

    for graph, engine, sample, precision in (
        (graphs[0], run_images, seen.images[0], encoder.config.backbone_dtype),
        (graphs[1], run_decoder, seen.decoder[0], "float32"),
    ):
        try:
            with torch.inference_mode():
                got = engine(sample)
        except Exception as error:  # a missing compiler, an operator the compiler trips over: many kinds
            raise CannotBuild(f"torch.compile fails on {graph.name}: {str(error).strip()[:300]}") from error
        truth = graph.run(sample)
        worst = max(difference(got[name].cpu(), truth[name].cpu()) for name in graph.outputs)
        if not worst <= TOLERANCE[precision]:
            raise CannotBuild(f"compiled {graph.name} differs from torch by {worst:.1e}")
    StandIn(encoder, run_images, run_decoder, graphs, "compiled").install()


def _bound(encoder: OccupancyEncoder, name: str):
    return getattr(OccupancyEncoder, name).__get__(encoder)
