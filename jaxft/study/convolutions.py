"""The record of the convolution library of a study, so that a resumed study stays bit-identical."""

from jaxft.core.errors import UserError
from jaxft.ops import convolution
from jaxft.store.records import Store


def check_convolution(store: Store, is_worker: bool = False) -> None:
    """Records the convolution library and threads of a new study, or checks them against the record.

    A worker has one core, so the number of threads of a worker is not checked.

    Raises:
      UserError: this process uses another library or number of threads, so results would differ by rounding.
    """
    name, threads = convolution.implementation()
    recorded = store.keep_convolution({"computed_by": name, "threads": threads})
    if name != recorded["computed_by"] or (threads != recorded["threads"] and not is_worker):
        recorded_text, current_text = convolution.described(**recorded), convolution.described(name, threads)
        raise UserError(
            f"the study in {str(store.workdir)!r} started with convolutions by {recorded_text}, but this process uses "
            f"{current_text}; resume it with the same 'execution.cpu_convolution', processor and number of cores, or "
            "choose another work directory."
        )
