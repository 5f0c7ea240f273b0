"""Linear classifiers: scikit-learn's optimum, and numbers by hand."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.svm import LinearSVC

from jaxft.analysis import linear

STRENGTHS = (1e-3, 1e-2, 1.0)


@pytest.fixture(scope="module")
def digits():
    """Returns (features, labels, features of queries): digits at length 1, 64 to fit to and 100 others.

    All fits are to 64 images with 64 features or in a span of 64 axes, so that a program is compiled for each loss.
    """
    images, labels = load_digits(return_X_y=True)
    features = linear.unit_length(images.astype(np.float32))
    return features[:64], labels[:64], features[64:164]


def objective(loss, kernel, bias, strength, features, labels, weights=None):
    """Returns what `fit` makes least, in double precision."""
    scores = features.astype(np.float64) @ kernel + bias
    if loss == "logistic":
        each = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(labels)), labels]
    else:
        signs = np.where(labels[:, None] == np.arange(scores.shape[1]), 1, -1)
        each = np.square(np.maximum(1 - signs * scores, 0)).sum(1)
    return (each * (1 if weights is None else weights)).mean() + strength / 2 * np.square(kernel).sum()


def scikit_learns(loss, features, labels, strength, weights=None):
    """Returns (kernel, bias) of scikit-learn's optimum."""
    C = 1 / (strength * len(labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if loss == "logistic":
            model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
        else:  # it regularizes the bias as a weight of a feature that is 1000, so hardly
            model = LinearSVC(C=C, tol=1e-8, max_iter=100_000, dual=False, intercept_scaling=1000)
        model.fit(features.astype(np.float64), labels, weights)
    return model.coef_.T, model.intercept_


@pytest.mark.parametrize("loss", ["logistic", "svm"])
def test_classifiers_reach_the_optimum_of_scikit_learn(digits, loss):
    features, labels, queries = digits
    fitted = linear.fit(loss, features, labels, 10, STRENGTHS)
    assert (fitted.remaining < linear.TOLERANCE).all() and (fitted.num_iterations < linear.MAX_ITERATIONS).all()
    scores = fitted.scores(queries)
    for i, strength in enumerate(STRENGTHS):
        kernel, bias = scikit_learns(loss, features, labels, strength)
        best = objective(loss, kernel, bias, strength, features, labels)
        assert objective(loss, fitted.kernel[i], fitted.bias[i], strength, features, labels) < best * (1 + 1e-5)
        np.testing.assert_allclose(scores[i], queries @ kernel + bias, rtol=2e-2, atol=2e-3)


def test_weights_of_images_act_as_in_scikit_learn(digits):
    features, labels, _ = digits
    weights = np.where(labels < 3, 4.0, 0.5)
    fitted = linear.fit("logistic", features, labels, 10, STRENGTHS, weights)
    kernel, bias = scikit_learns("logistic", features, labels, STRENGTHS[1], weights)
    np.testing.assert_allclose(fitted.kernel[1], kernel, atol=2e-3)
    np.testing.assert_allclose(fitted.bias[1] - fitted.bias[1].mean(), bias - bias.mean(), atol=2e-3)


@pytest.mark.parametrize("loss", ["logistic", "svm"])
def test_more_features_than_images_are_fitted_in_their_span(digits, loss):
    features, labels, queries = digits
    features, queries = (np.concatenate([each, np.sqrt(each)], 1) for each in (features, queries))  # 128 features
    fitted, strength = linear.fit(loss, features, labels, 10, STRENGTHS), STRENGTHS[1]
    kernel, bias = scikit_learns(loss, features, labels, strength)
    best = objective(loss, kernel, bias, strength, features, labels)
    assert objective(loss, fitted.kernel[1], fitted.bias[1], strength, features, labels) < best * (1 + 1e-5)
    np.testing.assert_allclose(fitted.scores(queries)[1], queries @ kernel + bias, atol=5e-3)


def test_axes_of_a_span_preserve_norms_and_are_zero_beyond_its_rank():
    rng = np.random.Generator(np.random.PCG64(0))
    features = rng.normal(size=(4, 9)).astype(np.float32)
    features[3] = features[0] + features[1]
    axes = linear.span(features)
    assert axes.shape == (9, 4) and (np.abs(axes).max(0) > 0).sum() == 3
    np.testing.assert_allclose((features @ axes) @ (features @ axes).T, features @ features.T, atol=1e-5)


def test_standard_scaling_uses_the_training_images_and_constant_features_are_zero():
    features = np.array([[1.0, 5.0], [3.0, 5.0]], np.float32)
    shift, scale = linear.make_scaling("standard", features)
    np.testing.assert_allclose(linear.rescale("standard", features, shift, scale), [[-1, 0], [1, 0]])
    np.testing.assert_allclose(linear.rescale("standard", np.float32([[4, 9]]), shift, scale), [[2, 0]])


def test_l2_scaling_gives_norm_one_and_keeps_zeros():
    shift, scale = linear.make_scaling("l2", np.ones((1, 2), np.float32))
    np.testing.assert_allclose(linear.rescale("l2", np.float32([[3, 4], [0, 0]]), shift, scale), [[0.6, 0.8], [0, 0]])


# --- neighbors and means ---


def test_neighbors_vote_and_the_nearest_breaks_ties():
    features, labels = np.float32([[0], [1], [2], [4]]), np.array([2, 0, 0, 1])
    said = linear.predict_by_neighbors(features, labels, 3, np.float32([[0.4], [3.1]]), [1, 2, 3, 4], "euclidean")
    # From 0.4 the nearest are 2, 0, 0, 1; from 3.1 they are 1, 0, 0, 2.
    assert said.tolist() == [[2, 1], [2, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbors_agree_with_scikit_learn(digits, metric):
    features, labels, queries = digits
    longer = features * np.linspace(0.5, 2, len(features), dtype=np.float32)[:, None]
    theirs = KNeighborsClassifier(1, metric=metric).fit(longer, labels).predict(queries)
    ours = linear.predict_by_neighbors(longer, labels, 10, queries, [1, 3], metric)
    assert (ours[0] == theirs).all()


def test_more_neighbors_than_images_are_an_error():
    with pytest.raises(ValueError, match="the number of neighbors is 3, but there are only 2 images"):
        linear.predict_by_neighbors(np.eye(2, dtype=np.float32), np.array([0, 1]), 2, np.eye(2), [3])


def test_no_queries_give_no_predictions():
    nothing = np.zeros((0, 2), np.float32)
    assert linear.predict_by_neighbors(np.eye(2, dtype=np.float32), np.array([0, 1]), 2, nothing, [1]).shape == (1, 0)
    assert linear.predict_by_means(np.eye(2, dtype=np.float32), np.array([0, 1]), 2, nothing).shape == (0,)


def test_class_means_agree_with_scikit_learn(digits):
    features, labels, queries = digits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pixels that are always zero
        theirs = NearestCentroid().fit(features, labels).predict(queries)
    assert (linear.predict_by_means(features, labels, 10, queries, "euclidean") == theirs).all()


def test_cosine_and_euclidean_metrics_differ_and_a_class_without_images_is_never_predicted():
    features, labels = np.float32([[10, 0], [0, 1]]), np.array([0, 2])
    assert linear.predict_by_means(features, labels, 4, np.float32([[2, 1]]), "euclidean").tolist() == [2]
    assert linear.predict_by_means(features, labels, 4, np.float32([[2, 1]]), "cosine").tolist() == [0]
