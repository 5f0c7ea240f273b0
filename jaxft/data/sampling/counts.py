"""Number of training images of each class."""

import heapq
from collections.abc import Sequence

from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.data.sampling.ranking import class_order


def train_counts(
    spec: Images, class_names: Sequence[str], available: Sequence[int], seed: int, where: str
) -> list[int]:
    """Returns the number of training images of each class.

    - Without `spec.imbalance` and `spec.num_images`, it is `spec.train_per_class`, or all available images.
    - With the imbalance rho, class i of C in the order of the seed (i from 0) gets n_max rho^(-i / (C - 1)) images,
      rounded, and at least one. n_max is `spec.train_per_class`, or the smallest number of available images.
    - With `spec.num_images`, the counts have this sum. Images are assigned one by one by the Webster (Sainte-Lague)
      method, in proportion to the counts with imbalance. So without imbalance counts differ by at most one, and no
      count decreases when `spec.num_images` grows.

    Args:
      spec: the images.
      class_names: [C], the classes.
      available: [C], number of images of each class that may be used for training.
      seed: seed of the order of the classes.
      where: config field of `spec`, for error messages.

    Raises:
      UserError: `spec.num_images` leaves a class without images.

    Reference: Ouyang et al. 2016; Cui et al. 2019, "Class-balanced loss", section 5.1.
    """
    if spec.num_images is None and spec.imbalance == 1:
        return [spec.train_per_class or count for count in available]
    order = class_order(class_names, seed)
    position = [order.index(name) for name in class_names]
    shares = [spec.imbalance ** (-i / (len(position) - 1)) for i in position]
    if spec.num_images is None:
        largest = spec.train_per_class or min(available)
        return [max(round(largest * share), 1) for share in shares]
    counts = [0] * len(shares)
    queue = [(-share, i, label) for label, (share, i) in enumerate(zip(shares, position))]
    heapq.heapify(queue)
    for _ in range(spec.num_images):
        _, i, label = queue[0]
        counts[label] += 1
        heapq.heapreplace(queue, (-shares[label] / (2 * counts[label] + 1), i, label))
    if not all(counts):
        raise UserError(
            f"'{where}.num_images' is {spec.num_images}, which gives no image to the class "
            f"{class_names[counts.index(0)]!r} of {len(counts)} classes; increase it."
        )
    return counts
