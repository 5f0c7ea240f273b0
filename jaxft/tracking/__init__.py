"""Event listeners (`jaxft.core.events`): the console, the pipe from a worker process to its parent, and trackers.

Imports only `core`. To add a tracker, write a module that registers a function in `TRACKERS`, and add the module to the
list of this registry in `jaxft.core.registries`.
"""
