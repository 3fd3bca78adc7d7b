"""A frozen CLIP image encoder teaches the global tokens, in training only (paper, figure: "CLIP").

The paper does not print the loss; ours is one minus the cosine to CLIP's image embedding,
averaged over the cameras. No CLIP weights come with this package: a local transformers folder is needed, and training
goes on without when there is none.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ..core.errors import InvalidInput

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's colour normalisation (Radford et al., 2021), for folders without preprocessor_config.json."""


class ClipTeacher(nn.Module):
    """Image embeddings of a frozen CLIP; its parameters take no gradient and stay in evaluation mode.

    model: transformers' CLIPVisionModelWithProjection; mean, std: of RGB in 0..1.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.size = int(model.config.image_size)
        self.dims = int(model.config.projection_dim)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @classmethod
    def from_folder(cls, folder: Path) -> ClipTeacher:
        """The image half of a local CLIP folder (safetensors). Raises InvalidInput("clip") when it cannot be read."""
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            vision = CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
            # A whole CLIP says this once, for both halves.
            vision.projection_dim = config.get("projection_dim", vision.projection_dim)
            model, found = CLIPVisionModelWithProjection.from_pretrained(
                folder,
                config=vision,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            settings: dict = {}
            if (folder / "preprocessor_config.json").is_file():
                settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        except Exception as error:
            # The library raises errors of many kinds here, also its file format's own.
            raise InvalidInput(
                "clip", f"cannot read {folder}: {(str(error) or 'no reason').splitlines()[0]}"
            ) from error
        if found["missing_keys"]:
            raise InvalidInput("clip", f"{folder.name} lacks {min(found['missing_keys'])}")
        return cls(model, tuple(settings.get("image_mean", MEAN)), tuple(settings.get("image_std", STD)))

    def train(self, mode: bool = True) -> ClipTeacher:
        """A teacher never trains."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Unit embeddings float32 [B, V, E] of RGB images uint8 [B, V, H, W, 3].

        The whole image is squeezed into CLIP's square: cropping would lose the sides of a wide camera image.
        """
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        pixels = functional.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        out = self.model(pixel_values=(pixels - self.mean) / self.std).image_embeds
        return functional.normalize(out.float(), dim=-1).unflatten(0, images.shape[:2])


class GlobalDistillation(nn.Module):
    """The student's head and the loss; it trains with the bridge and is thrown away afterwards.

    dims: D of the global tokens; teacher_dims: E of the teacher.
    """

    def __init__(self, dims: int, teacher_dims: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.LayerNorm(dims), nn.Linear(dims, teacher_dims))

    def forward(self, tokens: torch.Tensor, target: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Loss [] in 0..2: 1 - cosine between the pooled global tokens and each camera's embedding, averaged.

        tokens: [B, G, D], T_g as it goes into the language model; target: [B, V, E] from the teacher; seen: bool
        [B, V], False for cameras without an image. Without any camera the loss is 0.
        """
        student = functional.normalize(self.head(tokens.float().mean(1)), dim=-1)
        loss = 1 - (student[:, None] * target).sum(-1)
        return (loss * seen).sum() / seen.sum().clamp_min(1)
