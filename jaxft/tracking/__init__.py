"""Listeners to the events of a run.

Imports `core`. A tracker is a file.
"""
