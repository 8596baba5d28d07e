"""Scripts of the project in forked processes, on the CPU with one thread each: what `python train_crpo.py` and torchrun
would start, without the four seconds that every import of torch and FSDP takes."""

import gc
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

import run  # noqa: F401 (what the scripts import is there before the fork)

ROOT = Path(__file__).parents[1]


def fork(act, log=os.devnull, environment={}):
    """Run act() in a forked process that appends what it prints to the file `log` -> its process id."""
    gc.disable()  # a process group left by the parent ends in a crash in the child, as its threads are not there
    child = os.fork()
    if child:
        gc.enable()
        return child
    gc.freeze()
    gc.enable()
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        os.environ.update(environment)
        torch.set_num_threads(1)
        act()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
        print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def begin(log, script, *words, processes=1):
    """Start a script with words of a command line, in processes that find each other as under torchrun -> their ids."""
    def act():
        os.chdir(ROOT)
        sys.argv = [script, *map(str, words)]
        runpy.run_path(script, run_name="__main__")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    return [fork(act, log, {**place, "RANK": str(rank)} if processes > 1 else {}) for rank in range(processes)]


def status_of(child, limit=300):
    """Wait for a process -> its exit status, negative where a signal ended it, as after `limit` seconds: processes that
    wait for each other would do so for run.PATIENCE."""
    end = time.monotonic() + limit
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def command(script, *words, processes=1, ok=True):
    """Run a script with words of a command line -> what it printed. Whether it ends well must be `ok`."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
        ended = [status_of(child) for child in begin(log.name, script, *words, processes=processes)]
        printed = log.read()
    assert (not any(ended)) == ok, f"{ended} {printed}"
    return printed
