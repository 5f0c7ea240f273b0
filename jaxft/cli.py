"""The command line: parses the arguments, runs a command (`jaxft.commands`), and returns its exit code.

Exit codes: 0 success; 1 failure; 2 invalid request, explained in one sentence; 130 interrupted (Ctrl-C); 143 terminated
(SIGTERM).
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from jaxft.commands import COMMANDS
from jaxft.core import interrupts
from jaxft.core.devices import deterministic_environment, fast_environment
from jaxft.core.errors import Failure, UserError, did_you_mean
from jaxft.core.plugins import load_plugins
from jaxft.core.printing import print_lines
from jaxft.core.reading import OPTION, bounded
from jaxft.core.text import cut_off
from jaxft.core.version import VERSION
from jaxft.ops import onednn

INTERRUPTED = 130
MOST_CHARACTERS = 300  # of the message of an unexpected error
MOST_OF_SENTENCE = 1000  # characters of any message
EPILOG = (
    "Any field of the config can be overridden with --config.FIELD=VALUE, for example "
    "--config.training.optimizer.learning_rate=0.01. `jaxft config show --config=FILE.py` lists the fields."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit code. If None, `argv` is the command line of this process."""
    args = None
    try:
        args, overrides = parse(sys.argv[1:] if argv is None else argv)
        command = load_command(args.command)
        if argv is None and _declares(command, "COMPUTES"):
            deterministic = deterministic_environment() if getattr(args, "deterministic", False) else {}
            restart_with(fast_environment() | deterministic)
            onednn.compile_ahead()
        load_plugins(getattr(args, "plugin", ()))
        with interrupts.on_signal(), bounded(args.max_bytes):
            return command.run(args, overrides)
    except UserError as error:
        return _stop(f"jaxft: {error}", 1 if isinstance(error, Failure) else 2, args)
    except (KeyboardInterrupt, interrupts.Stopped) as error:
        resumes = args is not None and _declares(load_command(args.command), "RESUMES")
        advice = " Finished work is saved; the same command resumes it." if resumes else ""
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else interrupts.TERMINATED
        return _stop(f"jaxft: interrupted.{advice}", code, args)
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reason = cut_off(lines[0], MOST_CHARACTERS)
        return _stop(f"jaxft: failed: {type(error).__name__}: {reason} (--debug shows the traceback)", 1, args)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the arguments of a command line, and its overrides of config fields.

    An override is a string such as 'training.optimizer.learning_rate=0.01'.

    Raises:
      SystemExit: the command line asks for help, or argparse rejects it.
      UserError: an argument is unknown, or an override has no value.
    """
    parser = argparse.ArgumentParser(
        prog="jaxft",
        description="Fine-tune vision networks many times at once, then see what changed.",
        epilog="`jaxft COMMAND --help` describes the options of a command. Exit codes: 0 success, 1 failure, 2 invalid "
        "request, 130 interrupted, 143 terminated.",
    )
    parser.add_argument("--version", action="version", version=f"jaxft {VERSION}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = load_command(name)
        subparser = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            epilog=EPILOG if _declares(command, "TAKES_CONFIG") else None,
            allow_abbrev=False,
        )
        command.add_arguments(subparser)
        if not _declares(command, "TAKES_CONFIG"):  # `config.plugins` names the plug-ins of a study
            subparser.add_argument(
                "--plugin",
                action="append",
                default=[],
                metavar="MODULE",
                help="load this Python module or entry point, which registers networks, weight formats or other "
                "entries; can be repeated",
            )
        subparser.add_argument(
            OPTION,
            metavar="N",
            help="largest number of bytes to read from a weight file, a file of images or a table, also after "
            "decompression, such as 2e10 (default: by kind, see docs/security.md)",
        )
        subparser.add_argument("--debug", action="store_true", help="print the full traceback of an error")
    args, unknown = parser.parse_known_args(argv)
    return args, _overrides(unknown, takes_config=_declares(load_command(args.command), "TAKES_CONFIG"))


def load_command(name: str) -> ModuleType:
    """Returns the module of a command in `jaxft.commands`."""
    return importlib.import_module(f"jaxft.commands.{name}")


def _declares(command: ModuleType, flag: str) -> bool:
    """Returns whether the module of a command sets a flag. Flags are False by default."""
    return bool(getattr(command, flag, False))


def restart_with(variables: dict[str, str]) -> None:
    """Restarts this process with more environment variables, on Linux. Does nothing if `variables` is empty.

    Some variables are read only when a process starts.
    """
    if variables and sys.platform == "linux":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **variables})


def _overrides(words: Sequence[str], takes_config: bool) -> list[str]:
    """Returns the overrides among the words that argparse does not know, without '--config.'."""
    overrides = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not takes_config or not word.startswith("--config."):
            raise UserError(f"unknown argument {word!r}{did_you_mean(word, ['--config.', '--workdir', '--debug'])}.")
        if "=" not in word:
            if not remaining or remaining[0].startswith("--"):
                raise UserError(f"{word} has no value; write {word}=VALUE.")
            word += "=" + remaining.pop(0)
        overrides.append(word.removeprefix("--config."))
    return overrides


def _stop(message: str, code: int, args: argparse.Namespace | None) -> int:
    """Prints a message, after the traceback if --debug is set. Returns `code`."""
    if args is not None and args.debug:
        traceback.print_exc()
    print_lines(cut_off(message, MOST_OF_SENTENCE), to_stderr=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
