"""The reading token: scene tokens pooled for one question, inserted as an extra token after the question.

In the paper the language model itself has to find the scene tokens that a question is about. A model of 135 M
parameters does not learn that in half an hour on a CPU: after 400 steps of 32 questions its answers were the same with
another scene's tokens. Here the question first attends to the scene tokens, as in instruction-aware querying
(InstructBLIP, Dai et al., NeurIPS 2023), and the result is passed to the language model as a hint after the question, a
position that the pretrained model already copies from (it does not copy from the last token before the answer). The
bridge stays the only input from vision: the reading token depends on scene tokens and the question alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.onednn import Linear

HEADS, HEAD_DIMS = 4, 64
HINT, HINT_END = " Hint:", "."
"""Text before and after the reading token."""
POOLED_TOKEN = -1
"""Placeholder id of the reading token in lists of token ids."""


class QuestionPooling(nn.Module):
    """Attention pooling of scene tokens by a question, with a gain per channel computed from the question.

    dims: D of the language model; width: of the question encoder; tokens: maximum number of scene tokens; scale: root
    mean square of the language model's token embeddings, which word embeddings are divided by and the reading token is
    normalised to; counts: number of sums over the scene tokens beside the mean, which cannot tell one car from five.
    """

    def __init__(self, dims: int, width: int, tokens: int, scale: float, counts: int = 0) -> None:
        super().__init__()
        self.scale, self.code, self.counts = scale, 2 * width + counts, counts
        self.word = Linear(dims, width)
        self.order = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.query = Linear(2 * width, HEADS * HEAD_DIMS)
        self.norm, self.key = nn.LayerNorm(dims), Linear(dims, HEADS * HEAD_DIMS)
        self.place = nn.Parameter(torch.randn(tokens, HEADS * HEAD_DIMS) * 0.02)
        self.gain = Linear(2 * width, dims)
        nn.init.zeros_(self.gain.weight)
        nn.init.ones_(self.gain.bias)
        if counts:
            self.sought, self.found = Linear(2 * width, counts * HEAD_DIMS), Linear(dims, HEAD_DIMS)
            # Each token initially counts about 1/20: the sum over hundreds of tokens stays small.
            self.rarity = nn.Parameter(torch.full((counts,), -3.0))
        self.out = nn.Sequential(Linear(dims + self.code, dims), nn.GELU(), Linear(dims, dims))
        self.out_norm = nn.RMSNorm(dims, eps=1e-6)
        nn.init.constant_(self.out_norm.weight, scale)

    def forward(self, words: list[Tensor], tokens: Tensor, scene_index: Tensor) -> Tensor:
        """Returns reading tokens [N, D] of N questions; arguments as in `read`."""
        return self.token_embedding(*self.read(words, tokens, scene_index))

    def token_embedding(self, read: Tensor, asked: Tensor) -> Tensor:
        """Returns reading tokens [N, D] on the language model's scale, from the two outputs of `read`."""
        return self.out_norm(self.out(torch.cat([nn.functional.rms_norm(read, read.shape[-1:]), asked], dim=-1)))

    def read(self, words: list[Tensor], tokens: Tensor, scene_index: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (pooled scene tokens, float32 [N, D], not normalised; question encodings and counts [N, code]).

        words: token embeddings [L, D] of each of N questions; tokens: [B, T, D], scene tokens; scene_index: int64 [N],
        the batch index of each question's scene.
        """
        lengths = torch.tensor([len(row) for row in words])
        rows = nn.utils.rnn.pad_sequence([row.float() / self.scale for row in words], batch_first=True)
        packed = nn.utils.rnn.pack_padded_sequence(self.word(rows), lengths, batch_first=True, enforce_sorted=False)
        asked = self.order(packed)[1].transpose(0, 1).flatten(1)
        query = self.query(asked).unflatten(-1, (HEADS, 1, HEAD_DIMS))
        key = self.key(self.norm(tokens)) + self.place[: tokens.shape[1]]
        key = key.unflatten(-1, (HEADS, HEAD_DIMS)).transpose(1, 2)[scene_index]
        weight = (query @ key.transpose(-1, -2) * HEAD_DIMS**-0.5).softmax(-1)
        # All heads share one value, the unprojected tokens; their weights are averaged.
        read = (weight.mean(1) @ tokens[scene_index])[:, 0] * self.gain(asked)
        return read, torch.cat([asked, self._count(asked, tokens, scene_index)], dim=-1) if self.counts else asked

    def _count(self, asked: Tensor, tokens: Tensor, scene_index: Tensor) -> Tensor:
        """Returns soft counts [N, counts] of the scene tokens that match each question."""
        sought = self.sought(asked).unflatten(-1, (self.counts, HEAD_DIMS))
        match = sought @ self.found(self.norm(tokens)).transpose(-1, -2)[scene_index] * HEAD_DIMS**-0.5
        return (match + self.rarity[:, None]).sigmoid().sum(-1)
