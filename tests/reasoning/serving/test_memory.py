"""Answers give back what they took: cancelled ones, and a thousand in a row."""

import gc
import threading

import numpy as np
import psutil
import pytest
import torch

QUESTIONS = 1000


def tensor_bytes():
    """Bytes of every tensor that is alive."""
    gc.collect()
    storages = {}
    for item in gc.get_objects():
        # Weights that are packed for oneDNN have no storage to ask for; they are made once and belong to the model.
        if type(item) in (torch.Tensor, torch.nn.Parameter) and not item.is_mkldnn:
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_a_cancelled_answer_frees_its_keys_and_values(reasoner, only_new, make_scene):
    reasoner.reason(make_scene(0))
    before = tensor_bytes()
    cancel, pieces, at_work = threading.Event(), [], []

    def on_text(piece):
        pieces.append(piece)
        if len(pieces) == 50:
            at_work.append(tensor_bytes())
            cancel.set()

    answer = reasoner.ask("Tell a long story.", on_text, cancel, max_tokens=1000)
    assert answer.reason == "cancelled"
    # 2 layers x (key, value) x 2 heads x 16 channels x 4 bytes for each of over 150 tokens.
    assert at_work[0] - before > 150 * 512
    assert tensor_bytes() == before


@pytest.mark.slow
def test_a_thousand_questions_leak_nothing(reasoner, make_scene):
    process, scenes, sizes, tensors = psutil.Process(), [make_scene(s) for s in range(4)], [], []
    cancelled = threading.Event()
    cancelled.set()
    for i in range(QUESTIONS):
        if i % 10 == 0:
            reasoner.reason(scenes[i // 10 % 4])
        kind = i % 5
        if kind == 0:
            reasoner.ask("What is near?", cancel=cancelled)
        elif kind == 1:
            reasoner.ask_batch(["What is near?", "Is the road ahead free, or is something in the way?"], max_tokens=2)
        else:
            reasoner.ask(f"What is near object {i}?", max_tokens=3)
        if i % 250 == 249:
            tensors.append(tensor_bytes())
        if i % 50 == 49:
            sizes.append(process.memory_info().rss)
    assert len(set(tensors)) == 1, "tensors stay alive"
    # The allocator settles in the first third; from there on it must stay flat. It wanders by 4 MB: over 4000 questions
    # the same fit gives 0.8 KB, ending level. A scene's keys and values that stay alive are 66 KB.
    settled = np.array(sizes[len(sizes) // 3 :], np.float64)
    slope = np.polyfit(np.arange(len(settled)) * 50, settled, 1)[0]
    assert slope < 6144, f"{slope:.0f} bytes per question"
