"""Reading config files and overrides."""

import ast
import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.config.study import Study, parse_blocks
from jaxft.config.values import from_dict, set_at, to_dict
from jaxft.core.errors import UserError
from jaxft.core.text import cut_off, shown

MOST_REASON_CHARACTERS = 150  # of an exception of a config file


@dataclass(frozen=True)
class ConfigFile:
    """A study, with the path and the docstring of its config file and the overrides.

    `path` and `docstring` are empty if the study does not come from a file.
    """

    study: Study
    path: str = ""
    docstring: str = ""
    overrides: tuple[str, ...] = ()


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigFile:
    """Returns the study of a config file.

    Args:
      spec: the config file, `path.py` or `path.py:arg`; `arg` is the argument of its function `get_config`.
      overrides: new values of fields, such as `training.optimizer.learning_rate=0.01`.

    Raises:
      UserError: the file is missing or is not a config file, a field is wrong, or an override names a factor.
    """
    path_text, _, arg = spec.partition(".py:")
    path = Path(path_text if spec.endswith(path_text) and not arg else f"{path_text}.py")
    if not path.is_file():
        raise UserError(f"the config file {str(path)!r} does not exist.")
    module_spec = importlib.util.spec_from_file_location(f"jaxft_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"the config file {str(path)!r} is not a Python file.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if get_config is None:
            raise UserError(f"the config file {str(path)!r} does not define the function get_config.")
        config = get_config(arg) if arg else get_config()
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(
            f"the config file {str(path)!r} ends the process (SystemExit: {shown(error.code)}); get_config must return "
            "the config."
        ) from error
    except Exception as error:
        reason = cut_off(" ".join(str(error).split()), MOST_REASON_CHARACTERS)
        raise UserError(f"the config file {str(path)!r} fails: {type(error).__name__}: {reason}.") from error
    fields = _plain(config)
    for override in overrides:
        name, _, text = override.partition("=")
        blocks = parse_blocks(fields.get("factors", ()))
        if any(_overlap(name, factor) for block in blocks for factor in block):
            raise UserError(
                f"{name} is a factor of this study, so it cannot be overridden; override 'factors' instead."
            )
        set_at(fields, name, _literal(text))
    study = from_dict(Study, fields)
    if not study.title:
        study = dataclasses.replace(study, title=path.stem.replace("_", " "))
    return ConfigFile(study, str(path), (module.__doc__ or "").strip(), tuple(overrides))


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def as_config_file(config: Any) -> ConfigFile:
    """Returns the `ConfigFile` of `config`: a path, a `Study`, a ConfigDict, a dict, or a `ConfigFile`.

    Raises:
      UserError: `config` has another type, or as in `load_config`.
    """
    if isinstance(config, ConfigFile):
        return config
    if isinstance(config, str | Path):
        return load_config(str(config))
    study = from_dict(Study, _plain(config))
    return ConfigFile(study if study.title else dataclasses.replace(study, title="untitled study"))


def _plain(config: Any) -> dict[str, Any]:
    if isinstance(config, Study):
        return to_dict(config)
    if hasattr(config, "to_dict"):  # ml_collections.ConfigDict
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise UserError(f"a config must be a ConfigDict, a dict or a Study, not {type(config).__name__}.")
    try:
        fields: dict[str, Any] = to_dict(config)
    except RecursionError:
        raise UserError(
            "the config contains itself, or is nested too deeply; give dicts and lists of values."
        ) from None
    if not all(isinstance(name, str) for name in fields):
        raise UserError("the name of a config field must be a string.")
    return fields


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return {"none": None, "true": True, "false": False}.get(text.lower(), text)
