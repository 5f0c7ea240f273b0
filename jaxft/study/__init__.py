"""From a config to complete results: plan, executors, host loop, jobs and worker processes.

This folder may import all rows up to `training`. `plan` resolves a config (`planned`, `grouping`). `run` runs the
missing trials: `chooser` chooses an executor for each group, `jobs` splits groups into jobs, `work` shares the jobs
with other processes (`pool`, `workers`), `pieces` runs one job, and `chunk/` is the host loop. A new executor is a
class and a line `EXECUTORS.register(...)`.
"""
