"""Listeners to the events of a run (`jaxft.core.events`): the console, the pipe from worker processes, trackers.

May import `core`. A tracker is a file, and a line in `trackers.TRACKERS`.
"""
