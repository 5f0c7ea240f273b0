"""The command line: parses, calls a command, exits.

Exit codes: 0 done; 1 a failure; 2 a mistake in what was asked for, said in one sentence; 130 and 143 interrupted.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from jaxft.core import interrupts
from jaxft.core.devices import deterministic_environment, fast_environment
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.version import VERSION
from jaxft.ops import onednn

COMMANDS = ("study", "finetune", "predict", "report", "results", "soup", "data", "split", "weights", "models", "config")
COMPUTING = ("study", "finetune", "predict", "soup")
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (by default the process's) and returns the exit code."""
    args = None
    try:
        args, overrides = parse(sys.argv[1:] if argv is None else argv)
        if argv is None and args.command in COMPUTING:
            start_again(
                fast_environment() | (deterministic_environment() if getattr(args, "deterministic", False) else {})
            )
            onednn.compile_ahead()
        command = importlib.import_module(f"jaxft.commands.{args.command}")
        with interrupts.on_signal():
            return command.run(args, overrides)
    except UserError as error:
        return _stop(f"jaxft: {error}", 2, args)
    except (KeyboardInterrupt, interrupts.Stopped) as error:
        resumable = (
            " What was finished is kept; the same command goes on."
            if args and args.command in ("study", "finetune")
            else ""
        )
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else interrupts.TERMINATED
        return _stop(f"jaxft: interrupted.{resumable}", code, args)
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
        command = importlib.import_module(f"jaxft.commands.{name}")
        epilog = "--config.FIELD=VALUE overrides a field, such as --config.training.optimizer.learning_rate=0.01."
        takes_config = name in ("study", "config", "split")
        subparser = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            epilog=epilog if takes_config else None,
            allow_abbrev=False,
        )
        command.add_arguments(subparser)
        subparser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    args, rest = parser.parse_known_args(argv)
    return args, _overrides(rest, takes_config=hasattr(args, "config"))


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
