"""Loading a causal language model, and the operations on it that the bridge needs.

Any causal model of the transformers library works. Nothing is downloaded: weights come from an installed package or a
local folder, as safetensors (for InternVL and InternLM2 also pickles of plain tensors); a folder's code is never run.

Measured with SmolLM2-135M on one thread of an EPYC (CPU time of a prefill of the tiny preset and of an answer's token),
with the reasoning token and the ranking of 18 anchors against float32 over 12 random scenes with an untrained bridge:

    float32                    402 ms, 67 ms
    bfloat16                   251 ms, 64 ms     cosine 0.95, rank correlation 0.97, first anchor kept in 83 %
    int8 dynamic               168 ms, 39 ms     cosine 0.06, rank correlation 0.68, first anchor kept in 25 %
    int8 dynamic, per channel  174 ms, 38 ms     cosine 0.35, rank correlation 0.80, first anchor kept in 58 %

Dynamic int8 is faster but not used, because it changes the ranking. torch.compile is not used either: it takes 45 to
60 s per sequence length on this CPU, at every start of a node.
"""

from __future__ import annotations

import json
import os
import threading

# Read by huggingface_hub on import: disables all network access.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ...core.errors import InvalidInput
from ...core.paths import cache_folder
from ..config import DTYPES
from . import dummy_llm, internlm2_tokenizer, internvl, smollm2
from .llama_file import LlamaFile
from .onednn_llama import PackedLlama

CacheLayers = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Keys and values [B, heads, T, d] of each layer; never modified, so several continuations can share them."""

_SCENE = "\u241fscene\u241f"
_QUESTION = "\u241fquestion\u241f"
_ANSWER = "\u241fanswer\u241f"


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer.

    model: transformers causal model in eval mode (or a peft model around one), or a `LlamaFile`; tokenizer: its fast
    tokenizer; name: as passed to `load_language_model`; packed: replaces the model's own decoder in inference, see
    `for_inference`.
    """

    model: Any
    tokenizer: Any
    name: str
    packed: PackedLlama | None = None
    # Fast tokenizers are not thread-safe: concurrent calls raise "Already borrowed" or mix up their settings.
    _tokenizing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def decoder(self) -> torch.nn.Module:
        """The transformer without its vocabulary head: a prefill needs hidden states only."""
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return model.get_decoder()

    @property
    def config(self) -> Any:
        """Configuration of the text model."""
        return (
            self.model.config if isinstance(self.model, LlamaFile) else self.model.config.get_text_config(decoder=True)
        )

    @property
    def dims(self) -> int:
        """Width D of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def context(self) -> int:
        """Maximum sequence length."""
        return int(self.config.max_position_embeddings)

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding_weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding_weight.device

    @property
    def embedding_weight(self) -> torch.Tensor:
        """Token embeddings [vocabulary, D]."""
        return self.model.get_input_embeddings().weight

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids of the tokens that end an answer: the end-of-sequence tokens and every special token."""
        found: set[int] = set(self.tokenizer.all_special_ids)
        for holder in (getattr(self.model, "generation_config", None), self.config, self.tokenizer):
            ids = getattr(holder, "eos_token_id", None)
            found.update([ids] if isinstance(ids, int) else ids or ())
        return frozenset(int(i) for i in found)

    def to(self, device: torch.device | str) -> LanguageModel:
        """Returns the model on another device; raises RuntimeError if it was loaded with weights_only."""
        if isinstance(self.model, LlamaFile):
            raise RuntimeError(f"{self.name} was read for inference on this CPU; build it on the other device")
        return replace(self, model=self.model.to(device), packed=None)

    def for_inference(self) -> LanguageModel:
        """Returns the model with its weights packed for this CPU if supported; they must not change afterwards."""
        if isinstance(self.model, LlamaFile):
            return self if self.packed is not None else replace(self, packed=self.model.packed())
        return self if PackedLlama.why_not(self.model) else replace(self, packed=PackedLlama(self.model))

    def embed(self, ids: list[int] | torch.Tensor) -> torch.Tensor:
        """Returns embeddings [B, T, D] of token ids; a list or tensor [T] is a batch of one."""
        tensor = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        return self.model.get_input_embeddings()(tensor if tensor.ndim == 2 else tensor[None])

    def forward(
        self,
        embeddings: torch.Tensor,
        past: CacheLayers | None = None,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, CacheLayers]:
        """Run the decoder on embeddings [B, T, D] that follow `past`.

        mask: bool [B, past + T], False at the padding of rows of different lengths (requires positions, int64 [B, T],
        of the tokens). Returns the last hidden states [B, T, D] (after the final norm) and keys and values of past + T
        tokens. `past` is not modified: the cache appends by creating new tensors. Differentiable, also through `past`;
        raises RuntimeError for a model loaded with weights_only if it is not packed or gradients are enabled.
        """
        if self.packed is not None and not torch.is_grad_enabled():
            return self.packed.forward(embeddings, past, mask, positions)
        if isinstance(self.model, LlamaFile):
            raise RuntimeError(f"{self.name} was read for inference: call for_inference, and disable gradients")
        from transformers import DynamicCache

        cache: Any = DynamicCache(past, config=self.config) if past else DynamicCache(config=self.config)
        # Only adapters have another dtype than the rest (lora.with_lora).
        mixed = self.dtype != torch.float32 and hasattr(self.model, "peft_config")
        with torch.autocast(self.device.type, self.dtype, enabled=mixed):
            out = self.decoder(
                inputs_embeds=embeddings,
                past_key_values=cache,
                use_cache=True,
                attention_mask=None if mask is None else mask.long(),
                position_ids=positions,
            )
        return out.last_hidden_state, tuple((layer.keys, layer.values) for layer in cache.layers)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns vocabulary logits [..., vocabulary] of last hidden states [..., D]."""
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return model.get_output_embeddings()(hidden)

    def tokens(self, text: str) -> list[int]:
        """Returns ids of plain text; special tokens spelled in the text become ordinary ones (no prompt injection)."""
        with self._tokenizing:
            ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        special = set(self.tokenizer.all_special_ids)
        return [i for i in ids if i not in special]

    def text(self, ids: list[int]) -> str:
        """Returns the text of ids without special tokens; bytes that form no character become U+FFFD."""
        with self._tokenizing:
            return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def prompt_parts(self, system: str, scene: str) -> tuple[list[int], list[int]]:
        """Returns the ids before and after a user's question in the model's chat template.

        The first list runs from the start of the conversation to the scene tokens, the second from the end of the
        question to the start of the answer. If the template rejects a system message, it is prepended to the user
        message; a model without a template gets a plain one.
        """
        user = f"{scene}{_SCENE}{_QUESTION}"
        with_system = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        merged = [{"role": "user", "content": f"{system}\n{user}" if system else user}]
        if not getattr(self.tokenizer, "chat_template", None):
            text = f"{system}\nUser: {user}\nAssistant:"
        else:
            from jinja2 import TemplateError

            try:
                text = self._render(with_system if system else merged)
            except TemplateError:
                text = self._render(merged)
        before, found, after = text.partition(_SCENE + _QUESTION)
        if not found:
            raise InvalidInput("language_model", f"the chat template of {self.name} drops or changes the user's text")
        with self._tokenizing:
            parts = self.tokenizer([before, after], add_special_tokens=False, split_special_tokens=False)["input_ids"]
        return parts[0], parts[1]

    def answer_end(self) -> int:
        """Returns the id of the token that ends an answer in the model's chat template (default: end of sequence)."""
        after = ""
        if getattr(self.tokenizer, "chat_template", None):
            turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
            after = self.tokenizer.apply_chat_template(turns, tokenize=False).partition(_ANSWER)[2]
        with self._tokenizing:
            ids = self.tokenizer(after, add_special_tokens=False, split_special_tokens=False)["input_ids"]
        end = next((i for i in ids if i in self.stop_ids), self.tokenizer.eos_token_id)
        if end is None:
            raise InvalidInput("language_model", f"{self.name} has no token that ends an answer")
        return int(end)

    def _render(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def cropped(layers: CacheLayers, length: int) -> CacheLayers:
    """Returns copies of the cached keys and values of the first `length` tokens, so the rest can be freed."""
    return tuple((k[..., :length, :].clone(), v[..., :length, :].clone()) for k, v in layers)


def pick_dtype(name: str, device: torch.device | str = "cpu") -> torch.dtype:
    """Returns the dtype of a name; "auto" is bfloat16 on GPUs and on CPUs with native bfloat16, else float32.

    Other CPUs emulate bfloat16, which is slower than float32. Raises InvalidInput("dtype").
    """
    if name not in DTYPES:
        raise InvalidInput("dtype", f"want one of {list(DTYPES)}, got {name!r}")
    if name != "auto":
        return getattr(torch, name)
    native = torch.device(device).type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def load_language_model(
    name_or_path: str,
    cache_dir: Path | str | None = None,
    dtype: str = "auto",
    progress: Callable[[str], None] = lambda message: None,
    device: torch.device | str = "cpu",
    weights_only: bool = False,
) -> LanguageModel:
    """Loads a language model in eval mode, with frozen weights.

    name_or_path: "smollm2-135m-instruct", one of dummy_llm.NAMES, a local folder (of any transformers causal model
    with safetensors, InternLM2, or InternVL, without its vision encoder), or the name of a fetched model. cache_dir:
    folder of converted models (default `cache_folder()`). dtype: see `pick_dtype`. progress: called with one line per
    slow step. weights_only: where `for_inference` supports the model, read only what it needs, which saves seconds;
    the model can then be neither trained nor moved to another device.
    Raises InvalidInput("language_model") when the model is missing or cannot be read.
    """
    kind = pick_dtype(dtype, device)
    if name_or_path in dummy_llm.NAMES:
        # The small model is generated in float32 and then cast, to be the same model in every dtype.
        small = name_or_path == dummy_llm.NAME
        model, tokenizer = dummy_llm.build(name_or_path, dtype=None if small else kind)
        model = model.to(kind)
    elif name_or_path == smollm2.NAME:
        cache = Path(cache_dir).expanduser() if cache_dir is not None else cache_folder()
        with _no_progress_bars():
            folder = smollm2.converted_folder(cache, progress)
        model, tokenizer = _from_folder(folder, kind, weights_only and torch.device(device).type == "cpu")
    else:
        folder = model_folder(name_or_path)
        if not (folder / "config.json").is_file():
            raise InvalidInput(
                "language_model",
                f"{name_or_path!r} is neither {smollm2.NAME}, {dummy_llm.NAME}, a transformers folder nor something "
                "that ./run models fetch has brought",
            )
        model, tokenizer = _from_folder(folder, kind, weights_only and torch.device(device).type == "cpu")
    if isinstance(model, LlamaFile):
        return LanguageModel(model, tokenizer, name_or_path)
    return LanguageModel(model.eval().requires_grad_(False).to(device), tokenizer, name_or_path)


def model_folder(name_or_path: str) -> Path:
    """Returns the folder of a language model: the given path, or the one `./run models fetch` created for the name."""
    path = Path(name_or_path).expanduser()
    fetched = cache_folder() / "models" / name_or_path
    return path if path.is_dir() or len(path.parts) > 1 or not fetched.is_dir() else fetched


def _from_folder(folder: Path, dtype: torch.dtype, weights_only: bool) -> tuple[Any, Any]:
    if weights_only and (tokenizer := _fast_tokenizer(folder)) and (read := LlamaFile.open(folder, dtype)):
        return read, tokenizer
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        inner = config.get("llm_config") or config
        with _no_progress_bars():
            if inner.get("model_type") == "internlm2":
                tokenizer = internlm2_tokenizer.load(folder)
            else:
                tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            if config.get("model_type") in internvl.MODEL_TYPES:
                return internvl.load(folder, config, dtype), tokenizer
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, **local)
    except InvalidInput:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InvalidInput("language_model", f"cannot read {folder.name}: {reason}") from error
    return model, tokenizer


def _fast_tokenizer(folder: Path) -> Any:
    """Loads a folder's generic fast tokenizer, or returns None; avoids AutoTokenizer, which imports model classes."""
    from transformers import PreTrainedTokenizerFast

    try:
        kind = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
        if kind not in ("PreTrainedTokenizerFast", "TokenizersBackend"):
            return None
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Disable transformers' progress bars, which would garble the nodes' logs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
