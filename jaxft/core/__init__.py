"""What every other part uses: errors, parameter names and rules, files, locks, devices, interrupts, timing.

Imports nothing of jaxft, and no JAX at its top. Grows by a file for each concept; a metric is a function.
"""
