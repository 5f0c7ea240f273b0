"""Listeners to the events of a run (`jaxft.core.events`): the console, the pipe from worker processes, trackers.

May import `core`. A tracker is a file that registers a function in `TRACKERS`, and its module in the registry's list
(`jaxft.core.registries`).
"""
