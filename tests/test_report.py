"""report.py: what it reads, what it leaves out and says so, and, where Chromium is installed, what the page does."""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import metrics
import report
import rewards
from data import Question
from sampler import Rollout

ROOT = Path(__file__).parents[1]
EVIL = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


ANSWER = "<dx> System 1: fever. System 2: cough. </dx><conclusion> \\boxed{B} </conclusion>"


def rollout(step, g, response=ANSWER, **more):
    return {"step": step, "question": f"q{step}", "stem": "A man has fevers and a sore throat.",
            "options": {"A": "measles", "B": "scurvy"}, "answer": "B", "rollout": g, "response": response,
            "finished": True, "tokens": 9, "accuracy": 1.0, "clinical": 0.5, "reward": 10.5 + g, "advantage": g - 0.5,
            "weights": {"accuracy": 10.0, "clinical": 1.0}, "parts": {"accuracy": 0.0, "clinical": g - 0.5},
            "chosen": "B", "cited": [], "rejected": {}, "unsupported": [], **more}


def metric(step, **more):
    return {"step": step, "reward": 1.0 + step, "accuracy": 0.5, "accuracy_steers": 1.0, "accuracy_tie": 0.0, "kl": 0.1,
            "accuracy_spread": 0.2, "entropy": 1.0, "length": 9.0, "cut": 0.0, "seconds": 2.0, "seconds_sample": 1.0,
            **more}


def write_run(path, metrics=(), samples=(), config=None, evals=None, tail=""):
    path.mkdir(parents=True, exist_ok=True)
    for name, rows in (("metrics", metrics), ("samples", samples)):
        if rows:
            (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    if config:
        (path / "run.json").write_text(json.dumps(config))
    for name, result in (evals or {}).items():
        (path / "eval").mkdir(exist_ok=True)
        (path / "eval" / f"{name}.json").write_text(json.dumps(result))
    return path


def make(*paths, ok=True):
    """report.py from the command line -> its output."""
    done = subprocess.run([sys.executable, "report.py", *map(str, paths)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def data_of(path):
    text = (path / "report.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def hostile_run(path):
    samples = [rollout(1, 0, EVIL), rollout(1, 1, "x" * 100_000 + " \\boxed{" * 2000),
               rollout(1, 2, "\ud800 \u2028 \0"), rollout(1, 3, "", reward=float("nan"), advantage=None),
               rollout(1, 4, 7, options=[EVIL], weights=3, parts="x"),
               rollout(2, 0, cited=[EVIL, ""], rejected={"(": "B", EVIL: [EVIL], "B": []}, unsupported=[EVIL],
                       chosen=EVIL, stem=EVIL, options={EVIL: EVIL}, question=EVIL, tokens=EVIL)]
    metrics = [metric(1, loss=float("nan"), **{EVIL: 1.0, EVIL + "_steers": float("inf")}),
               metric(2, reward="high", kl=None)]
    evals = {EVIL.replace("/", "_"): {EVIL: EVIL, "accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "majority": 1,
                                      "majority_interval": [EVIL]}, "b": [1]}
    write_run(path, metrics, samples, {"objective": EVIL, "target_kl": EVIL, "steps": EVIL}, evals)
    (path / "held_out_before.json").write_text(json.dumps({"accuracy": EVIL}))
    (path / "held_out_after.json").write_text('{"accuracy": NaN')
    return path


def test_no_text_of_a_run_becomes_markup(tmp_path):
    make(hostile_run(tmp_path / EVIL.replace("/", "_")))
    text = next(tmp_path.glob("*/report.html")).read_text(encoding="utf-8")
    assert len(re.findall("<script", text)) == 2 and len(re.findall("</script", text)) == 2
    assert "<img" not in text and "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    responses = [r["response"] for r in data_of(next(tmp_path.iterdir()))["runs"][0]["groups"][0]["rollouts"]]
    assert responses[0] == EVIL and responses[2] == "\ud800 \u2028 \0"


def test_numbers_that_are_none_are_gaps_and_said(tmp_path):
    run = write_run(tmp_path, [metric(1, loss=float("nan")), metric(2, loss=0.5), metric(3, loss=float("-inf"))])
    printed = make(run)
    assert data_of(run)["runs"][0]["metrics"]["loss"] == ["NaN", 0.5, "-Infinity"]  # the page draws numbers only
    assert "loss is no finite number at 2 of 3 steps, first at 1" in printed


def test_a_column_without_any_value_is_no_fault(tmp_path):
    """The KL of a run that has none; and a seed is shown to its last digit."""
    run = write_run(tmp_path, [metric(step, kl=None) for step in (1, 2)], evals={"exam": {"seed": 20251231, "x": 0.12345678}})
    assert "finite" not in make(run)
    assert data_of(run)["runs"][0]["evals"]["exam"] == {"seed": 20251231, "x": 0.123457}


def test_refused_steps_are_counted_before_the_curve_is_thinned(tmp_path):
    make(write_run(tmp_path, [metric(step, refused=step % 2 == 0) for step in range(1, 3001)]))
    [shown] = data_of(tmp_path)["runs"]
    assert shown["refused"] == 1500 and len(shown["metrics"]["step"]) == 2000


def test_a_run_that_is_still_going(tmp_path):
    run = write_run(tmp_path, [metric(1), metric(2)], [rollout(1, 0)], {"steps": 9}, tail='{"step": 3, "rew')
    printed = make(run)
    [shown] = data_of(run)["runs"]
    assert shown["metrics"]["step"] == [1, 2] and not shown["finished"]
    assert printed.count("the last line is half written") == 2 and "no evaluation yet" in printed
    (run / "metrics.jsonl").write_text(json.dumps(metric(1)) + "\nbroken\n[1]\n" + json.dumps(metric(2)) + "\n")
    (run / "samples.jsonl").unlink()
    printed = make(run)
    assert "metrics.jsonl: 2 unreadable lines are left out, the first is line 2" in printed
    assert "no samples.jsonl" in printed
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (
        rollout(1, 0, options=["measles"]), rollout(1, 1, response=7), rollout(1, 2))))
    printed = make(run)
    assert "samples.jsonl: 2 unreadable lines are left out, the first is line 1" in printed
    assert set(data_of(run)["runs"][0]["notes"]) <= set(re.findall(r": (.*)", printed))


@pytest.mark.parametrize("name, said", [("nowhere", "no such directory"), ("empty", "holds no run")])
def test_a_directory_without_a_run_is_one_clear_line(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    printed = make(tmp_path / name, ok=False)
    assert printed.startswith(f"error: {tmp_path / name}: ") and said in printed and printed.count("\n") == 1
    assert not list(tmp_path.rglob("report.*"))


def test_a_page_over_the_limit_keeps_an_even_spread_and_says_so(tmp_path):
    rows = [rollout(step, g, f"{step} " + "<a " * 8000) for step in range(1, 101) for g in range(4)]
    run = write_run(tmp_path, [metric(step) for step in range(1, 3001)], rows)
    printed = make(run)
    assert (run / "report.html").stat().st_size < 5_000_000
    [shown] = data_of(run)["runs"]
    steps = [group["step"] for group in shown["groups"]]
    gaps = [b - a for a, b in zip(steps, steps[1:])]
    assert steps[0] == 1 and steps[-1] == 100 and len(steps) >= 24 and max(gaps) - min(gaps) <= 1
    assert f"rollouts of {100 - len(steps)} of 100 groups are left out" in printed
    response = shown["groups"][0]["rollouts"][0]["response"]
    assert "400 responses are over 10,000 characters" in printed and "14,002 characters are not shown" in response
    assert len(response) - len("\n[... 14,002 characters are not shown ...]\n") == 10_000
    assert len(shown["metrics"]["reward"]) == 2000 and "2,000 of 3,000 steps" in printed


def test_the_rows_of_training_hold_what_the_page_reads():
    question = Question("q", "A man has a fever, a sore throat and a stiff neck. What is the diagnosis?",
                        {"A": "measles", "B": "scurvy", "C": "meningitis"}, "C", "own")
    texts = ["A stiff neck supports meningitis. Low mood supports meningitis. Measles is unlikely because a rash is "
             "absent. <conclusion> \\boxed{C} </conclusion>", ""]
    scores = [rewards.score(text, question) for text in texts]
    parts = torch.zeros(1, 2, len(scores[0]), dtype=torch.float64)
    parts[0, 0, 0], parts[0, 1, 0] = 0.7, -0.7

    def rows_of(bad, main):
        return metrics.sample_rows(4, bad, [question], [texts], [[Rollout([1, 2], [0.0, 0.0], True)] * 2], [scores],
                                   torch.tensor([[10.5, 0]]), parts.sum(-1), parts, {"accuracy": 10.0},
                                   SimpleNamespace(main=main))

    assert [(row["rollout"], row["nonfinite"]) for row in rows_of([1], True)] == [(0, False), (1, True)]
    assert [(row["rollout"], row["nonfinite"]) for row in rows_of([1], False)] == [(1, True)]  # of another process
    rows = rows_of([], True)
    [group] = report.groups_of([report.parse(json.dumps(row).encode(), report.GROUP | report.ROLLOUT)
                                for row in rows], [])
    first, second = group["rollouts"]
    assert first["cited"] == ["a stiff neck"] and first["unsupported"] == ["mood"] and first["chosen"] == "C"
    assert first["rejected"] == {"A": ["rash"]} and first["parts"]["accuracy"] == 0.7 == first["advantage"]
    assert second["chosen"] is None and group["weights"] == {"accuracy": 10}
    assert list(first["parts"]) == list(rewards.OBJECTIVES) and first["accuracy"] == 1 and second["accuracy"] == 0


def test_even_keeps_first_and_last():
    assert report.even(list(range(10)), 4) == [0, 3, 6, 9] and report.even([1, 2], 5) == [1, 2]
    assert report.even([1, 2, 3], 1) == [1] and report.even([1, 2, 3], 0) == []


# --- in a browser -------------------------------------------------------------------------------------------------

def in_browser(page, script, tmp_path):
    """Run a script in a copy of a page -> what it returns. Fails on any error in the page; skips without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs Chromium, which is not installed")
    copy = tmp_path / "copy.html"
    catch = "<script>const errors = []; addEventListener('error', e => errors.push(e.message));</script>"
    report_back = f"""<script>let said;
        try {{ said = (() => {{ {script} }})(); }} catch (e) {{ errors.push(String(e)); }}
        document.title = "?"; document.body.textContent = JSON.stringify([said, errors]);</script>"""
    text = page.read_text(encoding="utf-8").replace("<main>", catch + "<main>", 1)
    copy.write_text(text.replace("</html>", report_back + "</html>"), encoding="utf-8")
    done = subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
                           "--disable-background-networking", "--disable-component-update", "--window-size=1280,900",
                           f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", copy.as_uri()],
                          capture_output=True, text=True, timeout=120)
    said, errors = json.loads(html.unescape(re.search(r"<body[^>]*>(.*?)</body>", done.stdout, re.DOTALL)[1]))
    assert errors == []
    return said


def test_the_reader_marks_what_the_verifiers_found(tmp_path):
    response = ("<dx> System 1: likely scurvy. System 2: Sore throats suggest scurvy. Measles is unlikely because of "
                "the rash. </dx> so <conclusion> \\boxed{A} </conclusion>")
    row = rollout(1, 0, response, accuracy=0.0, chosen="A", cited=["a sore throat"], rejected={"A": ["rash"]},
                  unsupported=["rash"])
    run = write_run(tmp_path / "run", [metric(1)], [row, rollout(1, 1, "no tags at all")])
    make(run)
    said = in_browser(run / "report.html", """
        select(1);
        const all = (query, root = document) => [...root.querySelectorAll(query)].map(node => node.textContent);
        const card = document.querySelector(".card.on");
        return { parts: all("summary", card), cited: all(".cited", card), inCase: all(".case .cited"),
          box: all(".box", card), wrong: all(".unsupported", card), rejected: all("s", card),
          link: card.querySelector(".cited").hash, target: document.querySelector(".case .cited").id,
          key: all(".case .right"), other: all("summary", document.querySelector(".card")) };
        """, tmp_path)
    assert said["parts"] == ["System 1 (intuitive)", "System 2 (analytical)", "Outside the tags", "Conclusion"]
    assert said["cited"] == ["Sore throats1"] and said["inCase"] == ["sore throat1"]
    assert said["link"] == "#" + said["target"]
    assert said["wrong"] == ["rash?"] and said["rejected"] == ["Measles"] and said["box"] == ["\\boxed{A} ✗ wrong A"]
    assert said["key"][0].startswith("B) scurvy ✓ key") and said["other"] == ["Outside the tags"]


def test_arrows_go_through_rollouts_and_questions_of_two_runs(tmp_path):
    a = write_run(tmp_path / "a", [metric(s) for s in (1, 2)], [rollout(s, g) for s in (1, 2) for g in (0, 1, 2)],
                  evals={"medqa": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "questions": 9},
                         "medmcqa": {"accuracy": 0.6, "accuracy_interval": [0.5, 0.7]}})
    b = write_run(tmp_path / "b", [metric(1)], evals={"medqa": {"accuracy": 0.7, "accuracy_interval": [0.6, 0.8]}})
    make(a, b)
    said = in_browser(a / "report.html", """
        document.getElementById("reader").scrollIntoView();
        const place = () => [document.querySelector(".card.on h3").textContent.slice(0, 9), current().question];
        const press = key => {
          document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Arrow" + key, bubbles: true }));
          return place();
        };
        const order = [...document.querySelectorAll(".card h3")].map(node => node.textContent.slice(0, 9));
        const walk = [place(), ...["Right", "Right", "Right", "Left", "Down", "Down", "Up"].map(press)];
        return { order, walk, whiskers: document.querySelectorAll("#evaluation svg").length,
          lines: document.querySelectorAll("#curves figure:first-child .chart path").length };
        """, tmp_path)
    assert said["order"] == ["rollout 2", "rollout 1", "rollout 0"]  # by reward
    assert said["walk"] == [["rollout 2", "q1"], ["rollout 1", "q1"], ["rollout 0", "q1"], ["rollout 0", "q1"],
                            ["rollout 1", "q1"], ["rollout 2", "q2"], ["rollout 2", "q2"], ["rollout 2", "q1"]]
    assert said["whiskers"] == 3 and said["lines"] == 4


def test_seven_runs_have_seven_kinds_of_line_and_no_object_is_a_number(tmp_path):
    runs = [write_run(tmp_path / str(i), [metric(s) for s in (1, 2)],
                      evals={"exam": {"questions": 9, "breakdown": {"system": {}}, "judge": {"unparsable": {}}}})
            for i in range(7)]
    for when, accuracy in (("before", 0.465), ("after", 0.975)):
        (runs[0] / f"held_out_{when}.json").write_text(json.dumps({"accuracy": accuracy}))
    runs.append(write_run(tmp_path / "cold", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]))
    make(*runs)
    said = in_browser(runs[0] / "report.html", """
        const lines = [...document.querySelectorAll("#curves figure:first-child .chart path[stroke-width='2']")];
        return { headline: document.querySelector(".panel").textContent, kinds: new Set(lines.map(p => p.getAttribute("stroke") + p.getAttribute("stroke-dasharray"))).size,
          text: document.querySelector("#evaluation").textContent,
          titles: [...document.querySelectorAll("#curves figcaption b")].map(node => node.textContent) };
        """, tmp_path)
    assert "loss of a cold start" in said["titles"] and "0.465 → 0.975before and after" in said["headline"]
    assert said["kinds"] == 7 and "object" not in said["text"] and "breakdown" not in said["text"]
    assert "questions" in said["text"]


def test_a_hostile_run_stays_text_in_the_browser(tmp_path):
    run = hostile_run(tmp_path / "run")
    make(run, write_run(tmp_path / "bare", config={"steps": 3}))
    said = in_browser(run / "report.html", """
        show({ group: 1 });
        const second = document.body.textContent.includes("onerror");
        show({ run: 1 });
        show({ run: 0 });
        return [document.title, document.images.length, document.querySelectorAll("main script").length, second,
          document.querySelectorAll(".card").length, document.body.textContent.includes("taken")];
        """, tmp_path)
    assert said[:4] == ["CRPO report", 0, 0, True] and said[4] >= 1 and said[5]
