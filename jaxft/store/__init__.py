"""The work directory of a study: records, checkpoints and tables.

Imports `core` and `config`. A column of the results is a line in `columns`.
"""
