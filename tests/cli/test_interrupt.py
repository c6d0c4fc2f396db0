"""Ctrl-C, once and twice, on a command of its own process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

ENDING = """
import signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with Ctrl-C switched off
from vitdemo import cli
def run(options):
    print("begun", flush=True)
    # What a command may leave behind: Python waits for it when it ends.
    threading.Thread(target=time.sleep, args=(20,)).start()
    time.sleep(20)
cli.models.run_models = run
sys.exit(cli.main(["models"]))
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_a_second_ctrl_c_ends_a_command_at_once_and_quietly() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDING], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        for _ in range(2):
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=15)
    assert (process.returncode, said) == (130, b"")
