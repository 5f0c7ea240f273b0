"""The choice of a state dict, if a checkpoint has several."""

import dataclasses

from jaxft.core.errors import UserError
from jaxft.core.text import some_of
from jaxft.weights.formats import Contents

MOST_NAMED = 3  # state dicts in an error or a note
SELECT = "--state-dict (in Python, state_dict=) selects one"


def select_state_dict(contents: Contents, name: str | None, file: str) -> tuple[Contents, str | None]:
    """Returns the contents with the tensors of one state dict, and the prefix of tensor names that `name` selects.

    Args:
      contents: the contents of a file.
      name: name of a state dict, such as `state_dict_ema`; prefix of tensor names, such as `encoder_q`; or both, such
        as `state_dict_ema.encoder_q`. If None, the default of the format, and no prefix is selected.
      file: name of the file, for the message.

    Raises:
      UserError: the file has neither a state dict nor a prefix of this name, or `name` is None and there is no default.
    """
    names = [name for name in (contents.state_dict, *contents.others) if name]
    shown = some_of([repr(name) for name in names], MOST_NAMED)
    if name is None and contents.others and not contents.tensors:
        raise UserError(f"{file} has several dicts of tensors, {shown}; {SELECT}.")
    if name is None:
        return contents, None
    wanted = name.rstrip("./")
    matching = [known for known in names if f"{wanted}.".startswith(f"{known}.")]
    if not matching:
        if wanted and not any(wanted in tensor for tensor in contents.tensors):
            listed = f"; it has {shown}" if names else ""
            raise UserError(f"{file} has no state dict and no tensor names with the prefix {name!r}{listed}.")
        return contents, wanted
    best = max(matching, key=len)
    prefix = wanted.removeprefix(best).removeprefix(".")
    chosen = contents if best == contents.state_dict else contents.others[best]()
    return dataclasses.replace(chosen, metadata=contents.metadata), prefix or None


def note_of_state_dict(contents: Contents, file: str) -> tuple[str, ...]:
    """Returns a sentence that names the other state dicts of a file, if jaxft chose one of several."""
    if not contents.others:
        return ()
    others = some_of([repr(name) if name else "its top level" for name in contents.others], MOST_NAMED)
    taken = repr(contents.state_dict) if contents.state_dict else "the tensors at the top level"
    return (f"{file} has several state dicts: jaxft takes {taken}, not {others}; {SELECT}.",)
