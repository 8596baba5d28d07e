"""Kill a training run at random moments, start the same command again, and compare with a run nobody disturbed.

    python experiments/drill.py --kills 20 --terms 5 --everywhere > experiments/drill.txt

Two processes under torchrun on the embedded clinic, a state saved every step. Each blow, SIGKILL or SIGTERM, falls on
one process, on both, on torchrun, or on the whole tree; at a random time while they start and load, or in a later step
while they sample, update and save. A run killed before it had saved a state starts anew, as its own message says. At
the end metrics.jsonl (fields of seconds aside), samples.jsonl and every file of the model must be equal to the bit.

--everywhere also kills a run of one process before each single operation on files it makes (opening to write, renaming,
removing, making a folder), every other continuation once more, and compares in the same way.
"""

import argparse
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
SMALL = ["--prompts", "4", "--group", "4", "--max-new-tokens", "48", "--eval-questions", "0", "--save-every", "1"]
# What is shown of a run's output; "[rank" would begin a traceback of ours.
TELLING = re.compile(r"^\[rank|continuing|damaged|is now|stopped after|warning|error:|Root Cause|  rank  |exitcode")


def launch(out, steps, flags):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train_crpo.py",
               "--out", str(out), "--steps", str(steps), *SMALL, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def workers(agent):
    """Ids of the processes that torchrun has started, by rank."""
    try:
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        found = {}
        for child in children:
            words = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            found |= {int(w[5:]): int(child) for w in words if w.startswith(b"RANK=")}
        return [found[rank] for rank in sorted(found)]
    except (OSError, ValueError):
        return []


def outcome(out):
    """All of a finished run that must not depend on what it went through."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().split("\n")[:-1]]
    rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
    names = ("samples.jsonl", "model.safetensors", "config.json", "generation_config.json", "tokenizer.json")
    return {"metrics.jsonl": rows, **{name: (out / name).read_bytes() for name in names}}


def newest_state(out):
    return max((int(f.name[5:]) for f in out.glob("state/step-*[0-9]")), default=0)


def blow(run, out, kind, whom, steps, at):
    """Strike `at` seconds after `steps` new states were saved, or, for 0, after the processes began.

    -> what was printed; seconds until all had ended, or None if the run was faster.
    """
    goal = newest_state(out) + steps
    while run.poll() is None and (newest_state(out) < goal if steps else len(workers(run.pid)) < 2):
        time.sleep(0.005)
    end = time.monotonic() + at
    while run.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    ids = workers(run.pid)
    if run.poll() is not None or len(ids) < 2:
        return run.communicate()[0], None
    struck = time.monotonic()
    targets = {"rank 0": ids[:1], "rank 1": ids[1:], "both": ids, "tree": [run.pid, *ids], "torchrun": [run.pid]}
    for target in targets[whom]:
        try:
            os.kill(target, kind)
        except ProcessLookupError:
            pass
    return run.communicate()[0], time.monotonic() - struck


def drill(folder, kills, terms, steps, seed, say=print, flags=()):
    chance = random.Random(seed)
    calm, hit = folder / "calm", folder / "hit"
    began = time.monotonic()
    printed = launch(calm, steps, flags).communicate()[0]
    if not (calm / "model.safetensors").exists():
        sys.exit(printed)
    say(f"undisturbed: {steps} steps in {time.monotonic() - began:.1f} s")
    blows = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    chance.shuffle(blows)
    for number, kind in enumerate(blows, 1):
        whom = chance.choice(["rank 0", "rank 1", "both", "tree"] if kind == signal.SIGKILL else
                             ["rank 0", "rank 1", "torchrun"])
        after = chance.choice([0, 1, 1, 2])
        at = chance.uniform(0, 0.8 if after else 9)
        if (hit / "model.safetensors").exists() and not (hit / "state").exists():
            say(f"finished before blow {number}")
            break
        printed, seconds = blow(launch(hit, steps, flags), hit, kind, whom, after, at)
        name = signal.Signals(kind).name
        when = f"{at:.2f} s after " + (f"{after} more state(s)" if after else "the processes began")
        say(f"\n{number:2} {name} to {whom}, {when}: " + ("the run was faster" if seconds is None else
            f"all ended {seconds:.2f} s later, newest state {newest_state(hit)} of {steps}"))
        for line in printed.splitlines():
            if TELLING.search(line):
                say("   | " + line.replace(str(folder), "").replace(sys.executable, "python").strip()[:170])
    while not (hit / "model.safetensors").exists() or (hit / "state").exists():
        run = launch(hit, steps, flags)
        printed = run.communicate()[0]
        if run.returncode:
            sys.exit(printed)
    a, b = outcome(calm), outcome(hit)
    for name in a:
        say(f"{name}: {'equal to the bit' if a[name] == b[name] else 'DIFFERENT'}")
    return a == b


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs")
    parser.add_argument("--terms", type=int, default=5, help="SIGTERMs")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--everywhere", action="store_true", help="before each file operation, too")
    args = parser.parse_args()
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.machine()]
    print(f"{args.kills} SIGKILLs and {args.terms} SIGTERMs, {args.steps} steps, seed {args.seed}\n"
          f"{os.cpu_count()} cores of {models[0]}; Python {platform.python_version()}, torch {torch.__version__}\n"
          f"flags: {' '.join(SMALL)}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if not drill(Path(folder), args.kills, args.terms, args.steps, args.seed, lambda *w: print(*w, flush=True)):
            sys.exit("the disturbed run differs")
    if args.everywhere:
        sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
        from test_faults import SMALL as few, crash_everywhere
        import train_crpo
        with tempfile.TemporaryDirectory() as folder:
            print()
            crash_everywhere(train_crpo.main, lambda out: train_crpo.Config(out=str(out), **few), Path(folder), 1,
                             lambda *w: print(*w, flush=True))


if __name__ == "__main__":
    main()
