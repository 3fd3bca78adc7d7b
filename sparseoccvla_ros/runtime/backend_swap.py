"""Runs image network and decoder of the occupancy encoder in another runtime.

OccupancyEncoder.image_features and OccupancyEncoder.decode are replaced on the instance; memory, checks, epochs and
results stay the encoder's. The replacements fall back to the class's own method for input that the engine was not built
for (another number of cameras, gradients, training). When an engine fails, torch takes over and the reason is logged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.errors import InvalidInput
from ..core.paths import cache_folder
from ..occupancy.decoder import LayerOutput
from ..occupancy.encoder import OccupancyEncoder
from ..occupancy.sampling.views import SceneViews
from .backends.base import TOLERANCE, CannotBuild, Engine, difference
from .backends.registry import ENGINES, RUNTIMES, backend
from .export import compare, find, forget
from .onnx_graphs import Graph, decoder_graph, image_graph, record, scene_sample
from .presets import Preset
from .warm_up import made_up_frames

log = logging.getLogger(__name__)


def use_runtime(encoder: OccupancyEncoder, preset: Preset, runtime: str, threads: int = 1) -> str:
    """Switch `encoder` (built from `preset`) to a runtime of RUNTIMES.

    Loads verified engines from the cache, where `./run export` puts them; builds nothing except the kernels of
    `compiled`. Returns "" on success, else why torch computes instead, which is also logged. Raises
    InvalidInput("runtime", ...) for an unknown name.
    """
    if runtime not in RUNTIMES:
        raise InvalidInput("runtime", f"'{runtime}' is not one of {', '.join(RUNTIMES)}")
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
    """Restore the encoder's own methods."""
    for name in ("image_features", "decode"):
        encoder.__dict__.pop(name, None)


class EngineAdapter:
    """Replaces an encoder's image_features and decode by engines, for six images of one size."""

    def __init__(
        self,
        encoder: OccupancyEncoder,
        name: str,
        graph: Graph,
        images: Engine,
        decoder_graph: Graph | None = None,
        decoder: Engine | None = None,
    ) -> None:
        self._encoder, self._name = encoder, name
        self._images, self._decoder = images, decoder
        self._image_shape, self._levels = graph.inputs["images"][1], graph.outputs
        self._table_shape = decoder_graph.inputs["table"][1] if decoder_graph else ()

    def install(self) -> None:
        """Replace the encoder's methods; `decode` only if it has an engine."""
        self._encoder.image_features = self.image_features  # type: ignore[method-assign]
        if self._decoder is not None:
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
        fits = tuple(scene.table.shape) == self._table_shape
        if fits and self._decoder is not None and not torch.is_grad_enabled():
            try:
                out = self._decoder(scene_sample(scene, clone=False))
                return [LayerOutput(out["features"], out.get("logits"), out["points"], out.get("point_features"))]
            except (RuntimeError, ValueError) as error:
                self._give_up(error)
        return OccupancyEncoder.decode(self._encoder, scene)

    def _give_up(self, error: Exception) -> None:
        reason = f"{self._name} failed while running, torch computes from now on: {error}"
        log.error(reason)
        self._encoder.warnings += (reason,)
        use_torch(self._encoder)


def graphs_of(encoder: OccupancyEncoder, preset: Preset, runtime: str) -> tuple[Graph, Graph]:
    """Returns the image and decoder graphs of an encoder in the precision that a runtime of ENGINES needs."""
    size = (preset.image.height, preset.image.width)
    wanted = backend(runtime).graph_precision(encoder.config.backbone_dtype)
    return image_graph(encoder, size, wanted), decoder_graph(encoder, size)


def precisions(encoder: OccupancyEncoder, runtime: str) -> tuple[str, str]:
    """Returns the precisions of the image engine and of the decoder engine, whose geometry needs float32."""
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
    # Engines were verified where they were built; verify them again where they run.
    seen = record(encoder, made_up_frames(preset, 4))
    for graph, engine, samples, precision in zip(
        graphs, engines, (seen.images, seen.decoder), precisions(encoder, runtime), strict=True
    ):
        try:
            compare(engine, graph, samples, [graph.run(sample) for sample in samples], precision)
        except CannotBuild:
            forget(preset.name, graph, engine_of, precision)
            raise
    EngineAdapter(encoder, runtime, graphs[0], engines[0], graphs[1], engines[1]).install()


def _compile(encoder: OccupancyEncoder, preset: Preset) -> None:
    """Compile backbone and neck with torch.compile: a minute the first time, then from the cache folder.

    The decoder is not compiled: it is mostly matrix products, and its one gather per layer has its own kernel.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    cuda = encoder.pixel_mean.device.type == "cuda"
    graph = image_graph(encoder, (preset.image.height, preset.image.width))
    seen = record(encoder, made_up_frames(preset, 1), keep=1).images[0]
    compiled = torch.compile(
        OccupancyEncoder.image_features.__get__(encoder), dynamic=False, options={} if cuda else {"freezing": True}
    )

    def images(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        levels = compiled(inputs["images"])
        return {name: level.permute(0, 2, 3, 1) for name, level in zip(graph.outputs, levels, strict=True)}

    try:
        with torch.inference_mode():
            got = images(seen)
    except Exception as error:  # many types: a missing compiler, an unsupported operator
        raise CannotBuild(f"torch.compile fails: {str(error).strip()[:300]}") from error
    truth = graph.run(seen)
    worst = max(difference(got[name], truth[name]) for name in graph.outputs)
    if not worst <= TOLERANCE[encoder.config.backbone_dtype]:
        raise CannotBuild(f"the compiled backbone differs from torch by {worst:.1e}")
    EngineAdapter(encoder, "compiled", graph, images).install()
