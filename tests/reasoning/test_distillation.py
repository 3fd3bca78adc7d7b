"""A frozen CLIP teaches the global tokens, and nothing of it is needed afterwards."""

import pytest
import torch
from torch.nn import functional

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.reasoning.distillation import ClipTeacher, GlobalDistillation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random CLIP as transformers saves it, both halves."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 50, "max_position_embeddings": 8},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(path)
    return path


def images(seed=0):
    return torch.randint(0, 256, (2, 3, 40, 110, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_teacher_is_frozen_and_looks_at_whole_images(folder):
    teacher = ClipTeacher.from_folder(folder)
    teacher.train()
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    out = teacher(images())
    assert out.shape == (2, 3, 12)
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(2, 3))
    for side in (slice(0, 4), slice(-4, None)):
        other = images()
        other[0, 0, :, side] = 255 - other[0, 0, :, side]
        changed = (teacher(other) - out).abs().amax(-1)
        assert changed[0, 0] > 1e-6
        assert changed.flatten()[1:].max() < 1e-6


def test_teacher_equals_transformers_on_square_images(folder):
    from transformers import CLIPModel

    square = torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8)
    pixels = square[0].permute(0, 3, 1, 2).float() / 255
    teacher = ClipTeacher.from_folder(folder)
    with torch.no_grad():
        model = CLIPModel.from_pretrained(folder).eval()
        out = model.vision_model(pixel_values=(pixels - teacher.mean) / teacher.std).pooler_output
        want = functional.normalize(model.visual_projection(out), dim=-1)
    torch.testing.assert_close(teacher(square)[0], want, atol=1e-5, rtol=1e-4)


def test_loss_falls_and_reaches_the_global_tokens(folder, make_reasoner):
    torch.manual_seed(0)
    reasoner = make_reasoner()
    target = ClipTeacher.from_folder(folder)(images())
    seen = torch.ones(2, 3, dtype=torch.bool)
    student = GlobalDistillation(reasoner.language_model.dims, 12)
    views, features, centres = torch.randn(2, 3, 128), torch.randn(2, 9, 128), torch.randn(2, 9, 3)
    optimiser = torch.optim.Adam([*reasoner.global_tokens.parameters(), *student.parameters()], 3e-3)
    losses = []
    for _ in range(40):
        loss = student(reasoner.global_tokens(views, features, centres), target, seen)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert reasoner.global_tokens.queries.grad.abs().sum() > 0
    assert losses[-1] < 0.3 * losses[0]
    assert not any(
        "teacher" in name or "head" in name.split(".")[0] for name in dict(reasoner.global_tokens.named_parameters())
    )


def test_missing_cameras_do_not_count():
    torch.manual_seed(0)
    student = GlobalDistillation(8, 4)
    tokens = torch.randn(2, 3, 8)
    target = functional.normalize(torch.randn(2, 5, 4), dim=-1)
    seen = torch.tensor([[True, True, False, False, False], [False, False, False, False, True]])
    loss = student(tokens, target, seen)
    target[~seen] = 7.0
    torch.testing.assert_close(student(tokens, target, seen), loss)
    assert student(tokens, target, torch.zeros_like(seen)).item() == 0


def test_folders_that_are_no_clip(tmp_path, folder, tiny_model):
    import shutil

    with pytest.raises(InvalidInput) as error:
        ClipTeacher.from_folder(tmp_path)
    assert error.value.field == "clip"
    broken, other = tmp_path / "broken", tmp_path / "other"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:500])
    tiny_model.model.save_pretrained(other)
    for path in (broken, other):
        with pytest.raises(InvalidInput) as error:
            ClipTeacher.from_folder(path)
        assert error.value.field == "clip"
