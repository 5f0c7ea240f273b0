"""The host loop: a chunk of trials that run together as one compiled program.

This folder imports the rows up to `training`, and of `study` only `executors`, `services` and `device_memory`. Each
stage of the loop is one file.
"""
