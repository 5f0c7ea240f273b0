"""One file for each thing a person does: the same functions serve the library and the command line.

A command's file has `add_arguments(parser)` and `run(args, overrides) -> exit code`. Heavy imports are inside
functions, so that `jaxft --help` is quick.
"""
