"""`python -m jaxft`: the command line."""

import sys

if not sys.flags.safe_path:
    # `python -m` puts the current folder first, where a `json.py` of the user would replace Python's.
    del sys.path[0]

from jaxft.cli import main

sys.exit(main())
