"""Randomly initialised Llamas with their own tokenizer, for tests and timing without any download."""

from __future__ import annotations

from typing import Any

from ..config import ReasoningConfig
from ..prompts import templates
from . import internvl

NAME = "random-tiny"
LARGE = "random-internlm2-1.8b"
"""The paper's language model with random weights, to measure time and memory without the real weights."""
REDUCED = "random-internlm2-reduced"
"""The same architecture with two layers at an eighth of the width, to run the code path on any machine."""
NAMES = (NAME, LARGE, REDUCED)
VOCABULARY = 768
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(name: str = NAME, seed: int = 0, dtype: Any = None) -> tuple[Any, Any]:
    """Builds (LlamaForCausalLM, fast tokenizer) for one of NAMES: random weights, ChatML template, byte-level BPE.

    random-tiny has 2 layers of 64 channels, the others follow InternLM2. dtype: float32 if None.

    The weights depend on the seed only; the state of torch's global generator is neither used nor changed. The
    tokenizer's merges are trained on the prompt templates, so prompts are about as long as with a real tokenizer.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    defaults = ReasoningConfig()
    corpus = [text for family in templates().values() for text in family]
    corpus += [defaults.system_prompt, defaults.scene_prompt, defaults.scoring_prompt, "system", "user", "assistant"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        # With tied or small weights a random model repeats its last token forever.
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    if name != NAME:
        shrink = 8 if name == REDUCED else 1
        config = internvl.llama_config(
            internvl.INTERNLM2_1_8B
            | {k: internvl.INTERNLM2_1_8B[k] // shrink for k in ("hidden_size", "intermediate_size", "vocab_size")}
            | {"num_hidden_layers": 24 if shrink == 1 else 2}
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM._from_config(config, dtype=dtype or torch.float32)
    return model, tokenizer
