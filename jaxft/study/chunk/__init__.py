"""Trials that run side by side as one compiled program: the loop on the host, and all that it needs.

Imports the rows up to `training`, and `study.executors` and `study.services`; nothing else of `study`. A part of the
loop is a file.
"""
