"""The record of a run: time, command, config, versions, device and commit."""

import contextlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.config import to_dict
from jaxft.core.devices import num_cores

if TYPE_CHECKING:
    from jaxft.config import ConfigFile


def run_record(config: "ConfigFile") -> dict[str, Any]:
    """Returns the record of a run. The commit is the one of the repository that contains the config file."""
    import jax

    from jaxft.ops import convolution

    device = jax.devices()[0]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command_line(),
        "config_path": config.path,
        "overrides": list(config.overrides),
        "config": to_dict(config.study),
        "versions": versions(),
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform}), {num_cores()} CPU cores",
        "convolution": convolution.described(*convolution.implementation()),
        "git": git_state(Path(config.path).parent if config.path else Path()),
    }


def command_line() -> list[str]:
    """Returns the words of the command line that started this process."""
    program = Path(sys.argv[0]).name
    return ["jaxft" if program in ("cli.py", "__main__.py") else program, *sys.argv[1:]]


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect results."""
    from importlib.metadata import PackageNotFoundError, version

    by_package = {"python": platform.python_version()}
    for name in ("jaxft", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            by_package[name] = version(name)
    return by_package


def git_state(folder: Path) -> dict[str, Any]:
    """Returns the commit of the repository that contains `folder`, and whether files have changed since.

    Both are None outside a repository. Git runs no code that the repository configures: no hooks, file system monitors,
    content filters, submodules or remotes. So a file that differs only before its filter counts as changed.
    """
    environment = os.environ | {"GIT_ALLOW_PROTOCOL": "", "JAXFT_EMPTY": ""}

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, check=True)
        return os.fsdecode(done.stdout)

    try:
        commit = git("rev-parse", "HEAD").strip()
        settings = git("config", "--list", "--name-only", "--show-scope", "-z").split("\0")
        filters = {
            name
            for scope, name in zip(settings[::2], settings[1::2])
            if scope in ("local", "worktree") and name.startswith("filter.")
        }
        # Unlike `-c`, `--config-env` also accepts names with an equals sign.
        without = [f"--config-env={name}=JAXFT_EMPTY" for name in filters]
        without += ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "--no-optional-locks"]
        return {"commit": commit, "dirty": bool(git(*without, "status", "--porcelain", "--ignore-submodules=dirty"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
