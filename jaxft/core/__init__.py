"""Basic modules that all other folders use: errors, parameter names and rules, files, locks, devices, events, timing.

Imports no other folder of jaxft, and imports JAX only inside functions. Add a file for each new concept.
"""
