"""The process outside of the sandbox, as the shell sees it whose job it is."""

import os
import signal
import subprocess
import sys

DEADLINE = 60

# Its handler of SIGTSTP gives the keeper a second to stop too early, and tells whether it did.
SLOW_TO_STOP = """
import os, select, signal, time
from vmm.cli.keeper import run_confined

def state():
    with open(f"/proc/{os.getppid()}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]

def stop(number, frame):
    end = time.monotonic() + 1
    while state() != "T" and time.monotonic() < end:
        time.sleep(0.01)
    print(state() == "T", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

def work():
    signal.signal(signal.SIGTSTP, stop)
    print("ready", flush=True)
    while not select.select([0], [], [], 0.1)[0]:
        pass  # a signal on the way into a wait would be heard at its end only
    return 7

raise SystemExit(run_confined(work))
"""


def test_it_stops_after_the_machine_has_and_goes_on_with_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_STOP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "ready\n"
        os.killpg(keeper.pid, signal.SIGTSTP)
        stopped_first = keeper.stdout.readline()
        _, status = os.waitpid(keeper.pid, os.WUNTRACED)
        os.killpg(keeper.pid, signal.SIGCONT)
        keeper.stdin.write("\n")
        keeper.stdin.close()
        ended = keeper.wait(DEADLINE)

    assert (stopped_first, os.WIFSTOPPED(status), ended) == ("False\n", True, 7)
