"""Tasks that a user runs with one call. A recipe is a file, or a folder if it has several steps.

Recipes may import all rows up to `report` and `tracking`, but no commands. `commands/` parses arguments and prints
results; recipes do neither. `jaxft/__init__.py` re-exports the functions that users call from Python.
"""
