"""eval.py and stream.py: rates by hand, and evaluations that are interrupted, repeated and shared among processes."""

import gzip
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest

import clinic
import compare
import eval as evaluation
import rewards
import run
from data import Question, Tokenizer
from forked import ROOT, begin, command, status_of
from sampler import Rollout, uniforms
from stream import fingerprint, require_own, streamed, table_of
from test_end_to_end import BENCHMARKS, real, rows_of  # noqa: F401 (real is a fixture)

TINY = ROOT / "assets" / "tiny"


@pytest.mark.parametrize("right, n, low, high", [  # the examples of Newcombe 1998, and no question at all
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718), (0, 0, 0, 1)])
def test_wilson(right, n, low, high):
    assert evaluation.wilson(right, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("answers, winner", [
    ("ABB", "B"), ("AB", "A"), ("BA", "B"), ([None, None, "C"], "C"), ([None], None), ([], None), ("CABBA", "A")])
def test_majority(answers, winner):
    assert evaluation.majority(list(answers)) == winner


@pytest.mark.parametrize("n, right, chances", [  # of k = 1 .. n
    (5, 2, (0.4, 0.7, 0.9, 1, 1)), (5, 0, (0,) * 5), (4, 4, (1,) * 4), (4, 1, (0.25, 0.5, 0.75, 1)), (1, 1, (1,))])
def test_pass_at_k(n, right, chances):
    """By hand, and the share of all subsets of k samples that hold a right one."""
    samples = [i < right for i in range(n)]
    for k, chance in enumerate(chances, 1):
        subsets = list(combinations(samples, k))
        assert evaluation.pass_at(k, n, right) == pytest.approx(chance) == sum(map(any, subsets)) / len(subsets)


@pytest.mark.parametrize("answers, share", [
    ("AAAA", 1), ("AABB", 2 / 6), ("ABCD", 0), ("AAAB", 3 / 6), (["A", "A", None, None], 1 / 6), ([None, None], 0)])
def test_agreement(answers, share):
    assert evaluation.agreement(list(answers)) == pytest.approx(share)


def answered(*letters, key="A", options=3, **meta):
    """A question and its row, each letter the answer of one sample; - is an answer that cannot be read."""
    texts = dict(zip("ABCDE", ("one", "two", "three", "four")[:options]))
    question = Question("q", "A man of 60 has fever.", texts, key, "medqa", meta)
    texts = [f"<dx> fever </dx><conclusion> \\boxed{{{a}}} </conclusion>" if a != "-" else "no idea" for a in letters]
    return question, evaluation.question_row(question, [{"text": t, "length": 10, "finished": True} for t in texts])


def test_the_table_by_hand():
    """Four questions of four samples; the last did not fit. Right: 2, 1, 0 of 4."""
    rows = [row for _, row in (answered(*"AABB"), answered(*"AB--"), answered(*"BBC-"), answered())]
    table = evaluation.aggregate(rows, rewards.WEIGHTS["crpo"])
    assert (table["questions"], table["too_long"], table["right"]) == (4, 1, 0.75)
    for row in rows:  # whatever a verifier of that name pays
        row["responses"] = [{**r, "accuracy": r["accuracy"] / 2} for r in row["responses"]]
    assert evaluation.aggregate(rows, rewards.WEIGHTS["crpo"])["accuracy"] == table["accuracy"]
    assert table["accuracy"] == 0.75 / 4 and table["majority"] == 2 / 4  # AABB and AB--: the first drawn of a draw
    assert table["pass@1"] == table["accuracy"] and table["pass@4"] == 2 / 4
    assert table["pass@2"] == pytest.approx((5 / 6 + 3 / 6) / 4)
    assert table["agreement"] == pytest.approx((2 / 6 + 0 + 1 / 6) / 4)
    assert table["answered"] == pytest.approx((4 + 2 + 3) / 16)
    assert table["length"] == 10 and table["faithfulness"] == 0
    assert table["accuracy_interval"] == evaluation.wilson(0.75, 4)  # four questions, not sixteen samples
    assert table["majority_interval"] == evaluation.wilson(2, 4)
    for row, cited, wrong in zip(rows, (4, 1, 0), (1, 1, 0)):
        row["responses"][0] |= {"citations": cited, "hallucination": wrong}
    assert evaluation.aggregate(rows, rewards.WEIGHTS["crpo"])["hallucination_share"] == 2 / 5
    assert [k for k in evaluation.aggregate([answered(*"ABCABC")[1]], rewards.WEIGHTS["crpo"]) if "pass" in k] == [
        "pass@1", "pass@2", "pass@4", "pass@6"]
    assert "pass@1" not in evaluation.aggregate([answered("A")[1]], rewards.WEIGHTS["crpo"])


def test_a_clinic_row_of_ones_own_has_no_audit():
    question = replace(answered()[0], source="clinic")
    assert not any("audit" in name for name in evaluation.scored({"text": "", "length": 1, "finished": True}, question))
    question = replace(question, source="medqa", meta={"findings": {}})
    assert not any("audit" in name for name in evaluation.scored({"text": "", "length": 1, "finished": True}, question))


def test_breakdowns_by_hand():
    questions, rows = zip(
        answered(*"AB", subject_name="Surgery", topic_name="x"), answered(*"BB", subject_name="Dental"),
        answered(*"AA", subject_name="Surgery"), answered(subject_name="Dental", kind="test"),
        answered("A", subject_name="Surgery"), answered("A", subject_name="Anatomy"),
        answered("B", subject_name="Skin"))
    found = compare.breakdown(rows, questions)
    assert found["kind"] == {"test": {"questions": 1, "accuracy": 0}} and len(found) == 2
    assert list(found["subject_name"].items()) == [
        ("Surgery", {"questions": 3, "accuracy": 2.5 / 3}), ("Dental", {"questions": 2, "accuracy": 0}),
        ("Anatomy", {"questions": 1, "accuracy": 1}), ("Skin", {"questions": 1, "accuracy": 0})]


@pytest.fixture
def processes():
    processes = run.start()
    yield processes
    run.stop()


def test_what_is_asked_and_scored(processes, monkeypatch):
    """Each sample has its own noise, which is none of training's; the end token is no part of what is scored."""
    tokenizer, asked = Tokenizer(TINY, 10**6), []

    def generate(model, prompts, seeds, *how):
        asked.append((seeds, how))
        ids = tokenizer.encode("\\boxed{A}")
        return [[Rollout([*ids, tokenizer.end_id], [0.0] * (len(ids) + 1), True), Rollout(ids, [0.0] * len(ids), False)]
                for _ in prompts]

    monkeypatch.setattr(evaluation, "generate", generate)
    config = evaluation.Config(objective="crpo", votes=2, temperature=0.7, top_p=0.9, top_k=5, max_new_tokens=9, seed=3)
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=1024))
    _, rows, _ = evaluation.evaluate(model, tokenizer, clinic.make_questions(3, 0, "test"), config, processes)
    assert {r["text"] for row in rows for r in row["responses"]} == {"\\boxed{A}"}
    [(seeds, how)] = asked
    assert how == (9, tokenizer.eos_ids, 0.7, 0.9, 5)
    drawn = {tuple(uniforms(seed, 4)) for group in seeds for seed in group}
    assert len(drawn) == 6
    assert not drawn & {tuple(uniforms((3, a, b, c), 4)) for a in range(4) for b in range(4) for c in range(4)}


IDS = list("abcdefgh")


def stream_letters(path, processes, settings=None, stop=99):
    """Rows of three; an exception in place of row `stop` and later. -> rows, the indices made"""
    made = []

    def make(batch):
        if batch[-1] >= stop:
            raise KeyboardInterrupt
        made.extend(batch)
        return [{"question": IDS[i], "raw": i, "square": i * i} for i in batch]

    def renew(i, row):
        return {"question": row["question"], "raw": row["raw"], "square": row["raw"] ** 2}

    return streamed(IDS, 3, make, processes, path, settings or {"seed": 1}, renew), made


@pytest.mark.parametrize("kept, half, made", [
    (0, b"", 8), (3, b"", 5), (4, b"", 5), (5, b'{"question": "f", "ra', 5), (6, b'{"ques', 2), (8, b"", 0),
    (8, b"{", 0)])
def test_a_file_is_continued_at_its_last_whole_batch(kept, half, made, processes, tmp_path, capsys):
    path = tmp_path / "x.responses.jsonl"
    whole, _ = stream_letters(path, processes)
    content = path.read_bytes()
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:kept]) + half)
    capsys.readouterr()
    rows, indices = stream_letters(path, processes)
    assert rows == whole and len(indices) == made and path.read_bytes() == content
    printed = capsys.readouterr().out
    assert ("half written and dropped" in printed) == bool(half)
    assert ("continued after" if kept < 8 else "holds all 8") in printed


def test_what_is_derived_is_derived_anew(processes, tmp_path):
    path = tmp_path / "x.responses.jsonl"
    stream_letters(path, processes)
    path.write_text(path.read_text().replace('"square": 9', '"square": 10'))
    rows, made = stream_letters(path, processes)
    assert rows[3]["square"] == 9 == rows_of(path)[3]["square"] and not made


def test_other_settings_start_anew_and_keep_the_old(processes, tmp_path, capsys):
    path = tmp_path / "x.responses.jsonl"
    with pytest.raises(KeyboardInterrupt):
        stream_letters(path, processes, stop=4)
    table_of(path).write_text("1")
    for number in (1, 2):
        _, made = stream_letters(path, processes, {"seed": 1 + number})
        assert len(made) == 8 and f"x.responses.jsonl.{number}" in capsys.readouterr().out
        table_of(path).write_text(str(1 + number))
    assert [len(rows_of(f"{path}{end}")) for end in (".1", ".2", "")] == [3, 8, 8]
    assert [(tmp_path / f"x.json{end}").read_text() for end in (".1", ".2", "")] == ["1", "2", "3"]
    assert table_of(path) == tmp_path / "x.json" and table_of(tmp_path / "x.judged.jsonl") == tmp_path / "x.judged.json"


@pytest.mark.parametrize("at", [0, 3, 6])
def test_two_evaluations_at_once_do_not_mix(at, processes, tmp_path):
    """The second starts and ends while the first makes a batch."""
    path, second = tmp_path / "x.responses.jsonl", []

    def make(batch):
        if batch[0] == at:
            second.extend(streamed(IDS, 2, lambda b: [{"question": IDS[i], "by": 2} for i in b], processes, path,
                                   {"seed": 2}, None))
        return [{"question": IDS[i], "by": 1} for i in batch]

    first = streamed(IDS, 3, make, processes, path, {"seed": 1}, None)
    assert [row["by"] for row in first] == [1] * 8 and [row["by"] for row in second] == [2] * 8
    files = [path, Path(f"{path}.1")]
    assert sorted(str(rows_of(file)) for file in files) == sorted(map(str, (first, second)))
    own, other = (first, second)[::1 if at == 0 else -1]  # who came last moved the other's aside
    require_own(path, own[0]["settings"])
    with pytest.raises(ValueError, match="another evaluation has moved this one's rows aside"):
        require_own(path, other[0]["settings"])


@pytest.mark.parametrize("damage", [lambda lines: [lines[1], lines[0], *lines[2:]], lambda lines: [*lines, lines[-1]],
                                    lambda lines: [b"{}\n", *lines[1:]], lambda lines: [b"not JSON\n", *lines[1:]]])
def test_a_damaged_file_is_refused_and_left(damage, processes, tmp_path):
    path = tmp_path / "x.responses.jsonl"
    stream_letters(path, processes)
    broken = b"".join(damage(path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(broken)
    with pytest.raises(ValueError, match="x.responses.jsonl: damaged"):
        stream_letters(path, processes)
    assert path.read_bytes() == broken


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("eval"))


def test_a_fingerprint_is_of_configuration_and_weights(model):
    found = {fingerprint(model)}
    for name in ("model.safetensors", "config.json"):
        with open(model / name, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        found.add(fingerprint(model))
    assert len(found) == 3
    (model / "tokenizer.json").unlink()
    assert fingerprint(model) in found


def test_eval_of_the_clinic(model, tmp_path, monkeypatch):
    flags = [model, "--limit", 6, "--votes", 3, "--max-rows", 6, "--max-new-tokens", 48]
    printed = command("eval.py", *flags, "--json", tmp_path / "all.json")
    table = json.loads((tmp_path / "all.json").read_text())["clinic"]
    assert table == json.loads((model / "eval" / "clinic.json").read_text())
    assert table["questions"] == 6 and table["votes"] == 3 and "audit_citations" in table and "majority" in printed
    assert sum(g["questions"] for g in table["breakdown"]["system"].values()) == 6 and "clinic kind: " in printed
    assert table["weights"] == fingerprint(model) and {"objective", "temperature", "votes", "top_p", "top_k",
                                                       "max_new_tokens", "seed", "dtype", "prompts"} <= table.keys()
    rows = rows_of(model / "eval" / "clinic.responses.jsonl")
    assert [r["question"] for r in rows] == [q.id for q in clinic.make_questions(6, 0, "test")]
    assert len(rows) == 6 and all(len(r["responses"]) == 3 for r in rows)
    right = sum(x["answer"] == r["key"] for r in rows for x in r["responses"])
    assert table["accuracy"] == pytest.approx(right / 18)
    (model / "eval").rename(tmp_path / "one")
    command("eval.py", *flags, processes=2)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (model / "eval" / file.name).read_bytes(), file.name
    monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, flags), "--temperature", "0"])
    evaluation.main(run.parse_config(evaluation.Config, ""))
    assert json.loads((model / "eval" / "clinic.json").read_text())["temperature"] == 0
    for name in ("clinic.json", "clinic.responses.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (model / "eval" / f"{name}.1").read_bytes()
    (model / "run.json").write_text(json.dumps({"objective": "crpo", "weights": ["accuracy=0", "consistency=3"]}))
    evaluation.main(run.parse_config(evaluation.Config, ""))  # the reward is by the run's weights
    own = json.loads((model / "eval" / "clinic.json").read_text())
    run_json = {"objective": "crpo", "began_with": {"rewards": {"consistency": 2.0}}}  # whatever WEIGHTS says by now
    (model / "run.json").write_text(json.dumps(run_json))
    evaluation.main(run.parse_config(evaluation.Config, ""))
    newer = json.loads((model / "eval" / "clinic.json").read_text())
    assert newer["reward"] == pytest.approx(2 * own["consistency"]) and newer["reward_weights"] == {"consistency": 2.0}
    for run_json in ({"objective": "crpo", "began_with": {"rewards": {"zeal": 1.0}}}, {"objective": "zeal"}):
        (model / "run.json").write_text(json.dumps(run_json))
        with pytest.raises(ValueError, match="zeal"):
            evaluation.main(run.parse_config(evaluation.Config, ""))
        run.stop()
    (model / "run.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="run.json: not valid JSON"):
        evaluation.main(run.parse_config(evaluation.Config, ""))
    run.stop()
    (model / "run.json").write_text(json.dumps({"objective": "crpo", "weights": ["accuracy=0", "consistency=3"]}))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 17]}))
    evaluation.main(run.parse_config(evaluation.Config, ""))  # what ends an answer has changed: all is asked again
    assert json.loads((model / "eval" / "clinic.json").read_text())["eos_ids"] == [2, 17] != own["eos_ids"]
    assert own["reward"] == pytest.approx(own["clinical"] + 3 * own["consistency"])


def test_a_file_of_mixed_questions_has_the_audit_of_the_clinics(model, tmp_path, monkeypatch):
    rows = [{"id": "own", "stem": "Fever?", "options": {"A": "yes", "B": "no"}, "answer": "A"},
            *(vars(q) for q in clinic.make_questions(2, 0, "test"))]
    results = []
    for name, order in (("a.b.jsonl", rows), ("a.c.jsonl.gz", rows[::-1])):
        opener = gzip.open if name.endswith("gz") else open
        with opener(tmp_path / name, "wt") as file:
            file.write("".join(json.dumps(row) + "\n" for row in order))
        monkeypatch.setattr(sys, "argv", ["eval.py", str(model), "--data", str(tmp_path / name), "--temperature", "0",
                                          "--max-new-tokens", "48"])
        evaluation.main(run.parse_config(evaluation.Config, ""))
        results.append(json.loads((model / "eval" / f"{name[:3]}.json").read_text()))
    [row] = [r for r in rows_of(model / "eval" / "a.b.responses.jsonl") if r["question"] == "own"]
    assert "audit_citations" not in row["responses"][0] and results[0]["audit_citations"] > 0
    for name in ("audit_citations", "accuracy", "reward", "length"):
        assert results[0][name] == pytest.approx(results[1][name])
    assert results[0]["asked"] != results[1]["asked"] and results[0]["rules"] == results[1]["rules"]
    assert results[0]["reward_weights"] == rewards.WEIGHTS["crpo"]


def test_a_killed_evaluation_of_three_sets_continues_to_the_bit(real, shared, tmp_path):  # noqa: F811
    flags = ["--data", *(shared / "data" / name for name in BENCHMARKS), "--limit", 9, "--votes", 2,
             "--max-new-tokens", 24, "--max-rows", 4]
    whole, killed = (shutil.copytree(real, tmp_path / name) for name in ("whole", "killed"))
    printed = command("eval.py", whole, *flags, "--json", tmp_path / "all.json")
    tables = json.loads((tmp_path / "all.json").read_text())
    assert [t["questions"] for t in tables.values()] == [9, 9, 9]
    assert [list(t["breakdown"]) for t in tables.values()] == [
        ["meta_info"], ["subject_name"], ["body_system", "question_type", "medical_task"]]
    assert "medmcqa_dev_300 subject_name: " in printed
    second = killed / "eval" / "medmcqa_dev_300.responses.jsonl"
    [child] = begin(os.devnull, "eval.py", killed, *flags)
    while not (second.exists() and second.read_bytes().count(b"\n") >= 3):
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert status_of(child) == -signal.SIGKILL and not (killed / "eval" / "medxpertqa_text_150.json").exists()
    second.write_bytes(second.read_bytes() + b'{"question": "ha')
    printed = command("eval.py", killed, *flags)
    assert "holds all 9" in printed and "half written and dropped" in printed and "continued after" in printed
    files = sorted(path.name for path in (whole / "eval").iterdir())
    assert files == sorted(path.name for path in (killed / "eval").iterdir()) and len(files) == 6
    assert all((whole / "eval" / name).read_bytes() == (killed / "eval" / name).read_bytes() for name in files)


def refused(flags, words):
    """eval.py ends with a ValueError that has the words."""
    try:
        with pytest.raises(ValueError, match=words):
            evaluation.main(run.parse_config(evaluation.Config, "", argv=[*map(str, flags)]))
    finally:
        if evaluation.run.dist.is_initialized():
            run.stop()


def test_what_cannot_be_asked_is_one_line(model, tmp_path):
    same = [tmp_path / folder / "x.jsonl" for folder in ("a", "b")]
    for path in same:
        path.parent.mkdir()
        path.write_text(json.dumps({"stem": "Who?", "options": {"A": "a", "B": "b"}, "answer": "A"}))
    refused([model, "--data", *same], "two data files are named x")
    refused([model, "--max-new-tokens", 1024, "--limit", 2], "none of the 2 prompts fits into 0 tokens")


@pytest.mark.parametrize("flags, words", [
    ([], "give a model directory"), ([TINY, "--compare", "a", "b"], "give a model directory"),
    (["--compare", "a"], "2 to 26"), ([TINY, "--judge", "nowhere"], "nowhere/config.json"), ([TINY, "--votes", 0], "--votes"),
    (["--compare", "a", "b", "--limit", 3], "of the other flags it takes --json only"),
    ([TINY, "--json", "nowhere/x.json"], "--json nowhere/x.json: no such directory")])
def test_bad_command_lines_are_one_line(flags, words):
    before = set(Path(TINY).iterdir())
    refused(flags, words)
    assert set(Path(TINY).iterdir()) == before
