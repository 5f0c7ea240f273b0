"""The figures of the report, as inline SVG: a file a kind of figure, on the shared style, axes and colors.

Imports `core`, `analysis` and the report's levels, labels, settings and arms. A new kind of figure is a file.
"""
