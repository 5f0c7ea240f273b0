"""The sections of a study's page: a file each, registered in `builtin`.

Imports `report`'s figures, tables of the store, `config`, `core` and `analysis`. A new section is a function of the
`ReportContext` in a file of its own and a line in `builtin`; a plug-in registers its own in `registry.SECTIONS`.
"""
