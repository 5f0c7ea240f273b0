"""The record of what computes a study's convolutions, so that it goes on with the same bits."""

from jaxft.core.errors import UserError
from jaxft.ops import convolution
from jaxft.store.records import Store


def check_convolution(store: Store, is_worker: bool = False) -> None:
    """Records what computes the convolutions of a study when it begins, and checks it when it goes on.

    Raises:
      UserError: this process would compute them otherwise, and so give its trials other last digits.
    """
    name, threads = convolution.implementation()
    began = store.keep_convolution({"computed_by": name, "threads": threads})
    if name != began["computed_by"] or (threads != began["threads"] and not is_worker):  # a worker has one core
        then, now = convolution.described(**began), convolution.described(name, threads)
        raise UserError(
            f"the study in {str(store.workdir)!r} was begun with convolutions by {then}, and this process has them "
            f"by {now}; go on as it was begun (execution.cpu_convolution, processor, number of cores), or name another "
            "work directory."
        )
