"""Similarity of representations: the authors' values on the same arrays, definitions in NumPy, and invariances."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import spearmanr

from jaxft.analysis.neural_collapse import neural_collapse
from jaxft.analysis.representation import (
    canonical_correlations,
    cca,
    cka,
    effective_rank,
    linear_cka,
    procrustes,
    pwcca,
    rsa,
    svcca,
)
from jaxft.analysis.similarity_matrices import tap_similarity

DATA = Path(__file__).parent / "data"
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 8)), RNG.normal(size=(60, 5))
Y[:, :3] += X[:, :3]
ROTATION = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
FUNCTIONS = (linear_cka, lambda x, y: cka(x, y, "rbf"), cca, svcca, pwcca, procrustes, rsa)
NAMES = ("linear CKA", "RBF CKA", "CCA", "SVCCA", "PWCCA", "Procrustes", "RSA")
SAME = (1, 1, 1, 1, 1, 0, 1)


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "representation.npz") as arrays:
        return dict(arrays), json.loads((DATA / "representation.json").read_text())


@pytest.mark.parametrize("pair", ["XY", "XZ"])
def test_values_of_the_authors(golden, pair):
    arrays, values = golden
    a, b = (arrays[name.lower()] for name in pair)
    expected = values[pair]
    assert linear_cka(a, b) == pytest.approx(expected["linear_cka"], rel=1e-9)
    assert cka(a, b, "rbf", 0.5) == pytest.approx(expected["rbf_cka"], rel=1e-9)
    assert tap_similarity({"a": a}, {"b": b}).cka[0, 0] == pytest.approx(expected["debiased_cka"], rel=1e-4)
    np.testing.assert_allclose(canonical_correlations(a, b), expected["cca"], rtol=1e-8)
    for share, name in ((0.99, "svcca"), (0.9, "svcca_90")):
        coefficients, *counts = expected[name]
        assert svcca(a, b, share) == pytest.approx(np.mean(coefficients[: min(counts)]), rel=1e-6)


def test_published_values(golden):
    """The output of the notebook of Kornblith et al., for arrays that NumPy draws."""
    draws = np.random.RandomState(1337)
    x = draws.randn(100, 10)
    y = draws.randn(100, 10) + x
    published = golden[1]["published"]
    assert round(linear_cka(x, y), 5) == published["linear"] == 0.55761
    assert round(cka(x, y, "rbf", 0.5), 5) == published["rbf"] == 0.65483
    assert round(float(tap_similarity({"x": x}, {"y": y}).cka[0, 0]), 5) == published["debiased"] == 0.51346


@pytest.mark.parametrize(("function", "same"), list(zip(FUNCTIONS, SAME, strict=True)), ids=NAMES)
def test_a_representation_and_itself(function, same):
    assert function(X, X) == pytest.approx(same, abs=1e-9)
    assert abs(function(X, Y) - same) > 0.05


@pytest.mark.parametrize(
    ("function", "moved"),
    [
        *((f, lambda x: 3 * x @ ROTATION + 2) for f in (linear_cka, FUNCTIONS[1], procrustes)),
        *((f, lambda x: x @ RNG.normal(size=(8, 8)) + 2) for f in (cca, pwcca)),
        *((f, lambda x: 2 * x[:, ::-1]) for f in FUNCTIONS),
    ],
)
def test_invariances(function, moved):
    expected = function(X, Y)
    if function is not pwcca:  # its weights are those of the features of x
        assert function(moved(X), Y) == pytest.approx(expected, rel=1e-8)
    assert function(Y, moved(X)) == pytest.approx(function(Y, X), rel=1e-8)


def test_linear_maps_change_what_is_not_invariant_to_them():
    stretched = X * np.geomspace(0.01, 100, 8)[None]
    for function in (linear_cka, procrustes, rsa):
        assert abs(function(stretched, Y) - function(X, Y)) > 0.05
    assert cca(stretched, Y) == pytest.approx(cca(X, Y), rel=1e-8)


@pytest.mark.parametrize("num_features", [8, 200])
def test_definitions_in_numpy(num_features):
    x = RNG.normal(size=(60, num_features))
    a, b = x - x.mean(0), Y - Y.mean(0)
    norm = np.linalg.norm
    assert linear_cka(x, Y) == pytest.approx(norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b)), rel=1e-9)
    a, b = a / norm(a), b / norm(b)
    assert procrustes(x, Y) == pytest.approx(2 - 2 * norm(a.T @ b, "nuc"), rel=1e-9)
    wide = RNG.normal(size=(60, 90))
    c = (wide - wide.mean(0)) / norm(wide - wide.mean(0))
    assert procrustes(x, wide) == pytest.approx(2 - 2 * norm(a.T @ c, "nuc"), rel=1e-9)
    expected = spearmanr(*[(1 - np.corrcoef(side))[np.triu_indices(60, 1)] for side in (x, Y)]).statistic
    assert rsa(x, Y) == pytest.approx(expected)


def test_procrustes_is_the_distance_after_the_best_rotation():
    a, b = (side - side.mean(0) for side in (X, X + RNG.normal(size=X.shape)))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    rotation, _ = orthogonal_procrustes(b, a)
    assert procrustes(a, b) == pytest.approx(np.linalg.norm(a - b @ rotation) ** 2)


def test_the_weights_of_pwcca_follow_the_paper():
    """With whitening by eigenvalues of the covariances, instead of singular vectors of the activations."""
    a, b = X - X.mean(0), Y - Y.mean(0)

    def whitening(side):
        values, vectors = np.linalg.eigh(side.T @ side)
        return vectors @ np.diag(values**-0.5) @ vectors.T

    left, correlations, _ = np.linalg.svd(whitening(a) @ a.T @ b @ whitening(b), full_matrices=False)
    variables = a @ whitening(a) @ left  # [n, 5]
    weights = np.abs(variables.T @ a).sum(1)
    assert pwcca(X, Y) == pytest.approx((weights * correlations).sum() / weights.sum(), rel=1e-9)
    assert pwcca(X, Y) != pytest.approx(pwcca(Y, X), rel=1e-3)


def test_directions_without_variance_do_not_count():
    repeated = np.concatenate([X, X[:, :4], np.ones((60, 1))], axis=1)
    np.testing.assert_allclose(canonical_correlations(repeated, Y), canonical_correlations(X, Y), rtol=1e-8)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_svcca_keeps_the_smallest_number_of_directions(share):
    def components(side):
        centered = side - side.mean(0)
        values = np.linalg.svd(centered, compute_uv=False) ** 2
        count = next(k for k in range(1, 9) if values[:k].sum() >= share * values.sum() * (1 - 1e-12))
        return centered @ np.linalg.svd(centered)[2][:count].T

    x = X * np.geomspace(1, 0.01, 8)[None]
    assert components(x).shape[1] == {0.5: 1, 0.9: 2, 1.0: 8}[share]
    assert svcca(x, Y, share) == pytest.approx(cca(components(x), components(Y)), rel=1e-8)
    assert svcca(x, x, share) == pytest.approx(1)


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
def test_degenerate_representations_are_one_sentence(function):
    for x, y, reason in (
        (np.ones((60, 8)), Y, "the same for all images|equal values in all features"),
        (X[:1], Y[:1], "the same for all images|at least three images"),
        (np.where(np.eye(60, 8) > 0, np.nan, X), Y, "not finite"),
        (X[:50], Y, "50 images and y has 60"),
        (X[:, 0], Y, r"it must be \[n, d\]"),
        (X[:, :0], Y, r"it must be \[n, d\]"),
    ):
        with pytest.raises(ValueError, match=reason):
            function(x, y)


def test_canonical_correlations_need_more_images_than_features():
    for function in (cca, pwcca):
        with pytest.raises(ValueError, match=r"8 images for 8 features, so all canonical correlations are 1"):
            function(X[:8], Y[:8])
    assert 0 < svcca(X[:8] * np.geomspace(1, 1e-3, 8)[None], Y[:8], 0.9) <= 1  # a few components
    assert 0 < linear_cka(X[:8], Y[:8]) < 1
    with pytest.raises(ValueError, match="`variance` is 0"):
        svcca(X, Y, 0)
    with pytest.raises(ValueError, match="they must be 'linear' or 'rbf'"):
        cka(X, Y, "poly")


def test_effective_rank():
    basis = np.linalg.qr(RNG.normal(size=(40, 6)) - RNG.normal(size=(40, 6)).mean(0))[0]
    centered = np.linalg.qr(basis - basis.mean(0))[0]
    assert effective_rank(centered) == pytest.approx(6)  # equal singular values
    assert effective_rank(5 * centered[:, :1] @ RNG.normal(size=(1, 6)) + 3) == pytest.approx(1)
    shares = np.array([0.5, 0.25, 0.25])
    expected = 2 ** (1.5)  # the entropy is 1.5 bits
    assert effective_rank(centered[:, :3] * shares[None]) == pytest.approx(expected)


def test_full_collapse():
    """A simplex of three classes in the plane, with two images at each corner."""
    angles = 2 * np.pi * np.arange(3) / 3
    corners = 4 * np.stack([np.cos(angles), np.sin(angles)], 1)
    labels = np.repeat(np.arange(3), 2)
    result = neural_collapse(corners[labels] + 7, labels, corners.T * 2, labels)
    np.testing.assert_allclose(result[:5], 0, atol=1e-12)
    assert result.nearest_mean_agreement == 1


def test_collapse_by_hand():
    features = np.array([[1.0], [3.0], [-1.0], [-5.0]])  # class means 2 and -3, variances 1 and 4
    result = neural_collapse(features, np.array([0, 0, 1, 1]))
    assert result.within_class == pytest.approx(2.5 / 6.25 / 2)  # within 2.5, between 2.5^2
    assert result.norm_spread == 0 and result.angle_spread == 0 and result.angle_distance == pytest.approx(0)
    assert np.isnan(result.duality) and np.isnan(result.nearest_mean_agreement)
    orthogonal = neural_collapse(np.diag([3.0, 1, 1]) - 1, np.arange(3), np.eye(3), np.array([0, 1, 1]))
    means = np.diag([3.0, 1, 1]) - np.array([1, 1 / 3, 1 / 3])
    norms = np.linalg.norm(means, axis=1)
    assert orthogonal.within_class == 0 and orthogonal.norm_spread == pytest.approx(norms.std() / norms.mean())
    assert orthogonal.duality == pytest.approx(np.square(np.eye(3) / np.sqrt(3) - means / np.linalg.norm(means)).sum())
    assert orthogonal.nearest_mean_agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("features", "labels", "reason"),
    [
        (X, np.zeros(60, int), "at least two classes"),
        (X, np.arange(60) % 2 * 2, "at least two classes, 0 to C - 1"),
        (X, np.zeros(50, int), "labels"),
        (np.full((4, 2), np.nan), np.array([0, 1, 0, 1]), "finite"),
        (np.ones((4, 2)), np.array([0, 1, 0, 1]), "the means of all classes are equal"),
    ],
)
def test_collapse_of_degenerate_features(features, labels, reason):
    with pytest.raises(ValueError, match=reason):
        neural_collapse(features, labels)
