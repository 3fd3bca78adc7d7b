"""A small random Llama with its own tokenizer: the whole language path in milliseconds, without any download."""

from __future__ import annotations

from typing import Any

from ..config import ReasoningConfig
from ..prompts import templates
from . import internvl

NAME = "random-tiny"
LARGE = "random-internlm2-1.8b"
"""The paper's language model with random weights: for timing and memory, where the real one is not at hand."""
REDUCED = "random-internlm2-reduced"
"""The same layers, two of them and an eighth as wide: the way through the code, on any machine."""
NAMES = (NAME, LARGE, REDUCED)
VOCABULARY = 768
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(name: str = NAME, seed: int = 0, dtype: Any = None) -> tuple[Any, Any]:
    """(LlamaForCausalLM, fast tokenizer) of one of NAMES: random weights, ChatML template, byte-level BPE.

    random-tiny has 2 layers of 64 channels, the others InternLM2's. dtype: float32 if not given.

    The same seed gives the same weights, whatever the state of torch's generator, which is left as it was. The
    tokenizer learns its merges from the prompt templates, so prompts are about as long as under a real tokenizer.
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
        # Tied or small weights make a random model repeat its last token for ever.
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
