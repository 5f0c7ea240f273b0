"""Maps of features in a few dimensions before and after training, aligned with each other."""

from typing import Literal, NamedTuple, get_args

import numpy as np

Method = Literal["pca", "tsne"]


class Embeddings(NamedTuple):
    """Coordinates of the same images before and after training.

    Attributes:
      before: [n, k], centered.
      after: [n, k], centered, rotated and reflected to `before`.
    """

    before: np.ndarray
    after: np.ndarray


def embed(
    before: np.ndarray,
    after: np.ndarray,
    method: Method = "pca",
    num_components: int = 2,
    seed: int = 0,
    perplexity: float = 30.0,
) -> Embeddings:
    """Returns the coordinates of features before and after training in `num_components` dimensions, aligned.

    Each side is embedded on its own, so their widths can differ. Then the embedding after training is aligned with the
    one before by orthogonal Procrustes: the rotation or reflection Q that minimizes ||before - after Q||_F, without a
    change of scale. So distances on each side are those of its own embedding.

    Args:
      before: [n, d], features of n images before training.
      after: [n, d'], features of the same images after training.
      method: 'pca', the first principal components, or 'tsne', t-SNE of scikit-learn that starts from them.
      num_components: k, the number of dimensions; t-SNE supports 1 to 3.
      seed: seed of t-SNE.
      perplexity: perplexity of t-SNE, below n.

    Raises:
      ValueError: the shapes or the method are wrong, the features are not finite, there are fewer images or features
        than dimensions, or t-SNE has constant features or a perplexity of n or more.

    Reference: Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem"; van der Maaten & Hinton
    2008, "Visualizing data using t-SNE".
    """
    sides = [np.asarray(features, np.float64) for features in (before, after)]
    if any(x.ndim != 2 or len(x) != len(sides[0]) or not np.isfinite(x).all() for x in sides):
        raise ValueError(
            f"the features have the shapes {list(sides[0].shape)} and {list(sides[1].shape)}; they must be [n, d] and "
            "[n, d'] and finite."
        )
    if not 1 <= num_components <= min(*sides[0].shape, *sides[1].shape):
        raise ValueError(
            f"`num_components` is {num_components}; it must be at least 1 and at most the number of images and of "
            "features."
        )
    if method not in get_args(Method):
        raise ValueError(f"`method` is {method!r}; it must be 'pca' or 'tsne'.")
    embedded = [_principal_components(x, num_components) for x in sides]
    if method == "tsne":
        embedded = [_tsne(x, start, seed, perplexity) for x, start in zip(sides, embedded)]
    first, second = (x - x.mean(0, keepdims=True) for x in embedded)
    left, _, right = np.linalg.svd(second.T @ first)
    return Embeddings(first, second @ (left @ right))


def _principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """Returns [n, count], the coordinates along the first principal axes."""
    centered = features - features.mean(0, keepdims=True)
    left, values, right = np.linalg.svd(centered, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])  # the largest entry of an axis is positive
    return (left * (values * signs)[None])[:, :count]


def _tsne(features: np.ndarray, start: np.ndarray, seed: int, perplexity: float) -> np.ndarray:
    from sklearn.manifold import TSNE

    spread = start[:, 0].std()
    if not 0 < perplexity < len(features) or not spread > 0:
        raise ValueError(
            f"t-SNE needs features that differ and a perplexity above 0 and below the number of images, "
            f"{len(features)}; the perplexity is {perplexity}."
        )
    initial = (start / spread * 1e-4).astype(np.float32)  # the scale that scikit-learn uses
    return TSNE(start.shape[1], perplexity=perplexity, init=initial, random_state=seed).fit_transform(features)
