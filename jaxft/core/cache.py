"""The cache folder."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns the cache folder, which can be deleted: it contains decoded images, features and compiled programs.

    It is `$JAXFT_CACHE`, or if that is not set, a folder in the cache folder of the user.
    """
    import platformdirs

    return Path(os.environ.get("JAXFT_CACHE") or platformdirs.user_cache_dir("jaxft"))
