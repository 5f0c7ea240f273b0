"""The figures of the pages, as inline SVG: one file per kind of figure, with shared style, axes and colors.

Imports only `core`, `analysis`, and the levels, labels, settings and arms of the report.
"""
