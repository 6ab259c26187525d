"""A sample during which everything was stopped does not count."""

import signal
import subprocess
import sys
import time

PROGRAM = """
import sys, time
from benchmarks.fs.sampling import Stalls
stalls = Stalls()
time.sleep(0.5)
print(stalls.last, flush=True)
input()
time.sleep(0.5)
print(stalls.last, flush=True)
"""


def test_being_stopped_is_noticed_afterwards() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert float(process.stdout.readline()) < 0
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        process.send_signal(signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert float(process.stdout.readline()) > 0
