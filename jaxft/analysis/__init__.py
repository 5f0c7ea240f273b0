"""Pure functions of arrays and parameter trees, which can be used without other parts of jaxft.

Imports `core` and `ops`. To add a measure of change, write a function and register it.
"""
