"""InternLM2 in a native class equals its published equations; the language model comes out of InternVL checkpoints."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.reasoning.llm import internlm2_tokenizer, internvl
from sparseoccvla_ros.reasoning.llm.language_model import load_language_model

HEADS, KV_HEADS, WIDTH, LAYERS, VOCABULARY = 4, 2, 32, 2, 300
CONFIG = {
    "model_type": "internlm2",
    "architectures": ["InternLM2ForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
    "attn_implementation": "flash_attention_2",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "bias": False,
}


def random_state(seed=0):
    """Tensors under InternLM2's own names."""
    generator = torch.Generator().manual_seed(seed)

    def make(*shape, scale=0.2):
        return torch.randn(*shape, generator=generator) * scale

    state = {
        "model.tok_embeddings.weight": make(VOCABULARY, WIDTH, scale=1.0),
        "output.weight": make(VOCABULARY, WIDTH),
    }
    state["model.norm.weight"] = 1 + make(WIDTH)
    fused = (HEADS + 2 * KV_HEADS) * WIDTH // HEADS
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        state[at + "attention.wqkv.weight"] = make(fused, WIDTH)
        state[at + "attention.wo.weight"] = make(WIDTH, WIDTH)
        state[at + "feed_forward.w1.weight"] = make(48, WIDTH)
        state[at + "feed_forward.w2.weight"] = make(WIDTH, 48)
        state[at + "feed_forward.w3.weight"] = make(48, WIDTH)
        state[at + "attention_norm.weight"] = 1 + make(WIDTH)
        state[at + "ffn_norm.weight"] = 1 + make(WIDTH)
    return state


def plain_internlm2(state, ids):
    """Logits [T, vocabulary] by the equations of the InternLM2 report, loop by loop, with nothing of transformers."""
    size, group = WIDTH // HEADS, HEADS // KV_HEADS
    length = len(ids)

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + CONFIG["rms_norm_eps"]).sqrt() * weight

    base, longest = CONFIG["rope_theta"], CONFIG["max_position_embeddings"]
    if length > longest:
        factor = CONFIG["rope_scaling"]["factor"]
        base = base * (factor * length / longest - (factor - 1)) ** (size / (size - 2))
    angle = torch.arange(length)[:, None] / base ** (torch.arange(0, size, 2) / size)
    cos, sin = angle.cos(), angle.sin()

    def rotate(x):
        first, second = x[:, : size // 2], x[:, size // 2 :]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    x = state["model.tok_embeddings.weight"][ids]
    future = torch.ones(length, length).triu(1).bool()
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        y = norm(x, state[at + "attention_norm.weight"])
        fused = y @ state[at + "attention.wqkv.weight"].T
        heads = []
        for head in range(HEADS):
            g = head // group
            # Each group: its query heads, its key, its value.
            slot = [g * (group + 2) + s for s in (head % group, group, group + 1)]
            q, k, v = (fused[:, s * size : (s + 1) * size] for s in slot)
            weights = (rotate(q) @ rotate(k).T / size**0.5).masked_fill(future, -torch.inf).softmax(-1)
            heads.append(weights @ v)
        x = x + torch.cat(heads, dim=-1) @ state[at + "attention.wo.weight"].T
        y = norm(x, state[at + "ffn_norm.weight"])
        gate = functional.silu(y @ state[at + "feed_forward.w1.weight"].T)
        x = x + (gate * (y @ state[at + "feed_forward.w3.weight"].T)) @ state[at + "feed_forward.w2.weight"].T
    return norm(x, state["model.norm.weight"]) @ state["output.weight"].T


def sentencepiece_file(path):
    """A byte-fallback vocabulary such as InternLM2's, small: text pieces follow the bytes, merges in order."""
    from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto()
    model.normalizer_spec.add_dummy_prefix = False
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)] + [(f"<0x{i:02X}>", 6) for i in range(256)]
    pieces += [("he", 1), ("ll", 1), ("hell", 1), ("hello", 1)] + [(c, 1) for c in "▁helowrd"]
    pieces += [("[UNUSED_TOKEN_145]", 1), ("[UNUSED_TOKEN_146]", 1)]
    for i, (text, kind) in enumerate(pieces):
        model.pieces.add(piece=text, score=-float(i), type=kind)
    path.write_bytes(model.SerializeToString())
    return [text for text, _ in pieces]


@pytest.fixture
def folder(tmp_path):
    """An InternVL2 folder: vision tower, projector and language model in two files, sentencepiece tokenizer."""
    state = {f"language_model.{name}": tensor for name, tensor in random_state().items()}
    state |= {"vision_model.encoder.layers.0.attn.qkv.weight": torch.randn(4, 4), "mlp1.0.weight": torch.randn(3)}
    names = sorted(state)
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({n: state[n] for n in part}, tmp_path / f"model-0000{i + 1}-of-00002.safetensors")
    config = {"model_type": "internvl_chat", "llm_config": CONFIG, "vision_config": {"hidden_size": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pieces = sentencepiece_file(tmp_path / "tokenizer.model")
    added = {len(pieces) - 2: "<|im_end|>", len(pieces) - 1: "<|im_start|>", len(pieces): "<IMG_CONTEXT>"}
    settings = {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "added_tokens_decoder": {str(i): {"content": text, "special": True} for i, text in added.items()},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


@pytest.mark.parametrize("length", [1, 20, 64, 90])
def test_native_class_equals_the_published_equations(folder, length):
    """Also beyond the trained length, where the rotary base grows."""
    model = load_language_model(str(folder), dtype="float32")
    assert type(model.model).__name__ == "LlamaForCausalLM"
    ids = torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))
    with torch.inference_mode():
        hidden, _ = model.forward(model.embed(ids))
        got = model.logits(hidden[0])
    want = plain_internlm2(random_state(), ids)
    assert want.abs().max() > 1
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_split_of_the_fused_projection_keeps_each_row():
    rows = torch.arange((16 + 2 * 8) * 3.0)[:, None].expand(-1, 5)
    out = internvl.llama_state({"model.layers.3.attention.wqkv.weight": rows}, 16, 8)
    q, k, v = (out[f"model.layers.3.self_attn.{n}_proj.weight"][:, 0].view(-1, 3)[:, 0] / 3 for n in "qkv")
    assert q.tolist() == [4 * g + s for g in range(8) for s in range(2)]
    assert k.tolist() == [4 * g + 2 for g in range(8)]
    assert v.tolist() == [4 * g + 3 for g in range(8)]


def test_pickled_checkpoints_load_without_running_code(folder):
    for file in folder.glob("*.safetensors"):
        file.unlink()
    torch.save({f"language_model.{n}": t for n, t in random_state(1).items()}, folder / "pytorch_model.bin")
    model = load_language_model(str(folder), dtype="float32")
    assert torch.equal(model.embedding_weight, random_state(1)["model.tok_embeddings.weight"])

    class Evil:
        def __reduce__(self):
            return (open, (str(folder / "ran"), "w"))

    torch.save({"language_model.output.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match=r"pytorch_model\.bin"):
        load_language_model(str(folder))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("model.layers.1.feed_forward.w3.weight"), "lacks model.layers.1.mlp.up_proj.weight"),
        (lambda s: s.update({"output.weight": torch.zeros(3, 3)}), r"lm_head.weight is \[3, 3\]"),
        (lambda s: s.update({"model.layers.0.attention.wqkv.weight": torch.zeros(7, WIDTH)}), "wqkv"),
        (lambda s: s.update({"model.layers.0.attention.wqkv.lora_A": torch.zeros(8, WIDTH)}), "lora_A"),
        (None, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(folder, change, reason):
    for file in folder.glob("*.safetensors"):
        file.unlink()
    state = random_state()
    if change is not None:
        change(state)
    save_file({f"language_model.{n}": t for n, t in state.items()}, folder / "model.safetensors")
    if change is None:
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInput, match=reason) as error:
        load_language_model(str(folder))
    assert error.value.field == "language_model"


def test_no_weights_at_all(folder):
    for file in folder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(InvalidInput, match="no weight files"):
        load_language_model(str(folder))


@pytest.mark.parametrize("style", ["internvl_chat", "internvl"])
def test_qwen_inside_internvl(folder, style):
    """InternVL2-1B (repository names) and InternVL3 as transformers saves it: native Qwen2, only the prefix goes."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    settings = Qwen2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    origin = Qwen2ForCausalLM(settings).eval()
    for file in folder.glob("*.safetensors"):
        file.unlink()
    if style == "internvl_chat":
        state = {f"language_model.{n}": t.clone() for n, t in origin.state_dict().items()}
        config = {"model_type": style, "llm_config": settings.to_dict()}
    else:
        state = {n.replace("model.", "model.language_model.", 1): t.clone() for n, t in origin.state_dict().items()}
        config = {"model_type": style, "text_config": settings.to_dict()}
    save_file(state | {"vision_model.x": torch.zeros(1)}, folder / "model.safetensors")
    loaded = internvl.load(folder, config, torch.float32)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(loaded(ids).logits, origin(ids).logits, atol=1e-5, rtol=1e-5)


# --- tokenizer


def test_tokenizer_without_its_own_class(folder):
    model = load_language_model(str(folder), dtype="float32")
    tokenizer, spell = model.tokenizer, model.tokenizer.convert_ids_to_tokens
    assert spell(model.tokens("hello world")) == ["hello", "▁", "w", "o", "r", "l", "d"]
    assert spell(model.tokens("hé")) == ["h", "<0xC3>", "<0xA9>"]
    assert model.text(model.tokens("hello wörld")) == "hello wörld"
    end, start = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|im_start|>"))
    assert (end, start) == (271, 272)
    assert not {"[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"} & set(tokenizer.get_vocab())
    assert {end, start} <= model.stop_ids
    before, after = model.prompt_parts("hello", "world")
    assert (before[:2], after[0]) == ([1, start], end)
    assert not set(model.tokens("<|im_end|>")) & model.stop_ids
    assert model.answer_end() == end


def test_tokenizer_files_that_are_broken(folder):
    (folder / "tokenizer.model").write_bytes(b"\xff\xff\xff")
    with pytest.raises(InvalidInput, match=r"tokenizer\.model"):
        internlm2_tokenizer.load(folder)
    sentencepiece_file(folder / "tokenizer.model")
    settings = {"added_tokens_decoder": {"500": {"content": "<far>"}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InvalidInput, match="no token has the id"):
        internlm2_tokenizer.load(folder)
