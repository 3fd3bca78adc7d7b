"""The voxel head's context: blocks are corrected by what stands around them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sparseoccvla_ros.core.classes import FREE, LABEL
from sparseoccvla_ros.occupancy.heads.block_context import EMBEDDING, BlockContext

BLOCKS, HIDDEN = (20, 18, 8), 6
COUNT = 20 * 18 * 8


def network(seed: int = 0) -> BlockContext:
    torch.manual_seed(seed)
    net = BlockContext(BLOCKS, HIDDEN)
    torch.nn.init.normal_(net.out.weight, std=0.3)
    return net


def some_blocks(count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(count, EMBEDDING), torch.randperm(COUNT)[:count]


def test_a_new_network_changes_nothing():
    torch.manual_seed(0)
    added = BlockContext(BLOCKS, HIDDEN)(*some_blocks())
    assert added.shape == (400, 8, FREE + 1)
    assert not added.any()


def test_blocks_may_come_in_any_order():
    net, (embedded, block) = network(), some_blocks()
    order = torch.randperm(len(block))
    with torch.no_grad():
        torch.testing.assert_close(net(embedded[order], block[order]), net(embedded, block)[order])


@pytest.mark.parametrize("away", [(0, 0, 1), (1, 0, 0), (0, -6, 0), (5, 4, -3)])
def test_a_block_counts_for_those_around_it(away):
    net = network()
    here = torch.tensor([9, 9, 4])
    there = here + torch.tensor(away)
    block = torch.stack([(x * BLOCKS[1] + y) * BLOCKS[2] + z for x, y, z in (here, there)])
    embedded = torch.ones(2, EMBEDDING)
    with torch.no_grad():
        alone, beside = net(embedded[:1], block[:1]), net(embedded, block)[:1]
    assert (alone - beside).abs().max() > 1e-4


@pytest.mark.parametrize("blocks", [(5, 7, 2), (1, 1, 1), (3, 4, 5)])
def test_any_grid_fits(blocks):
    net = BlockContext(blocks, HIDDEN)
    count = blocks[0] * blocks[1] * blocks[2]
    assert net(torch.rand(count, EMBEDDING), torch.arange(count)).isfinite().all()


@pytest.mark.numeric
def test_packed_weights_compute_the_same():
    net, (embedded, block) = network(), some_blocks()
    plain = net(embedded, block).detach()
    net.requires_grad_(False)
    with torch.inference_mode():
        torch.testing.assert_close(net(embedded, block), plain, atol=1e-4, rtol=1e-4)


def test_it_learns_what_only_the_surroundings_tell():
    """Blocks are cars where a wall stands three blocks further along x, else free."""
    torch.manual_seed(0)
    net = BlockContext(BLOCKS, HIDDEN)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    asked, wall = ((x * 18 + torch.arange(4, 12)) * 8 + 3 for x in (7, 10))
    scenes = ((asked, FREE), (torch.cat([asked, wall]), LABEL["car"]))
    for _ in range(150):
        logits = torch.stack([net(torch.ones(len(block), EMBEDDING), block)[: len(asked)] for block, _ in scenes])
        truth = torch.tensor([label for _, label in scenes])[:, None, None].expand(logits.shape[:-1])
        loss = F.cross_entropy(logits.flatten(0, 2), truth.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (logits.argmax(-1) == truth).all()
