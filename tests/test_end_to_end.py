"""The command lines that users type, on small models: a few as they are typed, the others forked."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import clinic
import eval as evaluation
import metrics
import rewards
import run
import train_crpo
from checkpoint import load_model, save_model
from data import Tokenizer, load_questions
from forked import ROOT, begin, command, status_of
from model import PRESETS, init_model

BENCHMARKS = ["medqa_us_dev_400.jsonl", "medmcqa_dev_300.jsonl", "medxpertqa_text_150.jsonl"]


def typed(*words, processes=0):
    """Run a script of the project as its users do -> its output. processes: under torchrun with so many."""
    start = [sys.executable]
    if processes:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def metrics_of(directory):
    return rows_of(directory / "metrics.jsonl")


SMALL = ["--steps", 3, "--group", 4, "--minibatches", 2, "--eval-questions", 8, "--max-new-tokens", 48]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "ckpt"
    printed = typed("train_crpo.py", "--out", out, *SMALL)
    return out, printed


def test_train_crpo_from_the_embedded_model(one_process):
    out, printed = one_process
    rows = metrics_of(out)
    assert [r["step"] for r in rows] == [1, 2, 3]
    for name in ("reward", "accuracy", "clinical", "consistency", "kl", "entropy", "length", "loss", "seconds", "lr",
                 "accuracy_spread", "accuracy_tie", "accuracy_steers", "clipped", "cut", "skipped", "beta", "grad_norm",
                 "logprob_gap",
                 "seconds_sample", "seconds_score", "seconds_reference", "seconds_update"):
        assert all(isinstance(r[name], (int, float)) for r in rows), name
    assert abs(rows[0]["kl"]) < 1e-6 < rows[2]["kl"]
    samples = rows_of(out / "samples.jsonl")
    assert len(samples) == 3 * 4 and {"response", "reward", "advantage", "accuracy"} <= set(samples[0])
    assert json.loads((out / "run.json").read_text())["group"] == 4
    assert "held-out accuracy before" in printed and "held-out accuracy after" in printed and "python eval.py" in printed
    assert "trained on" not in printed
    before, after = (json.loads((out / f"held_out_{when}.json").read_text()) for when in ("before", "after"))
    assert f"before: {before['accuracy']:.3f}" in printed and f"after: {after['accuracy']:.3f}" in printed
    named = {name for row in [*rows, *samples, after] for name in row if "@" not in name}
    own = {f"{name}{part}" for name in rewards.OBJECTIVES for part in ("", "_spread", "_tie", "_steers", "_interval")}
    assert named - own - metrics.COLUMNS == {f"seconds_{name}" for name in ("sample", "score", "reference", "update")}
    start, end = load_model(ROOT / "assets" / "tiny"), load_model(out)
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), end.parameters()))
    Tokenizer(out, end.config.vocab_size)


def test_the_same_command_gives_the_same_run_and_keeps_the_first(one_process):
    out, _ = one_process
    printed = command("train_crpo.py", "--out", out, *SMALL)
    assert f"is now {out}.1" in printed
    for a, b in zip(metrics_of(out), metrics_of(Path(f"{out}.1")), strict=True):
        assert {k: v for k, v in a.items() if "seconds" not in k} == {k: v for k, v in b.items() if "seconds" not in k}
    assert (out / "model.safetensors").read_bytes() == Path(f"{out}.1/model.safetensors").read_bytes()


def test_bfloat16_computes_in_it_and_trains_float32_weights(tmp_path):
    """Sampler and trainer round differently there, by about 2^-9 of what they add up; the weights keep all digits."""
    command("train_crpo.py", "--out", tmp_path / "ckpt", *SMALL, "--eval-questions", 0, "--dtype", "bfloat16", processes=2)
    rows = metrics_of(tmp_path / "ckpt")
    assert all(1e-4 < r["logprob_gap"] < 0.02 and r["nonfinite"] == 0 and r["grad_norm"] > 0 for r in rows)
    start, end = load_model(ROOT / "assets" / "tiny"), load_model(tmp_path / "ckpt")
    moved = [b for a, b in zip(start.parameters(), end.parameters()) if not torch.equal(a, b)]
    assert moved and all(w.dtype == torch.float32 and not torch.equal(w, w.bfloat16().float()) for w in moved)
    command("eval.py", tmp_path / "ckpt", "--limit", 8, "--dtype", "bfloat16")
    table = json.loads((tmp_path / "ckpt/eval/clinic.json").read_text())
    assert table["dtype"] == "torch.bfloat16" and table["answered"] > 0


def test_two_processes_give_the_same_losses(one_process, tmp_path):
    typed("train_crpo.py", "--out", tmp_path / "two", *SMALL, processes=2)
    for a, b in zip(metrics_of(one_process[0]), metrics_of(tmp_path / "two"), strict=True):
        for name in ("loss", "reward", "kl", "entropy", "length", "grad_norm", "clipped"):
            assert b[name] == pytest.approx(a[name], abs=1e-4), name


def test_eight_processes_run_on_two_cores(tmp_path):
    command("train_crpo.py", "--out", tmp_path / "eight", "--steps", 1, "--group", 2, "--eval-questions", 8,
            "--max-new-tokens", 16, "--objective", "grpo", "--beta", 0, "--target-kl", 0, processes=8)
    [row] = metrics_of(tmp_path / "eight")
    assert row["kl"] is None and row["length"] <= 16
    load_model(tmp_path / "eight")


def test_a_step_that_teaches_nothing_does_not_count_as_warm_up(tmp_path):
    """One token earns nothing: no group has an advantage."""
    command("train_crpo.py", "--out", tmp_path / "ckpt", "--steps", 1, "--prompts", 2, "--group", 2, "--warmup", 9,
            "--max-new-tokens", 1, "--eval-questions", 0)
    [row] = metrics_of(tmp_path / "ckpt")
    assert row["skipped"] == 1 and row["loss"] is None and row["lr"] == pytest.approx(4e-4 / 9)


def unseconded(rows):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def stopped_run(out, *flags, steps=4, after=2):
    """Start a run, stop it with SIGTERM once it has logged `after` steps -> its output."""
    log = Path(f"{out}.log")
    [child] = begin(log, "train_crpo.py", "--out", out, "--steps", steps, *flags)
    while not ((out / "metrics.jsonl").exists() and len(metrics_of(out)) >= after):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), log.read_text()
        time.sleep(0.02)
    os.kill(child, signal.SIGTERM)
    status, printed = status_of(child), log.read_text()
    assert status != 0, printed
    return printed


RESUMED = ["--group", 3, "--eval-questions", 0, "--max-new-tokens", 32, "--warmup", 3]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "ckpt"
    command("train_crpo.py", "--out", out, "--steps", 8, *RESUMED)
    return out


def test_a_stopped_run_goes_on_to_the_bit(unbroken, tmp_path):
    out = tmp_path / "ckpt"
    assert "the same command goes on" in stopped_run(out, *RESUMED, steps=8)
    done = len(metrics_of(out))
    assert 2 <= done < 8 and not (out / "model.safetensors").exists()
    with open(out / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": done + 1, "reward": 99}) + "\n" + '{"step": 7, "rew')  # logged, never saved
    printed = command("train_crpo.py", "--out", out, "--steps", 8, *RESUMED, "--lr", "1e-5", ok=False)
    assert "lr: 0.0004 there, 1e-05 here" in printed and "Traceback" not in printed
    printed = command("train_crpo.py", "--out", out, "--steps", 8, *RESUMED, "--micro-tokens", 16384)
    assert f"continuing {out} after step {done}" in printed and not (out / "state").exists()
    assert "warning" not in printed
    assert unseconded(metrics_of(out)) == unseconded(metrics_of(unbroken))
    assert metrics_of(unbroken)[0]["lr"] == pytest.approx(4e-4 / 3)  # that of the step, not of the next
    assert rows_of(out / "samples.jsonl") == rows_of(unbroken / "samples.jsonl")
    assert (out / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()


def test_a_run_goes_on_with_another_number_of_processes_and_past_a_damaged_state(unbroken, tmp_path):
    out = tmp_path / "ckpt"
    stopped_run(out, *RESUMED, "--save-every", 1, steps=8, after=3)
    older, newest = sorted((out / "state").iterdir())
    shard = next(newest.glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    printed = command("train_crpo.py", "--out", out, "--steps", 8, "--save-every", 1, *RESUMED, processes=2)
    assert f"{newest} is damaged" in printed and f"after step {int(older.name[5:])}" in printed
    for a, b in zip(metrics_of(out), metrics_of(unbroken), strict=True):
        for name in ("loss", "reward", "kl", "length"):
            assert a[name] == pytest.approx(b[name], abs=1e-4), name


def test_an_unfinished_run_ends_early_or_is_moved_aside(tmp_path, monkeypatch):
    out, model = tmp_path / "ckpt", shutil.copytree(ROOT / "assets" / "tiny", tmp_path / "model")
    flags = [*RESUMED, "--model", model]
    stopped_run(out, *flags, steps=8)
    shutil.copytree(out, tmp_path / "ended")
    printed = command("train_crpo.py", "--out", out, "--steps", 1, *flags, "--fresh")
    assert f"is now {out}.1" in printed and len(metrics_of(out)) == 1
    printed = command("train_crpo.py", "--out", out, "--steps", 1, "--model", out, ok=False)
    assert f"{out} lies in --out {out}" in printed and len(metrics_of(out)) == 1

    out, weights = tmp_path / "ended", (model / "model.safetensors").read_bytes()
    assert "an unfinished run" in command("eval.py", out, ok=False)
    (model / "model.safetensors").write_bytes((tmp_path / "ckpt" / "model.safetensors").read_bytes())
    assert "began with other weights" in command("train_crpo.py", "--out", out, "--steps", 1, *flags, ok=False)
    (model / "model.safetensors").write_bytes(weights)
    with monkeypatch.context() as changed:  # as if rewards.py had been edited
        changed.setitem(rewards.WEIGHTS["grounded"], "accuracy", 1.5)
        printed = command("train_crpo.py", "--out", out, "--steps", 1, *flags, ok=False)
        assert "began with other rewards" in printed
    monkeypatch.setattr(rewards, "__file__", str(shutil.copy(ROOT / "judge.py", tmp_path)))
    printed = command("train_crpo.py", "--out", out, "--steps", 1, *flags)  # at its last state
    assert "warning: rewards.py is not what it was" in printed
    assert (out / "model.safetensors").stat().st_mode == (out / "config.json").stat().st_mode
    assert 2 <= len(metrics_of(out)) < 8 and not (out / "state").exists()


def test_beyond_the_kl_limit_rewards_are_refused_and_beta_rises(tmp_path):
    printed = command("train_crpo.py", "--out", tmp_path / "guard", "--steps", 3, "--group", 4, "--eval-questions", 0,
                      "--max-new-tokens", 32, "--target-kl", "1e-6", "--lr", "2e-3", processes=2)
    first, *later = metrics_of(tmp_path / "guard")
    assert not first["refused"] and all(r["refused"] for r in later) and "is over its limit" in printed
    assert first["beta"] == 0.001 and [r["beta"] for r in later] == [0.1, 0.1]
    assert [r["lr"] for r in later] == [1e-3, 1e-3] and first["lr"] == 2e-3
    assert all(s["advantage"] == 0 for s in rows_of(tmp_path / "guard" / "samples.jsonl") if s["step"] > 1)


def test_a_closed_output_fails_no_finished_run(tmp_path):
    words = ["train_crpo.py", "--out", tmp_path / "x", "--steps", 1, "--prompts", 2, "--group", 2, "--max-new-tokens", 4,
             "--eval-questions", 0]
    done = subprocess.run(f"exec {shlex.join([sys.executable, *map(str, words)])} >&-", shell=True, cwd=ROOT,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and (tmp_path / "x" / "model.safetensors").exists(), done.stderr


def test_epochs_are_passes_over_the_data_and_held_out_questions_are_new(tmp_path):
    command("clinic.py", "questions", 6, tmp_path / "q.jsonl")
    flags = ["--prompts", 2, "--group", 2, "--max-new-tokens", 4, "--data", tmp_path / "q.jsonl", "--eval-questions", 2]
    printed = command("train_crpo.py", "--out", tmp_path / "x", "--epochs", 1, *flags, "--eval-data", tmp_path / "q.jsonl")
    assert len(metrics_of(tmp_path / "x")) == 3 == json.loads((tmp_path / "x" / "run.json").read_text())["steps"]
    assert "warning: 2 of 2 held-out questions are trained on" in printed


def test_a_bug_in_a_verifier_shows_where_it_is(tmp_path, monkeypatch):
    def clinical(response, question):
        return json.loads(response)  # whose error a line `raise` makes, but none of this project

    monkeypatch.setattr(rewards, "VERIFIERS", {clinical if name.__name__ == "clinical" else name: most
                                               for name, most in rewards.VERIFIERS.items()})
    printed = command("train_crpo.py", "--out", tmp_path / "x", "--steps", 1, "--prompts", 2, "--group", 2,
                      "--max-new-tokens", 4, "--eval-questions", 0, ok=False)
    assert "Traceback" in printed and "in clinical" in printed and "JSONDecodeError" in printed


def test_an_error_is_one_line_and_a_non_zero_exit(tmp_path):
    printed = command("train_crpo.py", "--out", tmp_path / "x", "--model", "nowhere", ok=False)
    assert printed.strip().splitlines()[-1].startswith("error: nowhere: no such") and "Traceback" not in printed
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("options, words", [
    (dict(data=["nowhere.jsonl"]), "nowhere.jsonl"), (dict(prompts=5, minibatches=2), "multiple"),
    (dict(tokenizer="nowhere"), "tokenizer.json"),
    (dict(model="Qwen2.5-3B", tokenizer=""), "--tokenizer"), (dict(max_prompt_tokens=20), "--max-prompt-tokens"),
    (dict(max_new_tokens=2000), "into 0 tokens, .* --max-new-tokens leaves"),
    (dict(shard_within=2), "--shard-within 2 does not divide"),
])
def test_bad_options_are_named(options, words, tmp_path):
    try:
        with pytest.raises(ValueError, match=words):
            train_crpo.main(train_crpo.Config(out=str(tmp_path / "x"), **options))
    finally:
        if torch.distributed.is_initialized():
            run.stop()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("flags, words", [
    ("--group 1", "--group 1: must be at least 2"), ("--max-prompt-tokens 0", "--max-prompt-tokens 0: must be at least 1"),
    ("--micro-tokens 0", "at least 1"), ("--lr -1", "--lr -1.0: must be at least 0"), ("--seed -1", "--seed"),
    ("--target-kl nan", "--target-kl"), ("--steps -3", "--steps"), ("--eval-questions -1", "--eval-questions"),
    ("--top-p 1.5", "at least 1e-06 and at most 1"), ("--top-p 0", "--top-p 0.0: must be at least 1e-06"),
    ("--temperature 0", "--temperature 0.0: must be at least 1e-06"), ("--clip 0", "--clip 0.0: must be at least 1e-06"),
    ("--grad-clip 0", "--grad-clip 0.0: must be at least 1e-06"), ("--noise -1", "--noise"), ("--entropy-bonus inf", "must be a number"),
])
def test_numbers_out_of_range_are_named(flags, words):
    with pytest.raises(ValueError, match=words):
        run.parse_config(train_crpo.Config, "", train_crpo.PRESETS, flags.split())
    given = "--entropy-bonus -1 --weights accuracy=1 --weights coverage=2".split()
    config = run.parse_config(train_crpo.Config, "", train_crpo.PRESETS, given)
    assert config.entropy_bonus == -1 and config.weights == ["accuracy=1", "coverage=2"]


def test_a_verifier_with_a_columns_name_is_refused_at_the_start(monkeypatch):
    monkeypatch.setitem(rewards.OBJECTIVES, "length", 1.0)
    for main, config in ((train_crpo.main, train_crpo.Config()), (evaluation.main, evaluation.Config("ckpt"))):
        with pytest.raises(ValueError, match="other names than length"):
            main(config)


def test_help_shows_the_values_of_the_preset(capsys):
    for flags, prompts in (["--help"], 8), (["--preset", "paper", "--help"], 512):
        with pytest.raises(SystemExit, match="0"):
            run.parse_config(train_crpo.Config, "", train_crpo.PRESETS, flags)
        assert f"over all processes (default: {prompts})" in " ".join(capsys.readouterr().out.split())


def test_a_rank_without_its_world_is_one_line(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE expected, but not set; start several processes by torchrun"):
        run.start()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    processes = run.start()
    try:
        with pytest.raises(ValueError, match="is not an earlier run"):
            run.RunDirectory(tmp_path, train_crpo.Config(), processes, {}, [])
    finally:
        run.stop()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.fixture(scope="module")
def real(tmp_path_factory, shared):
    """A random two-layer Qwen2 with the real tokenizer."""
    directory = tmp_path_factory.mktemp("real") / "model"
    shape = replace(PRESETS["Qwen2.5-0.5B"], hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                    num_attention_heads=4, head_dim=8, torch_dtype="float32")
    model = init_model(shape)
    save_model(directory, shape, dict(model.named_parameters()), [151645, 151643], 151643)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((shared / "qwen2.5-tokenizer" / name).read_bytes())
    return directory


def test_real_rows_end_to_end(real, shared, tmp_path):
    files = [shared / "data" / name for name in BENCHMARKS]
    rows = []
    for question in load_questions(files[0])[:40]:
        text = f"<dx>System 1: a first guess here. System 2: it fits the case best.</dx><conclusion>\\boxed{{{question.answer}}}</conclusion>"
        rows.append({"id": question.id, "stem": question.stem, "options": question.options, "answer": question.answer,
                     "response": text})
    rows[0]["response"] = "I do not know"
    (tmp_path / "cold.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    printed = command("train_sft.py", "--model", real, "--data", tmp_path / "cold.jsonl", "--out", tmp_path / "cold",
                      "--steps", 4, "--batch", 4, "--holdout", "0.1", "--holdout-every", 2, "--require-right", processes=2)
    assert "39 responses kept; dropped: 1 wrong" in printed
    assert len(metrics_of(tmp_path / "cold")) == 4 and "holdout_loss" in metrics_of(tmp_path / "cold")[1]
    printed = command("train_crpo.py", "--model", tmp_path / "cold", "--data", *files, "--out", tmp_path / "ckpt",
                      "--steps", 2, "--prompts", 4, "--group", 3, "--max-new-tokens", 24, "--eval-data", files[2],
                      "--eval-questions", 6, "--max-prompt-tokens", 2048, processes=2)
    assert len(metrics_of(tmp_path / "ckpt")) == 2
    assert f"next: python eval.py {tmp_path / 'ckpt'} --data {files[2]}\n" in printed
    command("eval.py", tmp_path / "ckpt", "--data", *files, "--limit", 8, "--votes", 2, "--json", tmp_path / "all.json")
    tables = json.loads((tmp_path / "all.json").read_text())
    assert [t["questions"] for t in tables.values()] == [8, 8, 8]


def test_sft_learns_and_keeps_its_best_weights(tmp_path):
    clinic.write_corpus(tmp_path / "corpus.jsonl", 200, 3, "cold")
    command("train_sft.py", "--data", tmp_path / "corpus.jsonl", "--out", tmp_path / "sft", "--steps", 30, "--lr", "1e-3",
            "--holdout", "0.2", "--holdout-every", 5, "--patience", 2)
    rows = metrics_of(tmp_path / "sft")
    assert sum(r["loss"] for r in rows[-5:]) < sum(r["loss"] for r in rows[:5])
    load_model(tmp_path / "sft")
