"""The way from a config to a full store: plan, executors, the loop on the host, worker processes.

May import all rows up to `training`. `plan` resolves a config (`planned`, `grouping`), `run` runs what the store lacks:
`chooser` picks an executor for each group, `jobs` cuts groups into pieces of work, `work` shares the pieces with other
processes (`pool`, `workers`), `pieces` does one, and `chunk/` is the loop on the host. An executor is a class and a
line in `executors.EXECUTORS`.
"""
