"""The reading token: what the scene tokens say to one question, as a token of its own behind it.

The paper leaves it to the language model to find among the scene's tokens what a question is about. A model of 135 M
parameters does not learn that in half an hour on a CPU: 400 steps of 32 questions left its answers the same with
another scene's tokens. So the question itself points at the scene tokens first, as in instruction-aware querying
(InstructBLIP, Dai et al., NeurIPS 2023), and the language model gets what was found as a hint behind the question,
where the bare model already copies from (as the last token before the answer it does not). Occupancy queries stay the
only bridge: the token is made of scene tokens and the question, and of nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HEADS, HEAD_DIMS = 4, 64
HINT, HINT_END = " Hint:", "."
"""Text around the reading token."""
POOLED_TOKEN = -1
"""In lists of token ids: the place of the reading token."""


class QuestionPooling(nn.Module):
    """A question's words choose scene tokens, and channels of their mean.

    dims: D of the language model; width: of the question's encoder; tokens: scene tokens at most; scale: root mean
    square of the language model's token embeddings, which the words are divided by and the token is brought to;
    counts: how many sums over the scene tokens each question forms beside the mean, which is the same of one car and of
    five.
    """

    def __init__(self, dims: int, width: int, tokens: int, scale: float, counts: int = 0) -> None:
        super().__init__()
        self.scale, self.code, self.counts = scale, 2 * width + counts, counts
        self.word = nn.Linear(dims, width)
        self.order = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.query = nn.Linear(2 * width, HEADS * HEAD_DIMS)
        self.norm, self.key = nn.LayerNorm(dims), nn.Linear(dims, HEADS * HEAD_DIMS)
        self.place = nn.Parameter(torch.randn(tokens, HEADS * HEAD_DIMS) * 0.02)
        self.gain = nn.Linear(2 * width, dims)
        nn.init.zeros_(self.gain.weight)
        nn.init.ones_(self.gain.bias)
        if counts:
            self.sought, self.found = nn.Linear(2 * width, counts * HEAD_DIMS), nn.Linear(dims, HEAD_DIMS)
            # At the start a token counts a twentieth, so that hundreds of them are no flood.
            self.rarity = nn.Parameter(torch.full((counts,), -3.0))
        self.out = nn.Sequential(nn.Linear(dims + self.code, dims), nn.GELU(), nn.Linear(dims, dims))
        self.out_norm = nn.RMSNorm(dims, eps=1e-6)
        nn.init.constant_(self.out_norm.weight, scale)

    def forward(self, words: list[Tensor], tokens: Tensor, scene: Tensor) -> Tensor:
        """Reading tokens [N, D] of N questions; arguments as in `read`."""
        return self.token_embedding(*self.read(words, tokens, scene))

    def token_embedding(self, read: Tensor, asked: Tensor) -> Tensor:
        """What was read as a token [N, D] of the language model; both as `read` gives them."""
        return self.out_norm(self.out(torch.cat([nn.functional.rms_norm(read, read.shape[-1:]), asked], dim=-1)))

    def read(self, words: list[Tensor], tokens: Tensor, scene: Tensor) -> tuple[Tensor, Tensor]:
        """(what is read, float32 [N, D] of any size, the questions' own code and what they count [N, code]).

        words: N times the embeddings [L, D] of a question's tokens; tokens: [B, T, D], scene tokens; scene: int64 [N],
        the place of each question's scene in the batch.
        """
        lengths = torch.tensor([len(row) for row in words])
        rows = nn.utils.rnn.pad_sequence([row.float() / self.scale for row in words], batch_first=True)
        packed = nn.utils.rnn.pack_padded_sequence(self.word(rows), lengths, batch_first=True, enforce_sorted=False)
        asked = self.order(packed)[1].transpose(0, 1).flatten(1)
        query = self.query(asked).unflatten(-1, (HEADS, 1, HEAD_DIMS))
        key = self.key(self.norm(tokens)) + self.place[: tokens.shape[1]]
        key = key.unflatten(-1, (HEADS, HEAD_DIMS)).transpose(1, 2)[scene]
        weight = (query @ key.transpose(-1, -2) * HEAD_DIMS**-0.5).softmax(-1)
        # The heads have one value in common: the tokens themselves.
        read = (weight.mean(1) @ tokens[scene])[:, 0] * self.gain(asked)
        return read, torch.cat([asked, self._count(asked, tokens, scene)], dim=-1) if self.counts else asked

    def _count(self, asked: Tensor, tokens: Tensor, scene: Tensor) -> Tensor:
        """How many scene tokens are what each question counts, [N, counts]."""
        sought = self.sought(asked).unflatten(-1, (self.counts, HEAD_DIMS))
        match = sought @ self.found(self.norm(tokens)).transpose(-1, -2)[scene] * HEAD_DIMS**-0.5
        return (match + self.rarity[:, None]).sigmoid().sum(-1)
