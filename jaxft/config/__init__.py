"""Trials and studies as frozen dataclasses; reading of config files; the identity of a trial.

Imports only `core`, and no JAX. Add a file for each new section, with a `check` method.
"""

from jaxft.config.digest import SCHEMA_VERSION, digest
from jaxft.config.execution import Execution
from jaxft.config.fields import FROZEN, MAX_SEED, LayerRate, setting
from jaxft.config.images import DRAWN, Images, Similarity
from jaxft.config.loading import ConfigFile, as_config_file, load_config
from jaxft.config.preprocessing import PreprocessingConfig
from jaxft.config.source import Source
from jaxft.config.streams import Streams
from jaxft.config.study import Block, Study, Trial
from jaxft.config.study_files import Scale, read_scale
from jaxft.config.training import Training
from jaxft.config.values import fields_of, from_dict, get_at, non_default, to_dict, with_fields

__all__ = [
    "DRAWN",
    "FROZEN",
    "MAX_SEED",
    "SCHEMA_VERSION",
    "Block",
    "ConfigFile",
    "Execution",
    "Images",
    "LayerRate",
    "PreprocessingConfig",
    "Scale",
    "Similarity",
    "Source",
    "Streams",
    "Study",
    "Training",
    "Trial",
    "as_config_file",
    "digest",
    "fields_of",
    "from_dict",
    "get_at",
    "load_config",
    "non_default",
    "read_scale",
    "setting",
    "to_dict",
    "with_fields",
]
