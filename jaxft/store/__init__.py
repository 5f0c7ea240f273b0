"""The work directory of a study: records, checkpoints and tables.

Imports `core` and `config`. To add a column of the results, register it in `columns`.
"""
