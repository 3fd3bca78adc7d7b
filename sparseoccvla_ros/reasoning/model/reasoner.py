"""The reasoning stage for one frame: one prefill, its read-outs, and answers to questions about the scene.

Shapes: B scenes; Q queries with C channels and R points each; V views; G global tokens (T_g) and K occupancy tokens
(T_o) with D channels, the language model's width; P tokens of the prefix, T after it; A anchors; N questions. T_o' and
T_r are the last hidden states at T_o and at the reasoning token.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...core.classes import NUM_CLASSES
from ...core.errors import InvalidInput
from ...core.types import STEPS, Reasoning, SceneQueries, check_array
from ...core.voxels import OCC3D_GRID, VoxelGrid
from ..config import ReasoningConfig
from ..llm import lora
from ..llm.language_model import CacheLayers, LanguageModel, cropped
from ..prompts import ACTION
from ..serving.generation import Answer, check_limits, decode, decode_batch
from ..serving.priority_lock import PriorityLock
from ..serving.text_stream import TextStream, check_question
from .anchor_head import AnchorHead
from .connector import Connector, choose_queries, query_scores, ranking_scores
from .ego_motion import SOURCES, check_motion, constant_velocity
from .forecaster import Forecast, Forecaster, forecast_voxels
from .fusion import ResidualFusion
from .global_tokens import GlobalTokens
from .question_pooling import HINT, HINT_END, POOLED_TOKEN, QuestionPooling


@dataclass(frozen=True, eq=False)
class Readout:
    """Outputs of one prefill, with gradients where enabled."""

    token: torch.Tensor  # T_r, float32 [B, D]
    anchor_logits: torch.Tensor  # float32 [B, A]
    occupancy: torch.Tensor  # T_o', float32 [B, K, D]
    fused: torch.Tensor  # float32 [B, Q, C]
    forecast: Forecast
    scene: torch.Tensor  # [B, G + K, D], input tokens, global ones first
    chosen: torch.Tensor  # int64 [B, K], query of each occupancy token


@dataclass(frozen=True, eq=False)
class _Scene:
    """Prefilled scene that answers continue from; immutable, so running answers keep theirs when a newer one comes."""

    stamp: int
    layers: CacheLayers  # keys and values up to the last scene token
    trained: bool
    tokens: torch.Tensor  # [1, G + K, D], scene tokens at the model's input
    epoch: int


class Reasoner(nn.Module):
    """Connector, global tokens, language model, anchor head, residual fusion and forecaster.

    Sequence: [template prefix, T_g, T_o, scoring prompt, reasoning token]. The reasoning token's embedding is a
    parameter of this module and not part of the vocabulary, so weights and adapters stay small. `state_dict()` excludes
    the language model.

    config: parameters; language_model: from `load_language_model`; anchors: float32 [A, 6, 2] m, base_link;
    grid: where forecasts are voxelised. `trained`: set when trained weights are loaded; copied into every output.
    `reason`, `ask` and `reset` may run in different threads. Raises InvalidInput when the prompt exceeds
    max_prefill_tokens.
    """

    anchors: torch.Tensor

    def __init__(
        self,
        config: ReasoningConfig,
        language_model: LanguageModel,
        anchors: np.ndarray,
        grid: VoxelGrid = OCC3D_GRID,
    ) -> None:
        super().__init__()
        check_array("anchors", anchors, np.float32, (None, STEPS, 2))
        self.config = config
        self.grid = grid
        self.trained = False
        self.plan_in_prompt = False
        """Whether answering was trained with the planned action before the question (plan_words.with_action)."""
        # A dataclass, not an nn.Module: its weights are stored in separate files.
        self.language_model = language_model
        weight = language_model.embedding_weight.detach().float()
        scale = float(weight.pow(2).mean().sqrt())
        dims = language_model.dims
        self.register_buffer("anchors", torch.from_numpy(anchors.copy()))
        self.connector = Connector(config, dims, scale)
        self.global_tokens = GlobalTokens(config, dims, scale)
        self.anchor_head = AnchorHead(config, dims)
        self.reading: QuestionPooling | None = None
        if config.reading_dims:
            count = config.global_tokens + config.occupancy_tokens
            self.reading = QuestionPooling(dims, config.reading_dims, count, scale, config.reading_counts)
            self._hint_ids = [*language_model.tokens(HINT), POOLED_TOKEN, *language_model.tokens(HINT_END)]
        self.fusion = ResidualFusion(config.query_dims, dims)
        self.forecaster = Forecaster(config)

        self._prefix_ids, self._turn_end_ids = language_model.prompt_parts(config.system_prompt, config.scene_prompt)
        self._scoring_ids = language_model.tokens("\n" + config.scoring_prompt) + self._turn_end_ids
        # Initialised with the mean embedding of the scoring prompt.
        mean = weight[self._scoring_ids].mean(0)
        self.reasoning_token = nn.Parameter(mean * (scale / mean.pow(2).mean().sqrt().clamp_min(1e-8)))
        length = len(self._prefix_ids) + config.global_tokens + config.occupancy_tokens + len(self._scoring_ids) + 1
        limit = min(config.max_prefill_tokens, language_model.context)
        if length > limit:
            raise InvalidInput("reasoning.max_prefill_tokens", f"the sequence has {length} tokens, at most {limit} fit")

        self._model_lock = PriorityLock()
        self._prefix: CacheLayers | None = None
        self._scene: _Scene | None = None
        self._resets = 0
        self.prefill_seconds = 0.0
        """Wall time of the newest prefill, without the wait for the lock."""

    def reset(self) -> None:
        """Drop the newest scene (after a time jump or when the node stops); running answers keep theirs.

        That of a `reason` still running is dropped too. Waits for the model call in progress.
        """
        with self._model_lock.urgent():
            self._resets += 1
            self._scene = None

    def set_language_model(self, language_model: LanguageModel) -> None:
        """Replace the language model (adapters added or merged, another device); drops the cached prefix and scene."""
        with self._model_lock.urgent():
            self.language_model = language_model
            self._scene = None
            self._prefix = None

    def scene_tokens(
        self, features: torch.Tensor, centres: torch.Tensor, scores: torch.Tensor, view_features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (T_g and T_o [B, G + K, D], query of each T_o, int64 [B, K]). Arguments as in `forward`."""
        per_query = query_scores(scores, self.config.token_score)  # [B, Q]
        chosen = choose_queries(centres, per_query, self.config.occupancy_tokens)  # [B, K]

        def pick(x: torch.Tensor) -> torch.Tensor:
            return x.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))

        occupancy = self.connector(pick(features), pick(centres))  # [B, K, D]
        return torch.cat([self.global_tokens(view_features, features, centres), occupancy], dim=1), chosen

    def forward(
        self,
        features: torch.Tensor,
        centres: torch.Tensor,
        scores: torch.Tensor,
        view_features: torch.Tensor,
        motion: torch.Tensor,
    ) -> Readout:
        """Returns the read-outs of a batch from a full prefill, differentiable (`reason` reuses the cached prefix).

        Args:
            features: float32 [B, Q, C], of the encoder's queries.
            centres: float32 [B, Q, 3] m, of the queries, in base_link.
            scores: float32 [B, Q, R], 0..1, of the queries' points, from `ranking_scores`.
            view_features: float32 [B, V, C], pooled image features.
            motion: float32 [B, 6, 2] m, the ego's waypoints at 0.5 .. 3.0 s, in base_link.
        """
        return self.prefill(features, centres, scores, view_features, motion)[0]

    def prefill(
        self,
        features: torch.Tensor,
        centres: torch.Tensor,
        scores: torch.Tensor,
        view_features: torch.Tensor,
        motion: torch.Tensor,
    ) -> tuple[Readout, CacheLayers]:
        """As `forward`, but also returns the keys and values up to the last scene token, where questions continue."""
        scene, chosen = self.scene_tokens(features, centres, scores, view_features)  # [B, G + K, D], [B, K]
        prefix = self.language_model.embed(self._prefix_ids).expand(len(scene), -1, -1)  # [B, P, D]
        embeddings = torch.cat([prefix, self._sequence(scene)], dim=1)  # [B, P + T, D]
        hidden, layers = self.language_model.forward(embeddings)  # hidden: [B, P + T, D]
        start = len(self._prefix_ids)
        length = start + scene.shape[1]  # P + G + K
        kept = tuple((keys[..., :length, :], values[..., :length, :]) for keys, values in layers)
        return self._readout(hidden[:, start:], features, centres, motion, scene, chosen), kept

    def question_ids(self, question: str) -> list[int]:
        """Returns the token ids between the scene and the answer: question, hint, end of turn.

        Raises InvalidInput("question") unless it has 1..max_question_chars printable characters.
        """
        text = check_question(question, self.config.max_question_chars)
        hint = [] if self.reading is None else self._hint_ids
        return self.language_model.tokens("\n" + text) + hint + self._turn_end_ids

    def pool_question(
        self, questions: Sequence[str], tokens: torch.Tensor, scene_index: torch.Tensor
    ) -> torch.Tensor | None:
        """Returns reading tokens float32 [N, D] of N questions, the embeddings of POOLED_TOKEN; None without `reading`.

        tokens: [B, G + K, D], scene tokens; scene_index: int64 [N], the batch index of each question's scene.
        """
        if self.reading is None:
            return None
        return self.reading([self.question_embeddings(question) for question in questions], tokens, scene_index)

    def question_embeddings(self, question: str) -> torch.Tensor:
        """Returns the embeddings [L, D] of a question's tokens, without gradients."""
        return self.language_model.embedding_weight.detach()[self.language_model.tokens(question)]

    @torch.inference_mode()
    def reason(
        self,
        queries: SceneQueries,
        future_motion: np.ndarray | None = None,
        motion_source: str = "planned",
    ) -> Reasoning:
        """Returns the reasoning token, anchor scores, fused features and forecasts of one frame.

        future_motion: [6, 2] m, waypoints in base_link at the stamp; None assumes constant velocity from the twist.
        motion_source: origin of `future_motion`, "planned" or "oracle". Forecasts are in base_link at the stamp (the
        current ego frame). Raises InvalidInput for queries of another width or with invalid values.
        """
        resets = self._resets
        features, centres, scores, views, motion, motion_source = self._inputs(queries, future_motion, motion_source)
        trained = self.trained and queries.trained
        scene, chosen = self.scene_tokens(features, centres, scores, views)
        sequence = self._sequence(scene)
        with self._model_lock.urgent():
            if self._prefix is None:
                _, self._prefix = self.language_model.forward(self.language_model.embed(self._prefix_ids))
            began = time.monotonic()
            hidden, layers = self.language_model.forward(sequence, self._prefix)
            self.prefill_seconds = time.monotonic() - began
            length = len(self._prefix_ids) + scene.shape[1]
            if resets == self._resets:  # no reset since this frame came
                self._scene = _Scene(queries.stamp, cropped(layers, length), trained, scene, queries.epoch)
        out = self._readout(hidden, features, centres, motion, scene, chosen)
        return Reasoning(
            stamp=queries.stamp,
            epoch=queries.epoch,
            token=out.token[0].cpu().numpy(),
            anchor_scores=out.anchor_logits[0].cpu().numpy(),
            fused_features=out.fused[0].cpu().numpy(),
            forecasts=forecast_voxels(queries, out.forecast, self.config, self.grid),
            forecast_motion=motion_source,
            trained=trained,
            base_frame=queries.ego.base_frame,
        )

    def ask(
        self,
        question: str,
        on_text: Callable[[str], None] = lambda piece: None,
        cancel: threading.Event | None = None,
        max_tokens: int | None = None,
        time_limit: float | None = None,
    ) -> Answer:
        """Answer a question about the newest reasoned scene; blocks the calling thread and streams to `on_text`.

        question: 1..max_question_chars printable characters; on_text: called with each piece of valid text (joined,
        they are the answer); cancel: set it to stop early; max_tokens, time_limit (s): default to the config.
        Raises InvalidInput("question" | "max_tokens" | "time_limit"), and InvalidInput("scene") before the first
        `reason`.
        """
        began = time.monotonic()
        scene, (ids,), max_tokens, time_limit = self._prepare([question], max_tokens, time_limit)
        reading = self._pool_questions([question], scene)
        stream = TextStream(self.language_model.text, self.config.max_answer_chars)
        ended_by, tokens = decode(
            self.language_model,
            scene.layers,
            ids,
            stream,
            on_text,
            cancel or threading.Event(),
            self._model_lock,
            max_tokens,
            began + time_limit,
            None if reading is None else reading[0],
        )
        seconds = time.monotonic() - began
        return Answer(stream.text, ended_by, tokens, seconds, scene.stamp, scene.trained, scene.epoch)

    def ask_batch(
        self,
        questions: Sequence[str],
        cancel: threading.Event | None = None,
        max_tokens: int | None = None,
        time_limit: float | None = None,
    ) -> list[Answer]:
        """Answer several questions about the newest reasoned scene in one batch, each as `ask` would (evaluation).

        In bfloat16 the summation order differs from a single row's, which can flip the choice between close tokens.

        Arguments and errors as in `ask`; max_tokens holds per question, time_limit for the whole batch.
        """
        began = time.monotonic()
        if not questions:
            return []
        scene, ids, max_tokens, time_limit = self._prepare(questions, max_tokens, time_limit)
        streams = [TextStream(self.language_model.text, self.config.max_answer_chars) for _ in ids]
        ended = decode_batch(
            self.language_model,
            scene.layers,
            ids,
            streams,
            cancel or threading.Event(),
            self._model_lock,
            max_tokens,
            began + time_limit,
            self._pool_questions(questions, scene),
        )
        seconds = time.monotonic() - began
        return [
            Answer(stream.text, ended_by, tokens, seconds, scene.stamp, scene.trained, scene.epoch)
            for stream, (ended_by, tokens) in zip(streams, ended, strict=True)
        ]

    @torch.inference_mode()
    def _pool_questions(self, questions: Sequence[str], scene: _Scene) -> torch.Tensor | None:
        texts = [check_question(question, self.config.max_question_chars) for question in questions]
        scene_index = torch.zeros(len(texts), dtype=torch.long, device=scene.tokens.device)
        return self.pool_question(texts, scene.tokens, scene_index)

    def _prepare(
        self, questions: Sequence[str], max_tokens: int | None, time_limit: float | None
    ) -> tuple[_Scene, list[list[int]], int, float]:
        """Returns (scene, ids of each question, limits); raises InvalidInput if a question cannot be answered."""
        config = self.config
        max_tokens = config.max_tokens if max_tokens is None else max_tokens
        time_limit = config.time_limit if time_limit is None else time_limit
        check_limits(max_tokens, time_limit, config.max_tokens_limit, config.time_limit_limit)
        ids = [self.question_ids(question) for question in questions]
        scene = self._scene
        if scene is None:
            raise InvalidInput("scene", "no scene has been reasoned about yet")
        tokens_left = self.language_model.context - scene.layers[0][0].shape[-2] - max(map(len, ids))
        if tokens_left < 1:
            raise InvalidInput("question", f"is {1 - tokens_left} tokens too long for {self.language_model.name}")
        return scene, ids, min(max_tokens, tokens_left), time_limit

    def _inputs(
        self, queries: SceneQueries, future_motion: np.ndarray | None, source: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, str]:
        """Returns (features, centres, scores, view features, motion as batches of one, source of the motion)."""
        if queries.features.shape[1] != self.config.query_dims:
            raise InvalidInput("features", f"want {self.config.query_dims} channels, got {queries.features.shape[1]}")
        if queries.points.shape[1] == 0:
            raise InvalidInput("points", "a query has no points")
        if queries.labels.size and queries.labels.max() >= NUM_CLASSES:
            raise InvalidInput("labels", f"label {int(queries.labels.max())} is not an occupied class")
        if source not in SOURCES:
            raise InvalidInput("motion_source", f"want one of {list(SOURCES)}, got {source!r}")
        if future_motion is None:
            waypoints, source = constant_velocity(queries.ego.twist), "constant_velocity"
        else:
            waypoints = check_motion(future_motion)
        arrays = (queries.features, queries.centres, queries.scores, queries.view_features, waypoints, queries.labels)
        features, centres, scores, views, motion, labels = (
            torch.from_numpy(a).to(self.anchors.device)[None] for a in arrays
        )
        return features, centres, ranking_scores(scores, labels, self.config.ground_score), views, motion, source

    def _sequence(self, scene: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings after the prefix, [B, T, D] in the language model's dtype."""
        dtype = self.language_model.dtype
        prompt = self.language_model.embed(self._scoring_ids).expand(len(scene), -1, -1)
        token = self.reasoning_token.expand(len(scene), 1, -1)  # [B, 1, D]
        if self.config.token_reads:
            scene_index = torch.arange(len(scene), device=scene.device)
            action = self.pool_question([ACTION] * len(scene), scene, scene_index)  # [B, D]
            token = token if action is None else token + action[:, None]
        return torch.cat([scene.to(dtype), prompt, token.to(dtype)], dim=1)

    def _readout(
        self,
        hidden: torch.Tensor,
        features: torch.Tensor,
        centres: torch.Tensor,
        motion: torch.Tensor,
        scene: torch.Tensor,
        chosen: torch.Tensor,
    ) -> Readout:
        """Returns the read-outs from the hidden states [B, T, D] after the prefix."""
        token = hidden[:, -1].float()  # T_r, [B, D]
        occupancy = hidden[:, self.config.global_tokens : scene.shape[1]].float()  # T_o', [B, K, D]
        fused = self.fusion(features, occupancy, chosen)  # [B, Q, C]
        return Readout(
            token=token,
            anchor_logits=self.anchor_head(token, self.anchors),
            occupancy=occupancy,
            fused=fused,
            forecast=self.forecaster(fused, centres, motion),
            scene=scene,
            chosen=chosen,
        )

    # --- language model and adapters

    def add_adapter(self) -> None:
        """Add trainable low-rank adapters to the language model as configured; initially they change nothing."""
        self.set_language_model(lora.with_lora(self.language_model, self.config))

    def save_adapter(self, path: Path) -> None:
        """Write the adapters to a separate safetensors file; raises InvalidInput("adapter") when there are none."""
        lora.save_adapter(self.language_model, self.config, path)

    def load_adapter(self, path: Path, merge: bool = True) -> None:
        """Load adapters from a file: merged into the weights for inference, or (merge False) trainable.

        Raises InvalidInput("adapter") naming what is missing, truncated or does not fit; the model is then unchanged.
        """
        load = lora.load_merged if merge else lora.load_adapter
        self.set_language_model(load(self.language_model, self.config, path))

    def train(self, mode: bool = True) -> Reasoner:
        """Set the training mode of the bridge and of the adapters (their dropout)."""
        super().train(mode)
        if lora.has_adapter(self.language_model):
            lora.set_training(self.language_model, mode)
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Reasoner:
        # `to(device)` moves the bridge and the language model, which keeps its own dtype.
        super()._apply(fn, recurse)
        if self.language_model.device != self.anchors.device:
            self.set_language_model(self.language_model.to(self.anchors.device))
        return self
