"""The way from a config to a full store: plan, executors, the loop on the host, worker processes.

Imports all rows up to `training`. An executor is a class.
"""
