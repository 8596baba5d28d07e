import json
import random
import sys
from collections import Counter
from dataclasses import asdict
from itertools import combinations

import pytest

import clinic
from clinic import ASKED, CONDITIONS, STYLES, SYSTEMS, UNITS, audit, make_questions, typical, write_trace
from data import Question, Tokenizer, load_questions, load_responses
from stream import digest_of


def test_the_world_can_be_told_apart():
    assert len(SYSTEMS) == 6 and all(len(rows) == 5 for rows in SYSTEMS.values()) and len(CONDITIONS) == 30
    for rows in SYSTEMS.values():
        for a, b in combinations(rows, 2):
            assert len(set(typical(a)) - set(typical(b))) >= 3 and len(set(typical(b)) - set(typical(a))) >= 3, (a, b)
    for condition in CONDITIONS:
        assert len(set(typical(condition))) == 6
        assert {f for f in typical(condition) if f in UNITS} <= set(clinic.LAB_VALUES)
    names = [clinic.option_text(c, kind) for c in CONDITIONS for kind in ASKED]
    assert len(set(names)) == 90
    shared = Counter(f for c in CONDITIONS for f in typical(c))
    assert sum(n > 1 for n in shared.values()) >= 25, "findings must overlap, or one of them decides"
    assert not [p for p in clinic.phrases() if "," in p]


def test_deterministic_and_independent_of_global_state():
    random.seed(1)
    a = make_questions(50, 3, "train")
    random.seed(2)
    assert a == make_questions(50, 3, "train") == make_questions(80, 3, "train")[:50]
    assert a != make_questions(50, 4, "train")


def test_the_world_is_the_recorded_one():
    """Every recorded result is of these questions and traces: where one changes, the records have to be made anew."""
    assert {split: digest_of([asdict(q) for q in make_questions(500, 0, split)])
            for split in ("train", "test", "final")} == {
        "train": "f7fb43988df82733", "test": "8e2ff5d2413821c4", "final": "a19ee29a9fe7a6cb"}
    assert {name: digest_of([(asdict(q), *how) for q, *how in clinic.make_corpus(500, 0, name)])
            for name in clinic.CORPORA} == {
        "pretrain": "e830ac406e3db02b", "base": "e00700e997521fa2", "cold": "2ac18c6ce4407b87"}


def test_splits_share_no_combination_of_findings():
    def cases(split, seed):
        return {(q.meta["condition"], frozenset(f for f in q.meta["findings"] if not incidental(f)))
                for q in make_questions(2000, seed, split)}

    def incidental(finding):
        return finding in {f.partition("|")[0] for f in clinic.INCIDENTAL}

    train, test, final = cases("train", 0), cases("test", 0), cases("final", 9)
    assert not train & test and not train & final and not test & final and not cases("train", 5) & test
    assert min(len(train), len(test), len(final)) > 100


def test_every_case_is_decided_by_its_findings():
    questions = make_questions(1500, 0, "test")
    for q in questions:
        conditions = {x: clinic.OPTION_OF[text] for x, text in q.options.items()}
        explained = {x: sum(f in typical(c) for f in q.meta["findings"]) for x, c in conditions.items()}
        assert conditions[q.answer] == q.meta["condition"] and 4 <= explained[q.answer] <= 5
        assert all(n < explained[q.answer] for x, n in explained.items() if x != q.answer)
        assert list(q.options) == list("ABCDE") and len(set(conditions.values())) == 5
        same = [c for c in conditions.values() if CONDITIONS[c][0] == q.meta["system"]]
        assert len(same) == 4
        for name, value in q.meta["findings"].items():
            assert (f"{name} of {value} {UNITS[name]}" if name in UNITS else name) in q.stem
    n = len(questions)
    assert all(0.15 < c / n < 0.25 for c in Counter(q.answer for q in questions).values())
    assert all(0.28 < c / n < 0.39 for c in Counter(q.meta["kind"] for q in questions).values())
    assert 0.2 < sum(q.meta["herring"] is not None for q in questions) / n < 0.4


@pytest.mark.parametrize("objective", ["crpo", "grpo"])
@pytest.mark.parametrize("style", STYLES)
def test_a_trace_is_audited_as_it_was_written(style, objective):
    rng = random.Random(0)
    first, second, rejected, _ = STYLES[style]
    for q in make_questions(150, 1, "train"):
        found = audit(write_trace(q, rng, objective, style), q)
        reasons = found["citations"] - min(first + second, 4)
        if (style, objective) == ("direct", "grpo"):
            assert found == {"citations": 1, "rejections": 0, "false_findings": 0}
            continue
        assert 0 <= reasons <= rejected + 1, "findings that do not fit a distractor are cited as well"
        assert found["rejections"] == rejected and found["false_findings"] == 0
        false = audit(write_trace(q, rng, objective, style, false_finding=True), q)
        assert false["false_findings"] == 1


def test_faults_are_in_the_text():
    rng = random.Random(0)
    for q in make_questions(100, 2, "train"):
        box = f"\\boxed{{ {q.options[q.answer]}}}"
        assert box in write_trace(q, rng) and box not in write_trace(q, rng, wrong=True)
        text = write_trace(q, rng, malformed=True)
        tags = ("<dx>", "</dx>", "<conclusion>", "</conclusion>", "System 1:", "System 2:")
        whole = all(text.count(t) == 1 for t in tags) and text.startswith("<dx>") and text.endswith("</conclusion>")
        assert not whole or "\\boxed" not in text.partition("<conclusion>")[2]


CASE = Question("q", "A 40-year-old man has sharp chest pain, low-grade fever, pericardial friction rub, shortness of "
                "breath, troponin of 90 ng/L and earwax. What is the most likely diagnosis?",
                dict(zip("ABCDE", ["acute pericarditis", "aortic dissection", "heart failure", "myocardial infarction",
                                   "malaria"])), "A", "clinic",
                {"condition": "acute pericarditis", "kind": "diagnosis", "system": "cardiovascular", "herring": "troponin",
                 "findings": {"sharp chest pain": None, "low-grade fever": None, "pericardial friction rub": None,
                              "shortness of breath": None, "troponin": 90, "earwax": None}})


@pytest.mark.parametrize("text, citations, rejections, false_findings", [
    ("", 0, 0, 0),
    ("sharp chest pain supports acute pericarditis.", 1, 0, 0),
    ("sharp chest pain supports acute pericarditis. sharp chest pain supports acute pericarditis.", 1, 0, 0),
    ("sharp chest pain, low-grade fever, earwax.", 0, 0, 0),                      # no inference
    ("sharp chest pain suggests.", 0, 0, 0),                                      # of what?
    ("troponin of 90 ng/L points to D) myocardial infarction.", 1, 0, 0),
    ("troponin of 91 ng/L points to D) myocardial infarction.", 0, 0, 1),
    ("troponin of 900 ng/L and orthopnea suggest heart failure.", 0, 0, 2),
    ("B) aortic dissection is unlikely because tearing back pain is absent.", 0, 1, 0),
    ("B) is unlikely because tearing back pain is absent.", 0, 1, 0),
    ("B) aortic dissection is unlikely because orthopnea is absent.", 0, 0, 0),    # not typical of it
    ("B) aortic dissection is unlikely because sharp chest pain is absent.", 0, 0, 0),  # it is there
    ("B) aortic dissection is unlikely because sharp chest pain does not fit it.", 1, 0, 0),  # it fits
    ("B) aortic dissection is unlikely because low-grade fever does not fit it.", 1, 1, 0),
    ("B) aortic dissection is unlikely because hemoptysis does not fit it.", 0, 0, 1),
    ("B) aortic dissection is unlikely.", 0, 0, 0),
    ("C) aortic dissection is unlikely because tearing back pain is absent.", 0, 0, 0),  # letter and name differ
    ("A) acute pericarditis is unlikely because diffuse ST elevation is absent.", 0, 0, 0),  # it is the key
    ("B) aortic dissection is unlikely because tearing back pain is absent. " * 3, 0, 1, 0),
    ("D) myocardial infarction is unlikely because troponin is not abnormal.", 0, 0, 0),
    ("E) malaria is unlikely because platelet count is not abnormal.", 0, 1, 0),
    ("sharp chest pain, low-grade fever, supportive care.", 0, 0, 0),             # "support" in a name infers nothing
    ("sharp chest pain, McBurney point tenderness, acute pericarditis.", 0, 0, 0),
    ("acute pericarditis, an appointment for sharp chest pain.", 0, 0, 0),
    ("troponin of 90.5 ng/L supports myocardial infarction.", 0, 0, 1),
    ("troponin of 90 mmHg supports myocardial infarction.", 0, 0, 1),
    ("There is no tearing back pain, so B) is unlikely.", 0, 1, 0),
    ("tearing back pain is absent, which supports aortic dissection.", 0, 0, 0),  # rejects nothing
    ("tearing back pain and syncope are absent, so B) aortic dissection is unlikely.", 0, 1, 0),
    ("C) is unlikely: no orthopnea or leg swelling.", 0, 1, 0),
    ("sharp chest pain supports acute pericarditis, and tearing back pain is absent.", 1, 0, 0),
    ("B) is unlikely because earwax does not fit it. C) is unlikely because earwax does not fit it.", 1, 0, 0),
    ("sharp chest painful supports acute pericarditis.", 0, 0, 0),
    ("\x00\ud800 troponin of 99999999999999999999 suggests malaria", 0, 0, 1),
    ("\\boxed{A}" * 1000 + "<dx>" * 1000, 0, 0, 0),
])
def test_audit_by_hand(text, citations, rejections, false_findings):
    assert audit(text, CASE) == {"citations": citations, "rejections": rejections, "false_findings": false_findings}


@pytest.mark.parametrize("name", clinic.CORPORA)
def test_corpora_have_their_shares(name, tmp_path):
    clinic.write_corpus(tmp_path / "a.jsonl", 600, 1, name)
    clinic.write_corpus(tmp_path / "b.jsonl", 600, 1, name)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    rows = load_responses(tmp_path / "a.jsonl")
    recipe = clinic.CORPORA[name]
    wrong = sum(f"\\boxed{{ {q.options[q.answer]}}}" not in r for q, r, _ in rows) / 600
    assert abs(wrong - recipe.get("wrong", 0)) < 0.05
    grpo = sum(o == "grpo" for _, _, o in rows) / 600
    assert abs(grpo - ("grpo" in recipe["objectives"]) / 2) < 0.06
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])["source"] == "clinic"


def test_its_commands(tmp_path, monkeypatch):
    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["clinic.py", *map(str, words)])
        clinic.main()

    typed("questions", 3, tmp_path / "a.jsonl")
    typed("questions", 3, tmp_path / "b.jsonl", "--seed", 1, "--split", "final")
    assert load_questions(tmp_path / "a.jsonl") == make_questions(3, 0, "test")
    assert load_questions(tmp_path / "b.jsonl") == make_questions(3, 1, "final")
    typed("cold", 3, tmp_path / "c.jsonl", "--seed", 2)
    assert load_responses(tmp_path / "c.jsonl") == list(clinic.make_corpus(3, 2, "cold"))
    typed("tokenizer", 40, tmp_path / "new" / "tokenizer")
    tokenizer = Tokenizer(tmp_path / "new" / "tokenizer", 2000)
    text = "A 60-year-old man has diffuse ST elevation."
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and " diffuse ST elevation" in [tokenizer.decode([i]) for i in ids]
    config = json.loads((tmp_path / "new" / "tokenizer" / "tokenizer_config.json").read_text())
    assert config["chat_template"] == clinic.CHAT_TEMPLATE and config["eos_token"] == "<|im_end|>"
