"""Embeddings before and after training, against scikit-learn and by their properties."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from jaxft.analysis.embedding import embed

RNG = np.random.default_rng(2)
BEFORE = RNG.normal(size=(40, 6)) * np.array([[5, 3, 1, 1, 1, 1]])
AFTER = RNG.normal(size=(40, 9)) * np.array([[4, 2, 1, 1, 1, 1, 1, 1, 1]]) + 7


def test_principal_components_against_scikit_learn():
    result = embed(BEFORE, AFTER, num_components=3)
    before, after = (PCA(3, svd_solver="full").fit_transform(x) for x in (BEFORE, AFTER))
    signs = np.sign((result.before * before).sum(0))  # scikit-learn chooses signs by another rule
    np.testing.assert_allclose(result.before, before * signs[None], atol=1e-10)
    rotation = orthogonal_procrustes(after, result.before)[0]
    np.testing.assert_allclose(result.after, after @ rotation, atol=1e-10)


def test_a_rotated_reflected_and_shifted_space_is_aligned():
    rotation = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    result = embed(BEFORE, BEFORE @ rotation + 3)
    np.testing.assert_allclose(result.after, result.before, atol=1e-10)


def test_alignment_keeps_distances_and_is_the_best_rotation():
    result = embed(BEFORE, AFTER)
    alone = PCA(2, svd_solver="full").fit_transform(AFTER)
    np.testing.assert_allclose(pdist(result.after), pdist(alone), rtol=1e-10)
    best = np.square(result.before - result.after).sum()
    for angle in np.linspace(0, 2 * np.pi, 13):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        for reflection in (1, -1):
            other = result.after @ turn * np.array([[1, reflection]])
            assert np.square(result.before - other).sum() >= best - 1e-9


def test_tsne_separates_clusters_and_depends_on_its_seed_only():
    groups = np.repeat(np.arange(3), 15)
    features = RNG.normal(size=(45, 5)) + 20 * np.eye(5)[groups]
    first, second = (embed(features, features * 2, "tsne", seed=4, perplexity=8) for _ in range(2))
    assert (first.before == second.before).all() and (first.after == second.after).all()
    for points in first:
        centers = np.stack([points[groups == k].mean(0) for k in range(3)])
        spread = max(np.linalg.norm(points[groups == k] - centers[k][None], axis=1).max() for k in range(3))
        assert pdist(centers).min() > 2 * spread
    np.testing.assert_allclose(first.before.mean(0), 0, atol=1e-4)


def test_constant_features():
    result = embed(np.ones((5, 3)), BEFORE[:5])
    assert (result.before == 0).all() and np.isfinite(result.after).all()
    with pytest.raises(ValueError, match="t-SNE needs features that differ"):
        embed(np.ones((5, 3)), BEFORE[:5], "tsne", perplexity=2)


@pytest.mark.parametrize(
    ("before", "after", "settings", "message"),
    [
        (BEFORE, AFTER[:3], {}, r"shapes \[40, 6\] and \[3, 9\]"),
        (BEFORE, AFTER * np.nan, {}, "finite"),
        (BEFORE[:1], AFTER[:1], {}, "`num_components` is 2"),
        (BEFORE, AFTER[:, :1], {}, "`num_components` is 2"),
        (BEFORE, AFTER, {"num_components": 0}, "`num_components` is 0"),
        (BEFORE, AFTER, {"method": "tsne", "perplexity": 40}, "below the number of images, 40"),
        (BEFORE, AFTER, {"method": "umap"}, "'pca' or 'tsne'"),
    ],
)
def test_wrong_features_or_settings(before, after, settings, message):
    with pytest.raises(ValueError, match=message):
        embed(before, after, **settings)
