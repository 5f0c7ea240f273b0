"""Compares one step of the trials in `trials.py` with another commit: `python tests/golden/compare.py COMMIT`.

Both commits run on this machine, COMMIT from a git worktree of its own, each with its own copy of these files. A step
may differ by 1e-6 of the largest value of a leaf in float32, and by 1e-12 in float64; if it differs by more, the exit
code is 1.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ALLOWED = {"float32": 1e-6, "float64": 1e-12}
ROOT = Path(__file__).resolve().parent.parent.parent
ONE_STEP = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
import helpers, jax, numpy as np
from golden.trials import TRIALS, outcome_of
found = {}
for dtype in (np.float32, np.float64):
    for name in TRIALS:
        outcome = outcome_of(name, 1, dtype)
        leaves = {"loss": outcome.curves["train_loss"], "val_loss": outcome.curves["val_loss"]}
        leaves |= outcome.params | {"batch_stats/" + n: leaf for n, leaf in outcome.batch_stats.items()}
        found |= {f"{dtype.__name__}|{name}|{n}": np.asarray(leaf) for n, leaf in leaves.items()}
np.savez(sys.argv[2], **found)
"""


def one_step(tree, out):
    """Returns the leaves after one step of each trial as the code in the folder `tree` computes them."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-P", "-c", ONE_STEP, str(tree), str(out)], check=True, env=environment)
    with np.load(out) as leaves:
        return dict(leaves)


def compare(ours, others):
    """Yields a line for each trial and dtype, and whether the difference is allowed; leaves must be the same."""
    for trial in dict.fromkeys(name.rpartition("|")[0] for name in (*others, *ours)):
        mine, other = ({n: leaf for n, leaf in of.items() if n.startswith(f"{trial}|")} for of in (ours, others))
        if mine.keys() != other.keys():
            yield f"{trial}: the leaves differ, {sorted(mine.keys() ^ other.keys())[:3]}, ...", False
            continue
        far = max(np.abs(mine[n] - other[n]).max() / max(np.abs(other[n]).max(), 1e-30) for n in mine)
        yield f"{trial}: {far:.1e}", bool(far <= ALLOWED[trial.partition("|")[0]])


def main():
    """Prints how far each trial is from what the other commit computes; returns the exit code."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/golden/compare.py COMMIT")
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "-q", str(other), sys.argv[1]], check=True)
        try:
            if not (other / "tests" / "golden" / "trials.py").is_file():
                sys.exit(f"{sys.argv[1]} has no tests/golden/trials.py; name a later commit")
            others = one_step(other, Path(folder) / "other.npz")
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
        ours = one_step(ROOT, Path(folder) / "ours.npz")
    lines = list(compare(ours, others))
    for line, is_allowed in lines:
        print(f"{'ok' if is_allowed else 'DIFFERS':<8}{line}")
    return int(not all(is_allowed for _, is_allowed in lines))


if __name__ == "__main__":
    sys.exit(main())
