"""The command line: parses arguments, runs a command (`jaxft.commands`), and exits.

Exit codes: 0 done; 1 a failure; 2 a mistake of the user, told in one sentence; 130 and 143 interrupted.
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
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.plugins import load_plugins
from jaxft.core.version import VERSION
from jaxft.ops import onednn

INTERRUPTED = 130
EPILOG = "--config.FIELD=VALUE overrides a field, such as --config.training.optimizer.learning_rate=0.01."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (by default the process's) and returns the exit code."""
    args = None
    try:
        args, overrides = parse(sys.argv[1:] if argv is None else argv)
        command = load_command(args.command)
        if argv is None and _declares(command, "COMPUTES"):
            deterministic = deterministic_environment() if getattr(args, "deterministic", False) else {}
            start_again(fast_environment() | deterministic)
            onednn.compile_ahead()
        load_plugins(getattr(args, "plugin", ()))
        with interrupts.on_signal():
            return command.run(args, overrides)
    except UserError as error:
        return _stop(f"jaxft: {error}", 2, args)
    except (KeyboardInterrupt, interrupts.Stopped) as error:
        resumes = args is not None and _declares(load_command(args.command), "RESUMES")
        advice = " What was finished is kept; the same command goes on." if resumes else ""
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else interrupts.TERMINATED
        return _stop(f"jaxft: interrupted.{advice}", code, args)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        return _stop(f"jaxft: failed: {type(error).__name__}: {reason[0]} (--debug shows where)", 1, args)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the arguments of a command line, and its overrides `training.optimizer.learning_rate=0.01`."""
    parser = argparse.ArgumentParser(
        prog="jaxft", description="Fine-tune vision networks many times at once, then see what changed."
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
        if not _declares(command, "TAKES_CONFIG"):  # a config names its own plug-ins
            subparser.add_argument(
                "--plugin",
                action="append",
                default=[],
                metavar="MODULE",
                help="a Python module, or entry point, that registers networks, weight formats and the like",
            )
        subparser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    args, rest = parser.parse_known_args(argv)
    return args, _overrides(rest, takes_config=_declares(load_command(args.command), "TAKES_CONFIG"))


def load_command(name: str) -> ModuleType:
    """Returns the file of a command."""
    return importlib.import_module(f"jaxft.commands.{name}")


def _declares(command: ModuleType, flag: str) -> bool:
    """Tells whether a command's file sets a flag, all of which are False by default."""
    return bool(getattr(command, flag, False))


def start_again(wanted: dict[str, str]) -> None:
    """Starts this process again with environment variables that are read when a process starts, if it lacks any."""
    if wanted and sys.platform == "linux":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})


def _overrides(words: Sequence[str], takes_config: bool) -> list[str]:
    overrides = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not takes_config or not word.startswith("--config."):
            raise UserError(f"unknown argument {word!r}{did_you_mean(word, ['--config.', '--workdir', '--debug'])}.")
        if "=" not in word:
            if not waiting or waiting[0].startswith("--"):
                raise UserError(f"{word} has no value; write {word}=VALUE.")
            word += "=" + waiting.pop(0)
        overrides.append(word.removeprefix("--config."))
    return overrides


def _stop(message: str, code: int, args: argparse.Namespace | None) -> int:
    if args is not None and args.debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
