"""What a run survives: kills at every file operation, full disks, non-finite losses, lost processes, idle processes."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

import clinic
import inject
import rewards
import run
import train_crpo
import train_sft
from checkpoint import ModelError, load_model, save_model
from data import Tokenizer
from forked import ROOT, command, fork, status_of
from model import PRESETS, init_model
from sampler import Rollout

SMALL = dict(steps=3, prompts=2, group=3, minibatches=1, max_new_tokens=16, eval_questions=0, save_every=1)


def in_a_child(act, kill_at=0, under=None):
    """Run act() in a forked process, SIGKILLed before its kill_at-th operation on files under a folder (opened for
    writing, renamed, removed, made) -> (its exit status, the operations it made)."""
    counted, parent = os.pipe()
    made = [0]

    def watch(event, args):
        flags = args[2] if event == "open" and isinstance(args[2], int) else 0
        write = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        change = write or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
        if change and str(under) in str(args[0]):
            made[0] += 1
            if made[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def watched():
        os.close(counted)
        sys.addaudithook(watch)
        act()
        os.write(parent, str(made[0]).encode())

    child = fork(watched)
    os.close(parent)
    with os.fdopen(counted, "rb") as pipe:
        told = pipe.read()
    return status_of(child), int(told or 0)


def left(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    del files["metrics.jsonl"], files["run.json"]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows], files


def crash_everywhere(main, config_of, folder, stride, say=lambda *words: None):
    """Kill a run before each (stride: each so many-th) of its file operations; the same command must finish it, with
    the same logs and model to the bit, and without a file too many. Every other is killed once more as it goes on."""
    status, operations = in_a_child(lambda: main(config_of(folder / "calm")), under=folder)
    assert status == 0
    for n in range(1, operations + 1, stride):
        out = folder / f"hit-{n}"
        assert in_a_child(lambda: main(config_of(out)), n, folder)[0] == -signal.SIGKILL
        if n % 2:
            in_a_child(lambda: main(config_of(out)), 1 + n * 7 % operations, folder)
        finished = (out / "config.json").exists() and not (out / "state").exists()
        if not finished:
            assert in_a_child(lambda: main(config_of(out)), under=folder)[0] == 0, n
        assert left(out) == left(folder / "calm"), n
        load_model(out)
        say(f"killed before operation {n} of {operations}: finished, equal to the bit")


@pytest.mark.parametrize("script", ["train_crpo", "train_sft"])
def test_a_kill_before_any_file_operation_is_survived(script, tmp_path):
    if script == "train_crpo":
        crash_everywhere(train_crpo.main, lambda out: train_crpo.Config(out=str(out), **SMALL), tmp_path, stride=19)
    else:
        clinic.write_corpus(tmp_path / "corpus.jsonl", 40, 3, "cold")
        crash_everywhere(train_sft.main, lambda out: train_sft.Config(
            out=str(out), data=[str(tmp_path / "corpus.jsonl")], steps=6, batch=4, save_every=2, holdout_every=2,
            holdout=0.1, lr=0.01), tmp_path, stride=29)


def torchrun(out, *flags, script=("train_crpo.py",), processes=2, restarts=0, machines=1):
    """Train under torchrun, with `machines` agents of `processes` each -> (ok, all that was printed)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = [subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", f"--nnodes={machines}", f"--nproc_per_node={processes}",
         f"--max-restarts={restarts}", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", *script,
         "--out", str(out), *map(str, flags)], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT) for _ in range(machines)]
    printed = "".join([agent.communicate()[0] for agent in agents])
    return not any(agent.returncode for agent in agents), printed


FLAGS = ["--steps", 4, "--prompts", 4, "--group", 3, "--max-new-tokens", 24, "--eval-questions", 0, "--save-every", 1]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """FLAGS in one process, undisturbed."""
    out = tmp_path_factory.mktemp("calm") / "ckpt"
    argv = [*map(str, FLAGS), "--out", str(out)]
    assert in_a_child(lambda: train_crpo.main(run.parse_config(train_crpo.Config, "", argv=argv)))[0] == 0
    return out


def assert_same(out, calm):
    for a, b in zip(left(out)[0], left(calm)[0], strict=True):
        for name in ("loss", "reward", "kl", "entropy", "length", "grad_norm", "clipped"):
            assert a[name] == pytest.approx(b[name], abs=1e-4), name
    for a, b in zip(load_model(out).parameters(), load_model(calm).parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)  # Adam divides by gradients near 0


@pytest.mark.parametrize("shard_within", [0, 1])
def test_two_machines_are_one_process(shard_within, calm, tmp_path):
    ok, printed = torchrun(tmp_path / "ckpt", *FLAGS, "--shard-within", shard_within, processes=1, machines=2)
    assert ok, printed
    assert_same(tmp_path / "ckpt", calm)


def test_a_state_moves_between_meshes_and_the_lost_process_is_named(calm, tmp_path):
    """One process dies in step 2, one of two copies of two shards in step 4, one process ends it."""
    out = tmp_path / "ckpt"

    def train(faults):
        if faults:
            inject.install(faults, 0)
        train_crpo.main(run.parse_config(train_crpo.Config, "", argv=[*map(str, FLAGS), "--out", str(out)]))

    assert in_a_child(lambda: train("die:2:0"))[0] == -signal.SIGKILL
    ok, printed = torchrun(out, *FLAGS, "--shard-within", 2, script=("tests/inject.py", "die:4:3"), processes=4)
    assert not ok and f"continuing {out} after step 1" in printed, printed
    assert "process 0: another process of this run is gone" in printed and "[rank" not in printed, printed
    assert re.search(r"Root Cause.*rank +: 3 .*exitcode +: -9", printed, re.DOTALL), printed
    assert sorted(p.name for p in (out / "state").iterdir()) == ["step-00000002", "step-00000003"]
    assert in_a_child(lambda: train(None))[0] == 0
    assert_same(out, calm)


def test_torchrun_restarts_from_the_last_state(calm, tmp_path):
    ok, printed = torchrun(tmp_path / "ckpt", *FLAGS, script=("tests/inject.py", "die:3:1"), restarts=3)
    assert ok and "after step 2" in printed, printed
    assert_same(tmp_path / "ckpt", calm)


def test_one_process_without_rows_one_full_disk_one_nan(calm, tmp_path):
    """Rank 1 has only ties in steps 1 and 2, no room for its shard of step 3's state, and NaN losses in step 4."""
    out = tmp_path / "ckpt"
    ok, printed = torchrun(out, *FLAGS, "--micro-tokens", 150, "--steps", 5,
                           script=("tests/inject.py", "ties:1-2:1,full:3:1,nan:4:1"))
    assert ok and re.search("no state saved after step 3: process 1: .*No space left on device.*goes on", printed)
    rows = left(out)[0]
    assert rows[0]["loss"] is not None and rows[0]["skipped"] >= 0.5
    assert [r["nonfinite"] for r in rows] == [0, 0, 0, 2, 0] and rows[3]["loss"] is None
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    bad = [s for s in samples if s["nonfinite"]]
    assert len(bad) == 2 and {s["step"] for s in bad} == {4}
    assert not {s["question"] for s in bad} & {s["question"] for s in samples if s["step"] == 4 and not s["nonfinite"]}


@pytest.mark.parametrize("kind", ["nan", "slope"])
def test_an_update_that_is_not_finite_changes_nothing(kind, tmp_path):
    def act():
        inject.install(f"{kind}:1-9:0", 0)
        train_crpo.main(train_crpo.Config(out=str(tmp_path / "ckpt"), **SMALL))

    assert in_a_child(act)[0] == 0
    for a, b in zip(load_model(tmp_path / "ckpt").parameters(), load_model(ROOT / "assets" / "tiny").parameters()):
        assert torch.equal(a, b)


def test_a_state_before_the_first_update_changes_nothing(tmp_path):
    """torch makes AdamW's moments by a step without gradients, which must not count."""
    def train(out, save_every):
        inject.install("ties:1:0", 0)
        train_crpo.main(train_crpo.Config(out=str(tmp_path / out), **{**SMALL, "save_every": save_every}))

    for out, save_every in (("with", 1), ("without", 0)):
        assert in_a_child(lambda: train(out, save_every))[0] == 0
    assert left(tmp_path / "with") == left(tmp_path / "without")
    assert [row["loss"] is None for row in left(tmp_path / "with")[0]] == [True, False, False]


@pytest.fixture
def directory(tmp_path):
    processes = run.start()
    yield run.RunDirectory(tmp_path / "ckpt", train_crpo.Config(), processes, {"tokenizer.json": b"{}"}, [])
    run.stop()


def test_after_five_steps_without_a_finite_update_the_run_stops(directory):
    for step, (nonfinite, loss) in enumerate([(2, None), (1, 0.5), *[(2, math.nan)] * 4], 1):
        directory.log({"step": step, "nonfinite": nonfinite, "loss": loss})
    with pytest.raises(ValueError, match="of the last 5 steps was NaN"):
        directory.log({"step": 7, "nonfinite": 1, "loss": math.inf})
    rows = left(directory.path)[0]
    assert [r["loss"] for r in rows] == [None, 0.5, None, None, None, None, None]


def test_a_full_disk_under_the_log_stops_the_run(directory):
    (directory.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="metrics.jsonl cannot be written.*No space left.*the same command goes on"):
        directory.log({"step": 1, "nonfinite": 0, "loss": 1.0})


def test_a_full_disk_under_the_final_model_leaves_the_state(directory, monkeypatch):
    model = run.shard(init_model(replace(PRESETS["tiny"], vocab_size=50)), directory.processes)
    optimizer = torch.optim.AdamW(model.parameters())
    assert directory.save_state(model, optimizer, 3, {})
    tokenizer = SimpleNamespace(eos_ids=[1], pad_id=1)

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"the half that fitted")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="model cannot be written.*No space left"):
        patch.setattr("checkpoint.save_file", full)
        directory.save(model, tokenizer)
    assert sorted(p.name for p in directory.path.iterdir()) == ["run.json", "state", "tokenizer.json"]
    directory.save(model, tokenizer)
    assert (directory.path / "model.safetensors").exists() and not (directory.path / "state").exists()


def test_a_state_whose_shards_are_on_another_machine_is_not_taken(directory, monkeypatch, capsys):
    model = run.shard(init_model(replace(PRESETS["tiny"], vocab_size=50)), directory.processes)
    optimizer = torch.optim.AdamW(model.parameters())
    assert directory.save_state(model, optimizer, 3, {})
    save = run.dcp.save
    monkeypatch.setattr(run.dcp, "save", lambda state, checkpoint_id: (
        save(state, checkpoint_id=checkpoint_id), next(checkpoint_id.glob("*.distcp")).unlink()))
    assert not directory.save_state(model, optimizer, 4, {})
    assert "all machines must share the disk" in capsys.readouterr().out
    assert [p.name for p in (directory.path / "state").iterdir()] == ["step-00000003"]


def test_a_second_run_in_the_same_directory_is_refused(directory):
    with pytest.raises(ValueError, match="another run is at work there"):
        run.RunDirectory(directory.path, train_crpo.Config(fresh=True), directory.processes, {}, [])
    assert directory.path.exists() and not Path(f"{directory.path}.1").exists()


def test_logs_are_cut_between_rows_whatever_they_hold(directory):
    text = "a line separator \u2028, a next line \x85, \ud800 half a pair"
    directory.log({"step": 1, "nonfinite": 0, "loss": 1.0}, [{"step": 1, "response": text}])
    whole = (directory.path / "samples.jsonl").read_bytes()
    with open(directory.path / "samples.jsonl", "ab") as file:
        file.write('{"step": 2, "response": "é'.encode()[:-1])  # killed within a character
    directory._cut_logs(1)
    assert (directory.path / "samples.jsonl").read_bytes() == whole


def test_a_replaced_model_directory_is_never_half_new(tmp_path):
    """A kill before each rename or removal: what loads is all old or all new."""
    def save(seed, shard_bytes=5 * 2**30):
        model = init_model(replace(PRESETS["tiny"], vocab_size=50), seed)
        save_model(tmp_path / "m", model.config, dict(model.named_parameters()), [1], 1, shard_bytes)

    save(1)
    old = load_model(tmp_path / "m").model.norm.weight, load_model(tmp_path / "m").model.embed_tokens.weight
    _, operations = in_a_child(lambda: save(2, 50_000), under=tmp_path)
    for n in range(1, operations + 1):
        save(1)
        assert in_a_child(lambda: save(2, 50_000), n, tmp_path)[0] == -signal.SIGKILL
        try:
            assert torch.equal(load_model(tmp_path / "m").model.embed_tokens.weight, old[1]), n
        except ModelError as error:
            assert "config.json: no such file" in str(error), n


def test_out_of_memory_names_the_flags(tmp_path):
    printed = command("tests/inject.py", "oom:1:0", "--out", tmp_path / "x", *FLAGS, ok=False)
    assert "Traceback" not in printed
    *_, error, flags = printed.strip().splitlines()
    assert error.startswith("error: process 0: CUDA out of memory")
    assert all(f"--{name}" in flags for name in ("micro-tokens", "max-rows", "max-new-tokens", "checkpoint-layers"))


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="shapes"):
        run.fail(RuntimeError("shapes do not fit"))


def test_each_rollout_is_scored_as_the_answer_to_its_own_question(tmp_path):
    """Of four questions the second is too long. Every rollout has its own noise, and its end token is not scored."""
    rows = [{"id": q.id, "stem": " word" * (999 * (i == 1)) + q.stem, "options": q.options, "answer": q.answer}
            for i, q in enumerate(clinic.make_questions(4, 0))]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def act():
        tokenizer, score, evaluate = Tokenizer(ROOT / "assets" / "tiny", 10**6), rewards.score, train_crpo.evaluate
        asked, seeds, scored, weights = [], [], [], []

        def generate(model, prompts, given, *how):
            asked.extend(map(tokenizer.decode, prompts))
            seeds.extend(seed for group in given for seed in group)
            ids = [*tokenizer.encode("\\boxed{A}"), tokenizer.end_id]
            return [[Rollout(ids, [-1.0] * len(ids), True) for _ in group] for group in given]

        train_crpo.generate = generate
        train_crpo.evaluate = lambda *args, **named: (weights.append(named["weights"]), evaluate(*args, **named))[1]
        rewards.score = lambda text, q: (scored.append((text, q.stem)), score(text, q))[1]
        options = SMALL | dict(steps=2, prompts=3, eval_questions=1, eval_data=[str(tmp_path / "data.jsonl")])
        train_crpo.main(train_crpo.Config(out=str(tmp_path / "ckpt"), data=[str(tmp_path / "data.jsonl")],
                                          weights=["accuracy=3"], **options))
        scored = [(text, stem) for text, stem in scored if text == "\\boxed{A}"]  # the rest is the evaluations'
        assert len(asked) == 6 and len(scored) == len(set(seeds)) == 18
        assert all(stem in asked[n // 3] for n, (_, stem) in enumerate(scored))
        assert weights == [rewards.weights_of("grounded", ["accuracy=3"])] * 2

    assert in_a_child(act)[0] == 0


def test_from_three_times_the_target_on_a_step_only_pulls_back(tmp_path):
    def act():
        kl, update, seen = iter((0.5, 0.89, 0.91, 0.91, 0.5)), train_crpo.update, []
        train_crpo.rollout_kl = lambda *args: next(kl)

        def spied(model, optimizer, batch, advantage, ref_logprob, beta, rules, processes):
            seen.append((len(batch), bool(advantage.any()), beta, rules.entropy_bonus))
            return update(model, optimizer, batch, advantage, ref_logprob, beta, rules, processes)

        train_crpo.update = spied
        train_crpo.main(train_crpo.Config(out=str(tmp_path / "ckpt"), target_kl=0.3, **SMALL | dict(steps=5)))
        rows = left(tmp_path / "ckpt")[0]
        assert [row["refused"] for row in rows] == [False, False, True, True, False]
        assert [row["lr"] for row in rows] == [4e-4, 4e-4, 2e-4, 2e-4, 2e-4]
        assert seen[2:4] == [(6, False, 0.1, 0.0)] * 2 and [one[3] for one in seen[:2] + seen[4:]] == [-0.05] * 3

    assert in_a_child(act)[0] == 0
