"""`python -m jaxft`."""

import subprocess
import sys


def test_python_m_jaxft_imports_nothing_of_the_current_folder(tmp_path):
    for name in ("json", "argparse", "numpy", "jax"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')\n")
    run = subprocess.run([sys.executable, "-m", "jaxft", "models"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "resnet18" in run.stdout
