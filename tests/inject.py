"""train_crpo.py with faults built in, for tests and drills.

    torchrun --nproc_per_node=2 tests/inject.py nan:3:1,full:4-6:0 [flags of train_crpo.py]

Each fault is KIND:STEPS:RANK, where the kind is
    nan    the loss of the rank's first rollout is NaN
    slope  losses are finite, their gradient is infinite
    ties   every group of the rank is a tie, so that it has no rows to train on
    full   the disk is full for the rank's shard of a state
    oom    the GPU's memory is used up
    die    SIGKILL, but not again after a restart by torchrun
    hang   SIGSTOP: the process is there and does nothing; the others' patience is 20 s here
"""

import errno
import os
import signal
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.distributed.checkpoint import FileSystemWriter

import run
import train_crpo


def install(faults, own_rank, restarts=0):
    now, wanted = [0], set()
    for fault in faults.split(","):
        kind, steps, rank = fault.split(":")
        low, _, high = steps.partition("-")
        wanted |= {(kind, step) for step in range(int(low), int(high or low) + 1) if int(rank) == own_rank}

    def active(kind):
        return (kind, now[0]) in wanted

    def wrap(owner, name, act):
        original = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: act(original, *args, **kwargs))

    def step_questions(original, questions, step, *rest):
        now[0] = step + 1
        if active("die") and not restarts:
            os.kill(os.getpid(), signal.SIGKILL)
        if active("hang"):
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(questions, step, *rest)

    def policy_loss(original, *args):
        loss, clipped = original(*args)
        if active("oom"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if active("nan"):
            loss = torch.cat((loss[:1] * torch.nan, loss[1:]))
        if active("slope"):
            loss.register_hook(lambda gradient: gradient * torch.inf)
        return loss, clipped

    def advantages(original, *args):
        return tuple(x * (not active("ties")) for x in original(*args))

    def write_data(original, *args, **kwargs):
        if active("full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args, **kwargs)

    if "hang" in faults:
        run.PATIENCE = timedelta(seconds=20)
    wrap(train_crpo, "step_questions", step_questions)
    wrap(train_crpo, "policy_loss", policy_loss)
    wrap(train_crpo, "advantages", advantages)
    wrap(FileSystemWriter, "write_data", write_data)


if __name__ == "__main__":
    install(sys.argv[1], int(os.environ.get("RANK", 0)), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))
    # Then train_crpo.py's own last lines, as its user meets them.
    last_lines = Path(train_crpo.__file__).read_text(encoding="utf-8").partition('if __name__ == "__main__":\n')[2]
    del sys.argv[1]
    exec(textwrap.dedent(last_lines), vars(train_crpo))
