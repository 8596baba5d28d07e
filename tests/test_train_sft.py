"""Which responses the cold start takes, and which questions it holds out."""

import json

import pytest

import clinic
import train_sft
from data import DataError, load_tokenizer
from test_end_to_end import ROOT

TOKENIZER = load_tokenizer(ROOT / "assets" / "tiny", 10**6)
FORM = ("<dx>System 1: a first guess here. System 2: it fits the case best.</dx>"
        "<conclusion>it is clear \\boxed{A}</conclusion>")


def sequences(tmp_path, rows, **options):
    (tmp_path / "cold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return train_sft.load_sequences(train_sft.Config(data=[str(tmp_path / "cold.jsonl")], **options), TOKENIZER, 1024)


def test_responses_to_one_question_stay_on_one_side(tmp_path):
    """MedQA's rows have no id, so that each is named by its line."""
    rows = [{"question": f"A man has {n} fevers?", "options": {"A": "cold", "B": "flu"}, "answer_idx": "A", "answer": "cold",
             "response": f"{FORM} {i}"} for i in range(4) for n in range(5)]
    kept, _ = sequences(tmp_path, rows)
    assert len(kept) == 20 and len({row[2] for row in kept}) == 5
    assert all(len({tuple(row[0]) for row in kept if row[2] == name}) == 1 for name in {row[2] for row in kept})


@pytest.mark.parametrize("objective, kept", [("crpo", 2), ("grounded", 2), ("grpo", 0)])
def test_a_response_has_the_form_of_its_own_objective(objective, kept, tmp_path):
    clinic.write_corpus(tmp_path / "corpus.jsonl", 2, 3, "pretrain")
    rows = [{**json.loads(line), "response": FORM, "objective": objective} for line in (tmp_path / "corpus.jsonl").open()]
    found, counts = sequences(tmp_path, rows, require_form=True)
    assert len(found) == kept and f"{2 - kept} without form" in counts


def test_medmcqa_may_count_from_zero(tmp_path):
    row = {"question": "Why?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 0, "response": FORM}
    with pytest.raises(DataError, match="--mcqa-zero-based"):
        sequences(tmp_path, [row])
    assert len(sequences(tmp_path, [row], mcqa_zero_based=True, require_right=True)[0]) == 1
