"""The commands of `jaxft`, a file each: they parse arguments, call a recipe, and print its result.

Commands may import all other rows. They have no logic of their own: a recipe has it, or the row that it belongs to. A
new command is a new file and a name in `COMMANDS`. Its file has

- `HELP`, a line, which is its description too;
- `add_arguments(parser)` and `run(args, overrides) -> exit code`;
- `TAKES_CONFIG = True` if it reads a study's config file, whose fields the command line may override;
- `COMPUTES = True` if it trains or evaluates networks, so that its process is started with the environment for that;
- `RESUMES = True` if the same command resumes the work after it was interrupted.

Heavy imports are inside functions, so that `jaxft --help` is quick.
"""

# In the order of the help.
COMMANDS = ("study", "finetune", "predict", "report", "results", "soup", "data", "split", "weights", "models", "config")
