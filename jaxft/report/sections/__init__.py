"""The sections of the report, one file per section.

Imports only the figures of `report`, `store`, `config`, `core` and `analysis`. To add a section, write a function of
the `ReportContext` in a new file and register it in `builtin`. A plug-in registers its sections in `registry.SECTIONS`.
"""
