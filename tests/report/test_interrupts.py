"""SIGTERM during the report ends it within ten seconds, with exit code 143 and without a half-written file."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from test_report import build

from jaxft.core import interrupts
from jaxft.report import write_report

SLOW_REPORT = """
import sys, time
from jaxft import cli
from jaxft.report import page
whole = page.header_values
def header_values(context):
    print("at work", flush=True)
    {work}
    return whole(context)
page.header_values = header_values
sys.exit(cli.main(["report", sys.argv[1]]))
"""


def test_a_stopped_report_writes_no_page(tmp_path, monkeypatch):
    build(tmp_path)
    monkeypatch.setattr(interrupts._requested, "is_set", lambda: True)
    with pytest.raises(interrupts.Stopped):
        write_report(tmp_path)
    assert not list(tmp_path.glob("*.html")) and not list(tmp_path.rglob(".tmp-*"))


def test_each_figure_of_a_report_can_be_stopped(tmp_path, monkeypatch):
    build(tmp_path)
    num_checks = 0

    def count():
        nonlocal num_checks
        num_checks += 1
        return False

    monkeypatch.setattr(interrupts._requested, "is_set", count)
    page = write_report(tmp_path).read_text()
    assert num_checks > page.count("<svg")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "seconds"),
    [("", 10), ("time.sleep(0.5)", 10), ("import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)", 12)],
    ids=["short", "between two checks", "in one call of C"],
)
def test_sigterm_during_the_report_exits_with_143(tmp_path, work, seconds):
    """A call of C that releases the lock of Python is ended after nine seconds, though no handler can run."""
    build(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_REPORT.format(work=work or "time.sleep(0.01)"), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert process.stdout.readline() == b"at work\n"
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 143 and time.monotonic() - start < seconds
    assert not list(tmp_path.glob("report.html"))


def test_on_signal_restores_the_handler_and_ends_its_thread():
    before, num_threads = signal.getsignal(signal.SIGTERM), threading.active_count()
    with interrupts.on_signal():
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + 5
        with pytest.raises(interrupts.Stopped):
            while time.monotonic() < end:
                interrupts.check()
    interrupts.check()
    assert signal.getsignal(signal.SIGTERM) == before and threading.active_count() == num_threads
