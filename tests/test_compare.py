"""compare.py: its statistics against tables worked out by hand or otherwise, its means against the evaluations'."""

import json
import shutil
import sys

import numpy as np
import pytest

import compare
import eval as evaluation
import run
from test_end_to_end import ROOT


@pytest.mark.parametrize("first, second, p", [
    (10, 2, 0.0385742), (2, 10, 0.0385742),  # 2 (1 + 12 + 66) / 4096
    (0, 5, 0.0625), (0, 6, 0.03125), (1, 0, 1), (5, 5, 1), (0, 0, 1),
    (1, 9, 22 / 1024), (9, 1, 22 / 1024),
    (1900, 2100, 0.00165),  # normal approximation: z = (200 - 1) / sqrt(4000) = 3.146
])
def test_mcnemar_exact(first, second, p):
    assert compare.mcnemar(first, second) == pytest.approx(p, rel=2e-3)


def test_bootstrap_of_three_questions_is_the_exact_one():
    """Differences 0, 0, 1: the mean of three draws is k / 3 with binomial chances 8, 12, 6, 1 of 27, so the 2.5% point
    is 0 and the 97.5% point (1 has 3.7%) is 1; -1, -1, -1 is always -1."""
    found = compare.bootstrap(np.array([[0, -1], [0, -1], [1, -1.0]]))
    assert found.T.tolist() == [[0, 1], [-1, -1]]


def test_bootstrap_of_a_hundred_coins():
    """50 heads of 100: binomial, P(X <= 39) = 0.018, P(X <= 40) = 0.028, so the 2.5% point is 40, the 97.5% point 60."""
    assert compare.bootstrap(np.repeat([[0.0], [1.0]], 50, axis=0)).T.tolist() == [[0.4, 0.6]]


def test_bootstrap_against_the_normal_interval():
    """400 differences: 1.96 standard errors to either side, within the resampling's own error."""
    values = np.random.default_rng(3).normal(0.2, 1, 400)
    low, high = compare.bootstrap(values[:, None])[:, 0]
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_bootstrap_repeats_itself_and_passes_over_missing_values():
    values = np.random.default_rng(4).normal(0, 1, (50, 1))
    gaps = np.concatenate([values, np.full((50, 1), np.nan)])
    assert compare.bootstrap(values).tolist() == compare.bootstrap(values).tolist()
    assert compare.bootstrap(gaps)[:, 0] == pytest.approx(compare.bootstrap(values)[:, 0], abs=0.04)


def write(directory, name, answers, lengths, **settings):
    """An evaluation as eval.py leaves it: one sample a question, all keys A; the prompt of an answer "" did not fit."""
    folder = directory / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"question": f"q{i}", "key": "A", "answer": answer or None,
             "responses": [{"text": "", "answer": answer, "accuracy": float(answer == "A"), "length": length,
                            "judge_cecd": length if length < 100 else None,
                            "judge_drc": length if length in (10, 24) else None}] if answer else []}
            for i, (answer, length) in enumerate(zip(answers, lengths))]
    (folder / f"{name}.responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.json").write_text(json.dumps({"questions": len(rows), **settings}))
    return directory


def test_two_checkpoints_by_hand(tmp_path):
    a = write(tmp_path / "a", "exam", ["A", "B", "B", "A", ""], [10, 20, 30, 40, 0], temperature=1, votes=1,
              judge={"directory": "one"})
    b = write(tmp_path / "b", "exam", ["A", "A", "A", "B", "A"], [12, 24, 300, 40, 50], temperature=0, votes=1,
              judge={"directory": "other"})
    result = compare.compare([a, b])["exam"]
    assert result["means"]["accuracy"] == [2 / 5, 4 / 5] == result["means"]["majority"]
    assert result["means"]["length"] == [25, pytest.approx(426 / 5)]
    assert result["means"]["judge_cecd"] == [25, pytest.approx(126 / 4)]
    [difference] = result["differences"]
    assert difference["accuracy"] == pytest.approx(2 / 5)
    assert difference["length"] == pytest.approx((2 + 4 + 270 + 0) / 4)  # the fifth has no pair
    assert difference["judge_cecd"] == pytest.approx((2 + 4 + 0) / 3)  # the third could not be read
    assert list(result["means"]) == ["accuracy", "majority", "length", "judge_cecd"]  # judge_drc has no pair at all
    assert result["mcnemar"] == [{"only_first": 1, "only_this": 3, "p": 0.625}]
    assert set(result["differ"]) == {"temperature", "judge"} and result["differ"]["temperature"] == [1, 0]
    assert [judge.split()[0] for judge in result["differ"]["judge"]] == ["one", "other"]
    text = compare.report({"exam": result})
    assert "they differ in temperature: 1, 0" in text and "only A right 1, only B right 3, p = 0.625" in text
    lines = [line.split("  on ") for line in text.splitlines() if line[:6] in ("length", "judge_", "accura")]
    assert len({len(line[0].rstrip(" *")) for line in lines}) == 1
    assert [line[1:] for line in lines] == [[], ["4 questions"], ["3 questions"]]


def test_a_question_counts_by_the_mean_of_its_samples():
    samples = [{"answer": "A", "length": 10}, {"answer": "B", "length": 30}, {"answer": "A", "length": None}]
    found = compare.means_of([("q0", "A", "A", samples), ("q1", "A", "B", [{"answer": "B", "length": 2}])])
    assert found == {"accuracy": (pytest.approx(1 / 3), [pytest.approx(2 / 3), 0]), "majority": (0.5, [1, 0]),
                     "length": (14, [20, 2])}


def test_the_printed_comparison(tmp_path):
    a = write(tmp_path / "a", "exam", "AABABA", [1, 2, 3, 4, 5, 6], temperature=1)
    b = write(tmp_path / "b", "exam", "AABABA", [3, 4, 5, 6, 7, 8], temperature=0)
    c = write(tmp_path / "c", "exam", "ABBABA", [101, 102, 103, 104, 105, 106], temperature=1)  # nothing by the judge
    assert compare.report(compare.compare([a, b, c])).splitlines() == [
        "exam: 6 questions",
        f"  A  {a}",
        f"  B  {b}",
        f"  C  {c}",
        "  they differ in temperature: 1, 0, 1",
        "",
        "                            A        B        C                          B - A                          C - A",
        "accuracy                0.667    0.667    0.500      +0.000 [+0.000, +0.000]        -0.167 [-0.500, +0.000]",
        "majority                0.667    0.667    0.500      +0.000 [+0.000, +0.000]        -0.167 [-0.500, +0.000]",
        "length                  3.500    5.500  103.500      +2.000 [+2.000, +2.000] * "
        "+100.000 [+100.000, +100.000] *",
        "",
        "* the 95% interval of the difference (paired bootstrap over the questions) leaves out 0, and 6 questions or "
        "more differ",
        "majority, McNemar's exact test: only A right 0, only B right 0, p = 1",
        "majority, McNemar's exact test: only A right 1, only C right 0, p = 1"]


def test_the_printed_table(capsys):
    settings = {"objective": "crpo", "temperature": 0.5, "votes": 2, "max_new_tokens": 64, "seed": 3}
    groups = {name: {"questions": 9 - i, "accuracy": i / 8} for i, name in enumerate("abcde")}
    compare.print_tables("ckpt", {
        "exam": {**settings, "questions": 5, "accuracy": 0.4, "accuracy_interval": (0.118, 0.769),
                 "breakdown": {"kind": groups, "system": {"heart": {"questions": 5, "accuracy": 0.4}}}},
        "a-name-of-twenty-four-and": {**settings, "questions": 7, "accuracy": None, "length": 2.25, "breakdown": {}},
    }, set(settings))
    assert capsys.readouterr().out.splitlines() == [
        "ckpt: crpo prompt, temperature 0.5, samples 2, at most 64 tokens, seed 3",
        "",
        "                                               exam  a-name-of-twenty-four-and",
        "questions                                         5                          7",
        "accuracy                       0.400 [0.118, 0.769]                          -",
        "",
        "responses and their objectives",
        "length                                            -                      2.250",
        "",
        "accuracy by group (questions)",
        "exam kind: a 0.000 (9), b 0.125 (8), c 0.250 (7), d 0.375 (6), and 1 more",
        "exam system: heart 0.400 (5)"]
    compare.print_tables("ckpt", {"exam": {**settings, "breakdown": {}}}, {*settings})
    assert capsys.readouterr().out.splitlines()[2:] == [" " * 44 + "exam", ""]


@pytest.mark.parametrize("lengths, starred", [
    ([2, 3, 4, 5, 6, 7], ["length", "judge_cecd"]), ([2, 3, 4, 5, 6, 6], []),  # five coins fall alike once in 16
    ([2, 3, 4, 5, 6, 2], [])])
def test_a_star_marks_an_interval_without_0(lengths, starred, tmp_path):
    a = write(tmp_path / "a", "exam", "AABABA", lengths)
    b = write(tmp_path / "b", "exam", "ABABAA", [1, 2, 3, 4, 5, 6])
    for pair in ([a, b], [b, a]):
        lines = compare.report(compare.compare(pair)).splitlines()
        assert [line.split()[0] for line in lines if line.endswith("*")] == starred


def test_what_else_differs_is_said(tmp_path):
    """The rules that scored, the weights of the reward, the prompts, the judge's own settings; other texts under the
    same names are refused."""
    alike = {"rules": "1", "reward_weights": {"accuracy": 10.0}, "prompts": "p", "asked": "texts"}
    a = write(tmp_path / "a", "exam", "AA", [1, 2], **alike,
              judge={"directory": "j", "version": 1, "unparsable": {"cecd": 1}})
    b = write(tmp_path / "b", "exam", "AA", [1, 2], **alike, judge={"directory": "j", "version": 1, "unparsable": {}})
    assert compare.compare([a, b])["exam"]["differ"] == {}
    other = {**alike, "rules": "2", "reward_weights": {"accuracy": 1.0}, "prompts": "q"}
    c = write(tmp_path / "c", "exam", "AA", [1, 2], **other, judge={"directory": "j", "version": 2, "unparsable": {}})
    assert set(compare.compare([a, c])["exam"]["differ"]) == {"rules", "reward_weights", "prompts", "judge"}
    d = write(tmp_path / "d", "exam", "AA", [1, 2], **{**alike, "asked": "other texts"})
    with pytest.raises(ValueError, match="exam: the texts of the questions differ under the same names"):
        compare.compare([a, d])


def test_other_questions_or_none_are_an_error(tmp_path, capsys):
    a = write(tmp_path / "a", "exam", "AAA", [1, 2, 3])
    write(a, "other", "A", [1])
    shorter = write(tmp_path / "b", "exam", "AA", [1, 2])
    with pytest.raises(ValueError, match=r"exam: the questions of .*b \(2\) are not those of .*a \(3\), from line 3"):
        compare.compare([a, shorter])
    renamed = write(tmp_path / "f", "exam", "BBB", [1, 2, 3])
    lines = (renamed / "eval" / "exam.responses.jsonl").read_text()
    (renamed / "eval" / "exam.responses.jsonl").write_text(lines.replace("q1", "Q1"))
    with pytest.raises(ValueError, match=r"are not those of .*a \(3\), from line 2 on"):
        compare.compare([a, renamed])
    compare.compare([a] * 26)
    for few in ([a], [a] * 27):
        with pytest.raises(ValueError, match="--compare takes 2 to 26 directories"):
            compare.compare(few)
    with pytest.raises(ValueError, match="a: exam, other; .*nothing: none, run eval.py on it first"):
        (tmp_path / "nothing").mkdir()
        compare.compare([a, tmp_path / "nothing"])
    elsewhere = write(tmp_path / "c", "else", "AAA", [1, 2, 3])
    with pytest.raises(ValueError, match="no data set was evaluated in all of them: .*a: exam, other; .*c: else"):
        compare.compare([a, elsewhere])
    with pytest.raises(ValueError, match="nowhere: no such directory"):
        compare.compare([a, tmp_path / "nowhere"])
    unfinished = shutil.copytree(a, tmp_path / "d")
    (unfinished / "eval" / "exam.json").write_text('{"questions": 4}')
    with pytest.raises(ValueError, match="exam.responses.jsonl: unfinished"):
        compare.compare([a, unfinished])
    (unfinished / "eval" / "exam.json").write_text('{"questions": 3, "settings": "another"}')
    with pytest.raises(ValueError, match="or not of the same evaluation as exam.json"):
        compare.compare([a, unfinished])
    (unfinished / "eval" / "exam.responses.jsonl").write_text('{"quest')
    with pytest.raises(ValueError, match="exam.responses.jsonl: cannot be read"):
        compare.compare([a, unfinished])
    compare.compare([a, write(tmp_path / "e", "exam", "ABA", [1, 2, 3])])
    assert capsys.readouterr().out == "not in all of them and left out: other\n"
    compare.compare([a, a])
    assert capsys.readouterr().out == ""


def test_means_are_those_of_the_evaluations(tmp_path, monkeypatch, capsys):
    def evaluate(*words):
        monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, words)])
        evaluation.main(run.parse_config(evaluation.Config, ""))

    directories = [shutil.copytree(ROOT / "assets" / "tiny", tmp_path / str(seed), ignore=shutil.ignore_patterns("eval"))
                   for seed in range(3)]
    for seed, directory in enumerate(directories):
        evaluate(directory, "--limit", 8, "--votes", 2, "--seed", seed, "--max-new-tokens", 48)
    capsys.readouterr()
    evaluate("--compare", *directories, "--json", tmp_path / "all.json")
    printed = capsys.readouterr().out
    means = json.loads((tmp_path / "all.json").read_text())["clinic"]["means"]
    for seed, directory in enumerate(directories):
        table = json.loads((directory / "eval" / "clinic.json").read_text())
        assert len(means) > 20 and {name: values[seed] for name, values in means.items()} == pytest.approx(
            {name: table[name] for name in means}, abs=1e-12)
    assert printed.count("McNemar's exact test") == 2 and "C - A" in printed
    evaluate("--compare", *directories)
    assert capsys.readouterr().out == printed
