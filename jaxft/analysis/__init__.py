"""Pure functions of arrays and parameter trees, usable without the rest of jaxft.

Imports `core` and `ops`. A measure is a function and a line in its registry.
"""
