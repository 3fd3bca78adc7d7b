"""Which queries become tokens, in which order, and what the tokens carry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.reasoning.config import ReasoningConfig
from sparseoccvla_ros.reasoning.model.connector import Connector, choose_queries, query_scores, ranking_scores
from sparseoccvla_ros.reasoning.model.global_tokens import GlobalTokens
from sparseoccvla_ros.reasoning.model.positional_encoding import encode_places, encode_positions


def random_queries(seed, count):
    rng = np.random.default_rng(seed)
    centres = torch.from_numpy(rng.uniform(-40, 40, (1, count, 3)).astype(np.float32))
    return centres, torch.from_numpy(rng.uniform(0, 1, (1, count)).astype(np.float32))


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 80), keep=st.integers(1, 80))
def test_best_scores_near_to_far_and_permutation_invariant(seed, count, keep):
    centres, scores = random_queries(seed, count)
    chosen = choose_queries(centres, scores, keep)[0]
    kept = min(keep, count)
    assert len(set(chosen.tolist())) == kept
    if kept:
        assert sorted(scores[0][chosen].tolist()) == sorted(scores[0].tolist())[-kept:]
        distance = torch.linalg.vector_norm(centres[0, chosen, :2], dim=-1)
        assert (distance.diff() >= -1.01e-3).all()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    again = choose_queries(centres[:, order], scores[:, order], keep)[0]
    assert order[again].tolist() == chosen.tolist()


def test_equal_distance_goes_by_angle_then_height():
    centres = torch.tensor([[[0.0, 5, 0], [5, 0, 2], [5, 0, 1], [-5, 0, 0], [0, -5, 0]]])
    assert choose_queries(centres, torch.ones(1, 5), 5)[0].tolist() == [4, 2, 1, 0, 3]


def test_each_sample_of_a_batch_is_chosen_on_its_own():
    centres = torch.cat([random_queries(s, 30)[0] for s in (1, 2)])
    scores = torch.cat([random_queries(s, 30)[1] for s in (1, 2)])
    both = choose_queries(centres, scores, 10)
    for i in range(2):
        assert both[i].tolist() == choose_queries(centres[i : i + 1], scores[i : i + 1], 10)[0].tolist()


def test_query_score_is_mean_or_max():
    scores = torch.tensor([[[0.0, 1.0], [0.6, 0.6]]])
    assert query_scores(scores, "mean").argmax() == 1
    assert query_scores(scores, "max").argmax() == 0


def test_a_token_carries_its_feature_and_its_place():
    torch.manual_seed(0)
    connector = Connector(ReasoningConfig(), 64, 0.1)
    feature, centre = torch.randn(1, 1, 128), torch.tensor([[[10.0, -3.0, 1.0]]])
    token = connector(feature, centre)
    assert token.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-3)
    assert not torch.allclose(token, connector(feature, centre + torch.tensor([0.4, 0, 0])), atol=1e-4)
    assert not torch.allclose(token, connector(torch.randn(1, 1, 128), centre), atol=1e-3)


def test_global_tokens_see_views_and_queries_but_not_their_order():
    torch.manual_seed(0)
    tokens = GlobalTokens(ReasoningConfig(), 64, 0.1).eval()
    views, features = torch.randn(1, 6, 128), torch.randn(1, 20, 128)
    centres = random_queries(0, 20)[0]
    out = tokens(views, features, centres)
    assert out.shape == (1, 12, 64)
    order = torch.randperm(20)
    torch.testing.assert_close(out, tokens(views, features[:, order], centres[:, order]), atol=1e-5, rtol=1e-4)
    for other in (tokens(views.flip(1), features, centres), tokens(views, -features, centres)):
        assert (out - other).abs().max() > 1e-4
    assert torch.isfinite(tokens(views[:, :0], features[:, :0], centres[:, :0])).all()


@pytest.mark.parametrize("dims", [6, 64, 128, 130])
def test_position_features_have_the_asked_width_and_tell_voxels_apart(dims):
    a = encode_positions(torch.tensor([[1.0, 2.0, 0.5]]), dims)
    b = encode_positions(torch.tensor([[1.4, 2.0, 0.5]]), dims)
    assert a.shape == (1, dims)
    assert (a - b).abs().max() > 1e-3
    assert a.abs().max() <= 1
    places = encode_places(8, dims, torch.device("cpu"))
    assert torch.cdist(places, places).fill_diagonal_(1).min() > 1e-2


def test_things_come_before_ground_of_twice_their_score():
    labels = torch.tensor([[[LABEL["car"]], [LABEL["driveable_surface"]], [LABEL["sidewalk"]]]], dtype=torch.uint8)
    scores = torch.tensor([[[0.5], [0.9], [0.99]]])
    assert ranking_scores(scores, labels, 1.0) is scores
    ranked = ranking_scores(scores, labels, 0.5)
    assert ranked[0, :, 0].tolist() == pytest.approx([0.5, 0.45, 0.495])
    assert ranked[0, :, 0].argmax() == 0
