"""Parameters of the reasoning stage."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import InvalidInput

DTYPES = ("auto", "bfloat16", "float16", "float32")
LORA_TARGETS = ("all", "attention")
TOKEN_SCORES = ("mean", "max")


@dataclass(frozen=True)
class ReasoningConfig:
    """Connector, language model, read-outs and forecaster; the defaults are the tiny preset.

    Raises InvalidInput naming the field when a value is out of range.
    """

    query_dims: int = 128
    """Channels C of an occupancy query."""
    language_model: str = "smollm2-135m-instruct"
    """Language model: "smollm2-135m-instruct" (from its Python package), "random-tiny" (untrained, for tests), or the
    folder of any transformers causal language model, of InternLM2 or of InternVL (without its vision encoder)."""
    dtype: str = "auto"
    """dtype of the language model; the bridge is always float32. "auto": bfloat16 if the hardware supports it natively,
    else float32."""
    occupancy_tokens: int = 100
    """Maximum number of queries that become tokens: those with the highest occupancy score."""
    token_score: str = "mean"
    """Reduction of point scores to a query's occupancy score: "mean" or "max"."""
    ground_score: float = 1.0
    """Factor on the scores of ground points (road, sidewalk, terrain, other flat) when queries are ranked for tokens:
    below 1, objects rank before ground, which most queries predict with high confidence."""
    global_tokens: int = 12
    """Learned queries for what occupancy cannot carry (weather, light, signs); the paper uses 12."""
    global_heads: int = 4
    """Attention heads of the global tokens; divides query_dims."""
    reading_dims: int = 0
    """Width of the reading token's question encoder; 0: no reading token, as in the paper
    (see reasoning/model/question_pooling.py)."""
    reading_counts: int = 0
    """Number of sums over the scene tokens in the reading token, beside the mean: a mean cannot count. 0 for weights
    older than this option."""
    token_reads: bool = False
    """Whether the reading token of the question prompts.ACTION is added to the reasoning token's embedding. False for
    weights older than this option."""
    max_prefill_tokens: int = 150
    """Maximum of prefix + global + occupancy + scoring tokens; bounds the latency of a frame."""
    system_prompt: str = "You drive a car. The tokens show the scene."
    """System message of every prompt."""
    scene_prompt: str = "Scene:"
    """Start of the user message, before the global and occupancy tokens."""
    scoring_prompt: str = "Score the trajectory anchors from observations and reasoning."
    """Prompt before the reasoning token (paper, overview figure)."""
    anchor_dims: int = 128
    """Width of the anchor scorer."""
    lora_r: int = 16
    """Rank of the low-rank adapters; 0 keeps the language model frozen. The paper uses 128."""
    lora_alpha: int = 16
    """Adapter scale is lora_alpha / lora_r. The paper uses 16."""
    lora_dropout: float = 0.05
    """Dropout inside the adapters during training."""
    lora_targets: str = "all"
    """Adapted layers: "all" linear layers of the decoder (HERMES) or only its "attention" (OmniDrive)."""
    forecaster_dims: int = 128
    """Width of the forecaster's layers."""
    forecaster_layers: int = 2
    """Attention blocks of the forecaster."""
    forecaster_heads: int = 4
    """Attention heads of the forecaster; divides forecaster_dims."""
    max_object_speed: float = 25.0
    """m/s; upper bound on the speed at which the forecaster moves a query, per axis."""
    score_threshold: float = 0.5
    """Minimum class probability of a forecast point, as in the encoder's post-processing."""
    max_point_distance: float = 3.0
    """m; points farther from their query's centre are dropped, as in the encoder's post-processing."""
    padding: bool = True
    """Close holes of one voxel in forecasts, as the encoder's post-processing does."""
    continue_ground: bool = False
    """In forecasts in future ego frames, repeat the ground that has left the grid behind the vehicle ahead of it."""
    max_question_chars: int = 500
    """Maximum length of a question; longer ones are refused."""
    max_answer_chars: int = 2000
    """Maximum length of an answer in characters."""
    max_tokens: int = 64
    """Default maximum number of tokens of an answer."""
    max_tokens_limit: int = 1000
    """Largest max_tokens a caller may request."""
    time_limit: float = 10.0
    """s; default time limit of an answer."""
    time_limit_limit: float = 300.0
    """s; largest time_limit a caller may request."""

    def __post_init__(self) -> None:
        at_least = {
            "query_dims": 1,
            "occupancy_tokens": 1,
            "global_tokens": 1,
            "global_heads": 1,
            "max_prefill_tokens": 1,
            "reading_dims": 0,
            "reading_counts": 0,
            "anchor_dims": 1,
            "lora_r": 0,
            "lora_alpha": 1,
            "forecaster_dims": 1,
            "forecaster_layers": 1,
            "forecaster_heads": 1,
            "max_question_chars": 1,
            "max_answer_chars": 1,
            "max_tokens": 1,
            "max_tokens_limit": 1,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidInput(f"reasoning.{name}", f"want an integer >= {least}, got {value!r}")
        ranges = {
            "ground_score": (0.0, 1.0),
            "lora_dropout": (0.0, 0.99),
            "score_threshold": (0.0, 1.0),
            "max_point_distance": (0.0, 1000.0),
            "max_object_speed": (0.0, 150.0),
            "time_limit_limit": (0.001, 3600.0),
            "time_limit": (0.001, self.time_limit_limit),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
                raise InvalidInput(f"reasoning.{name}", f"want {low}..{high}, got {value!r}")
        for name, allowed in (("dtype", DTYPES), ("token_score", TOKEN_SCORES), ("lora_targets", LORA_TARGETS)):
            if getattr(self, name) not in allowed:
                raise InvalidInput(f"reasoning.{name}", f"want one of {list(allowed)}, got {getattr(self, name)!r}")
        for name in ("language_model", "scoring_prompt"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise InvalidInput(f"reasoning.{name}", "is empty")
        for name in ("system_prompt", "scene_prompt"):
            if not isinstance(getattr(self, name), str):
                raise InvalidInput(f"reasoning.{name}", "want a string")
        for name in ("padding", "continue_ground", "token_reads"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(f"reasoning.{name}", f"want true or false, got {getattr(self, name)!r}")
        if (self.token_reads or self.reading_counts) and not self.reading_dims:
            name = "token_reads" if self.token_reads else "reading_counts"
            raise InvalidInput(f"reasoning.{name}", "needs a reading token: reading_dims is 0")
        for heads, dims in (("global_heads", "query_dims"), ("forecaster_heads", "forecaster_dims")):
            if getattr(self, dims) % getattr(self, heads):
                raise InvalidInput(f"reasoning.{heads}", f"does not divide {dims} {getattr(self, dims)}")
        if self.max_tokens > self.max_tokens_limit:
            raise InvalidInput("reasoning.max_tokens", f"{self.max_tokens} is above {self.max_tokens_limit}")
        if self.occupancy_tokens + self.global_tokens >= self.max_prefill_tokens:
            raise InvalidInput(
                "reasoning.max_prefill_tokens",
                f"{self.max_prefill_tokens} leaves no room for a prompt beside "
                f"{self.occupancy_tokens} occupancy and {self.global_tokens} global tokens",
            )
