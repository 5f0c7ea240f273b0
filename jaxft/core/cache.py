"""The folder for what can be made again."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns the folder for what can be made again: decoded images, features, compiled programs."""
    import platformdirs

    return Path(os.environ.get("JAXFT_CACHE") or platformdirs.user_cache_dir("jaxft"))
