"""How many images of each class are trained on."""

import heapq
from collections.abc import Sequence

from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.data.sampling.ranking import class_order


def train_counts(
    spec: Images, class_names: Sequence[str], available: Sequence[int], seed: int, where: str
) -> list[int]:
    """Returns how many images of each class are trained on.

    Without `spec.imbalance` and `spec.num_images` it is `spec.train_per_class`, or all that are available. With an
    imbalance rho, the i-th of C classes in the order of the seed has n_max rho^(-i/(C-1)) of them, rounded, and one at
    least (Ouyang et al. 2016; Cui et al. 2019, section 5.1), where n_max is `spec.train_per_class`, or the fewest that
    a class has available. With `spec.num_images` there are so many in all: image by image goes to the class whose
    share is then the furthest behind (the method of Webster and Sainte-Lague), so that counts differ by one at most
    where there is no imbalance, and those of fewer images never exceed those of more.

    Raises a `UserError` where a class gets no image of `spec.num_images`.
    """
    if spec.num_images is None and spec.imbalance == 1:
        return [spec.train_per_class or count for count in available]
    order = class_order(class_names, seed)
    position = [order.index(name) for name in class_names]
    shares = [spec.imbalance ** (-i / (len(position) - 1)) for i in position]
    if spec.num_images is None:
        most = spec.train_per_class or min(available)
        return [max(round(most * share), 1) for share in shares]
    counts = [0] * len(shares)
    waiting = [(-share, i, label) for label, (share, i) in enumerate(zip(shares, position))]
    heapq.heapify(waiting)
    for _ in range(spec.num_images):
        _, i, label = waiting[0]
        counts[label] += 1
        heapq.heapreplace(waiting, (-shares[label] / (2 * counts[label] + 1), i, label))
    if not all(counts):
        raise UserError(
            f"'{where}.num_images' is {spec.num_images}, of which class {class_names[counts.index(0)]!r} gets none, "
            f"as {len(counts)} classes share them; raise it."
        )
    return counts
