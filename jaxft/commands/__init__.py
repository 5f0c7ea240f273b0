"""The commands of `jaxft`, one file each. A command parses arguments, calls a recipe and prints its result.

Commands may import all other rows. Only parsing and printing belong here; all other code belongs to a recipe or to a
row below it. To add a command, add a file and a name in `COMMANDS`. The file defines

- `HELP`: one line, shown in the list of commands and as the description of the command;
- `add_arguments(parser)`, and `run(args, overrides)`, which returns the exit code;
- `TAKES_CONFIG = True` if the command reads the config file of a study, so the command line can override its fields;
- `COMPUTES = True` if the command trains or evaluates networks, so it runs in the environment that makes this fast;
- `RESUMES = True` if the same command resumes interrupted work.

Heavy imports are inside functions, to keep `jaxft --help` fast.
"""

# In the order of `jaxft --help`.
COMMANDS = (
    *("study", "finetune", "predict", "compare", "report", "results", "soup", "data", "split", "weights"),
    *("models", "config"),
)
