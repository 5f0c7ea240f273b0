"""Similarity of two representations of the same images: CKA, CCA, SVCCA, PWCCA, Procrustes distance and RSA.

A representation is an array of activations [n, d], of n images and d features; maps are flattened or pooled first. All
functions compute in float64 with NumPy. For all taps of two networks and many images, see `similarity_matrices`.
"""

from typing import Any, Literal, get_args

import numpy as np

Kernel = Literal["linear", "rbf"]
RANK_TOLERANCE = 1e-10  # singular values below this share of the largest one are rounding errors of float32 activations


def linear_cka(x: Any, y: Any) -> float:
    """Returns the linear centered kernel alignment ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of centered X and Y, in [0, 1].

    It does not change with rotations, isotropic scales and shifts of the features. It is biased upwards if there are
    few images in comparison to features; `similarity_matrices.tap_similarity` has the unbiased estimator.

    Args:
      x: [n, d].
      y: [n, d'].

    Raises:
      ValueError: the shapes are wrong, a value is not finite, or all rows of a side are equal.

    Reference: Kornblith et al. 2019, "Similarity of neural network representations revisited", section 3.
    """
    x, y = _pair(x, y)
    if len(x) < min(x.shape[1], y.shape[1]):
        return _alignment(x @ x.T, y @ y.T)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms)


def cka(x: Any, y: Any, kernel: Kernel = "linear", bandwidth: float = 0.5) -> float:
    """Returns the centered kernel alignment of two representations, in [0, 1].

    Args:
      x: [n, d].
      y: [n, d'].
      kernel: 'linear', as in `linear_cka`, or 'rbf', exp(-d^2 / (2 s^2)) with the Euclidean distance d of two images.
      bandwidth: s as a fraction of the median distance. As in the authors' code, the median is over all pairs (i, j),
        including i = j.

    Raises:
      ValueError: as in `linear_cka`, or the kernel or the bandwidth is wrong.

    Reference: Kornblith et al. 2019, section 3; their code, google-research/representation_similarity.
    """
    if kernel not in get_args(Kernel) or not bandwidth > 0:
        raise ValueError(
            f"`kernel` is {kernel!r} and `bandwidth` {bandwidth}; they must be 'linear' or 'rbf', and above 0."
        )
    if kernel == "linear":
        return linear_cka(x, y)
    return _alignment(*(_centered_gram(_rbf(side, bandwidth)) for side in _pair(x, y)))


def cca(x: Any, y: Any) -> float:
    """Returns the mean canonical correlation, in [0, 1], over the smaller of the ranks of both sides.

    It does not change with invertible linear maps of the features.

    Args:
      x: [n, d], with n above d.
      y: [n, d'], with n above d'.

    Raises:
      ValueError: as in `linear_cka`, or there are not more images than features: then all correlations are 1.

    Reference: Raghu et al. 2017, "SVCCA", section 2. Directions without variance are left out; the authors' code,
    google/svcca, instead averages the first correlations that hold 98% of their sum.
    """
    return float(canonical_correlations(x, y).mean())


def canonical_correlations(x: Any, y: Any) -> np.ndarray:
    """Returns the canonical correlations in descending order, as many as the smaller of the ranks of both sides.

    Args:
      x: [n, d], with n above d.
      y: [n, d'], with n above d'.

    Raises:
      ValueError: as in `cca`.
    """
    x, y = _pair(x, y)
    _check_more_images(x, y)
    return _correlations(_basis(x), _basis(y))


def svcca(x: Any, y: Any, variance: float = 0.99) -> float:
    """Returns the mean canonical correlation of the principal components that hold a share of the variance.

    Args:
      x: [n, d].
      y: [n, d'].
      variance: the share of the variance of each side that is kept: the smallest number of components that reach it.

    Raises:
      ValueError: as in `linear_cka`, `variance` is not in (0, 1], or there are not more images than components.

    Reference: Raghu et al. 2017, "SVCCA", section 2.
    """
    if not 0 < variance <= 1:
        raise ValueError(f"`variance` is {variance}; it must be above 0 and at most 1.")
    x, y = (_principal(side, variance) for side in _pair(x, y))
    _check_more_images(x, y)
    return float(_correlations(x, y).mean())


def pwcca(x: Any, y: Any) -> float:
    """Returns the projection-weighted mean of the canonical correlations, in [0, 1]; it is not symmetric.

    The weight of correlation i is sum_j |<h_i, x_j>|, with the canonical variable h_i of x, [n], and the centered
    features x_j, [n], of x. If y has a smaller rank than x, the other directions of x have no correlation and no
    weight.

    Args:
      x: [n, d], with n above d.
      y: [n, d'], with n above d'.

    Raises:
      ValueError: as in `cca`.

    Reference: Morcos, Raghu & Bengio 2018, "Insights on representational similarity in neural networks with canonical
    correlation", section 3. This follows the paper: the authors' code (google/svcca, pwcca.py) does not whiten the
    activations, and takes those of the wrong side if y has fewer features than x.
    """
    x, y = _pair(x, y)
    _check_more_images(x, y)
    basis = _basis(x)
    directions, correlations, _ = np.linalg.svd(basis.T @ _basis(y), full_matrices=False)
    weights = np.abs((basis @ directions).T @ x).sum(1)
    return float(np.clip(correlations, 0, 1) @ weights / weights.sum())


def procrustes(x: Any, y: Any) -> float:
    """Returns the squared orthogonal Procrustes distance 2 - 2 ||X'Y||_*, in [0, 2]; X and Y have Frobenius norm 1.

    ||.||_* is the nuclear norm, the sum of the singular values. The distance is 0 for representations that are equal up
    to rotation, reflection, isotropic scale and shift.

    Args:
      x: [n, d].
      y: [n, d'].

    Raises:
      ValueError: as in `linear_cka`.

    Reference: Ding, Denain & Steinhardt 2021, "Grounding representation similarity with statistical testing", section
    2.
    """
    x, y = (side / np.linalg.norm(side) for side in _pair(x, y))
    if len(x) < min(x.shape[1], y.shape[1]):  # the same singular values, of smaller matrices
        x, y = (_triangle(side) for side in (x, y))
    return float(max(2 - 2 * np.linalg.svd(x.T @ y, compute_uv=False).sum(), 0))


def rsa(x: Any, y: Any) -> float:
    """Returns the Spearman correlation, in [-1, 1], of the dissimilarities of all pairs of images in both.

    The dissimilarity of two images is 1 - the Pearson correlation of their features.

    Args:
      x: [n, d], at least two features and three images.
      y: [n, d'].

    Raises:
      ValueError: the shapes are wrong, a value is not finite, all features of an image are equal, or all
        dissimilarities are equal.

    Reference: Kriegeskorte, Mur & Bandettini 2008, "Representational similarity analysis".
    """
    from scipy.stats import spearmanr

    x, y = _finite_pair(x, y)
    upper = np.triu_indices(len(x), 1)
    sides = []
    for side in (x, y):
        if len(side) < 3 or (np.ptp(side, axis=1) == 0).any():
            raise ValueError("RSA needs at least three images, none of them with equal values in all features.")
        sides.append(1 - np.corrcoef(side)[upper])
    if any(np.ptp(side) == 0 for side in sides):
        raise ValueError("all pairs of images are equally dissimilar, so the dissimilarities have no ranks.")
    return float(spearmanr(*sides).statistic)


def effective_rank(x: Any) -> float:
    """Returns exp(-sum p_i log p_i), with the singular values of the centered x, divided by their sum, as p.

    It is between 1 and the rank.

    Args:
      x: [n, d].

    Raises:
      ValueError: as in `linear_cka`.

    Reference: Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality". They do not center.
    """
    values = np.linalg.svd(_centered(x), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _pair(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sides, centered over the images, in float64."""
    x, y = _finite_pair(x, y)
    return _centered(x), _centered(y)


def _finite_pair(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = _finite(x), _finite(y)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} images and y has {len(y)}; both must be of the same images.")
    return x, y


def _finite(x: Any) -> np.ndarray:
    array = np.asarray(x, np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"a representation has the shape {list(array.shape)}; it must be [n, d], images and features.")
    if not np.isfinite(array).all():
        raise ValueError("a representation has a value that is not finite.")
    return array


def _centered(x: Any) -> np.ndarray:
    array = _finite(x)
    if (array == array[:1]).all():
        raise ValueError("a representation is the same for all images, so it has no directions to compare.")
    return array - array.mean(0)


def _check_more_images(x: np.ndarray, y: np.ndarray) -> None:
    features = max(x.shape[1], y.shape[1])
    if len(x) <= features:
        raise ValueError(
            f"there are {len(x)} images for {features} features, so all canonical correlations are 1. Use more images, "
            "fewer features (`svcca`), or `linear_cka`."
        )


def _basis(x: np.ndarray) -> np.ndarray:
    """Returns an orthonormal basis [n, rank] of the columns of x."""
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    return left[:, values > RANK_TOLERANCE * values[0]]


def _principal(x: np.ndarray, variance: float) -> np.ndarray:
    """Returns an orthonormal basis of the components that hold a share of the variance."""
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    shares = np.cumsum(values**2) / (values**2).sum()
    count = min(int(np.searchsorted(shares, variance - 1e-12)) + 1, int((values > RANK_TOLERANCE * values[0]).sum()))
    return left[:, :count]


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the canonical correlations of two orthonormal bases."""
    return np.clip(np.linalg.svd(first.T @ second, compute_uv=False), 0, 1)


def _triangle(x: np.ndarray) -> np.ndarray:
    """Returns the transposed factor L' [n, n] of x = L Q', with orthonormal columns of Q; X'Y has the values of L'M."""
    return np.asarray(np.linalg.qr(x.T, mode="r")).T


def _rbf(x: np.ndarray, bandwidth: float) -> np.ndarray:
    gram = x @ x.T
    norms = np.diag(gram)
    squares = np.maximum(norms[:, None] + norms[None] - 2 * gram, 0)
    return np.exp(-squares / (2 * bandwidth**2 * np.median(squares)))


def _centered_gram(gram: np.ndarray) -> np.ndarray:
    means = gram.mean(0)
    return gram - means[:, None] - means[None] + means.mean()


def _alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the cosine of two centered Gram matrices [n, n]."""
    return float(np.vdot(first, second) / (np.linalg.norm(first) * np.linalg.norm(second)))
