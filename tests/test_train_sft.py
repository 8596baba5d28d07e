"""Which responses the cold start takes, which questions it holds out, its loss, and when it stops."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

import clinic
import run
import train_sft
from checkpoint import load_model
from data import DataError, Tokenizer
from forked import ROOT, fork, status_of
from model import PRESETS, init_model

TOKENIZER = Tokenizer(ROOT / "assets" / "tiny", 10**6)
FORM = ("<dx>System 1: a first guess here. System 2: it fits the case best.</dx>"
        "<conclusion>it is clear \\boxed{A}</conclusion>")


def sequences(tmp_path, rows, **options):
    (tmp_path / "cold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return train_sft.load_sequences(train_sft.Config(data=[str(tmp_path / "cold.jsonl")], **options), TOKENIZER, 1024)


def test_responses_to_one_question_stay_on_one_side(tmp_path):
    """MedQA's rows have no id, so that each is named by its line."""
    rows = [{"question": f"A man has {n} fevers?", "options": {"A": "cold", "B": "flu"}, "answer_idx": "A",
             "answer": "cold", "response": f"{FORM} {i}"} for i in range(4) for n in range(5)]
    kept, _ = sequences(tmp_path, rows)
    assert len(kept) == 20 and len({row[2] for row in kept}) == 5
    assert all(row[1] == TOKENIZER.encode(f"{FORM} {i // 5}") + [TOKENIZER.end_id] for i, row in enumerate(kept))
    assert all(len({tuple(row[0]) for row in kept if row[2] == name}) == 1 for name in {row[2] for row in kept})


@pytest.mark.parametrize("objective, kept", [("crpo", 2), ("grounded", 2), ("grpo", 0)])
def test_a_response_has_the_form_of_its_own_objective(objective, kept, tmp_path):
    clinic.write_corpus(tmp_path / "corpus.jsonl", 2, 3, "pretrain")
    rows = [{**json.loads(line), "response": FORM, "objective": objective}
            for line in (tmp_path / "corpus.jsonl").open()]
    found, counts = sequences(tmp_path, rows, require_form=True)
    assert len(found) == kept and f"{2 - kept} without form" in counts


def test_medmcqa_may_count_from_zero(tmp_path):
    row = {"question": "Why?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 0, "response": FORM}
    with pytest.raises(DataError, match="--mcqa-zero-based"):
        sequences(tmp_path, [row])
    assert len(sequences(tmp_path, [row], mcqa_zero_based=True, require_right=True)[0]) == 1


def test_patience_is_at_least_one_look():
    with pytest.raises(ValueError, match="--patience 0: must be at least 1"):
        run.parse_config(train_sft.Config, "", argv=["--patience", "0"])


def test_the_loss_is_a_token_mean_and_shares_of_it_add_up():
    """Three rows, one at a time: the second of two processes repeats a row at weight 0. FSDP averages gradients."""
    rows, found = [([1, 2], [3, 4, 5], "a"), ([1], [6], "b"), ([7], [8, 9], "c")], []
    for world in (1, 2):
        model = init_model(PRESETS["tiny"])
        loss = sum(train_sft.total_loss(model, rows, train_sft.Config(micro_batch=1), SimpleNamespace(
            rank=rank, world=world, device="cpu", sum=lambda values: values)) for rank in range(world))
        found.append((loss, [p.grad / world for p in model.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0]) == pytest.approx(math.log(2048), rel=0.02)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found[0][1], found[1][1]))


def trained(out, losses=(), **options):
    """Cold start in a forked process -> (what each step trained on, what is held out, whether the weights of the best
    of the scripted held-out losses are kept)."""
    def act():
        total_loss, trained, held_out, looks = train_sft.total_loss, [], set(), []

        def scripted(model, rows, *rest):
            names = [name for *_, name in rows]
            if torch.is_grad_enabled():
                trained.append(names)
                return total_loss(model, rows, *rest)
            held_out.update(names)
            looks.append([p.full_tensor().clone() for p in model.parameters()])
            return losses[len(looks) - 1]

        train_sft.total_loss = scripted
        clinic.write_corpus(out / "corpus.jsonl", 40, 3, "cold")
        train_sft.main(train_sft.Config(out=str(out / "ckpt"), data=[str(out / "corpus.jsonl")], warmup=0, lr=0.01,
                                        save_every=0, **options))
        kept = looks and all(map(torch.equal, looks[losses.index(min(losses))], load_model(out / "ckpt").parameters()))
        (out / "told").write_text(json.dumps([trained, sorted(held_out), kept]))

    assert status_of(fork(act)) == 0
    return json.loads((out / "told").read_text())


def test_the_best_weights_are_kept_and_what_is_held_out_is_not_trained_on(tmp_path):
    steps, held_out, kept = trained(tmp_path, [3.0, 4.0, 1.0, 2.0, 2.0], steps=9, batch=4, holdout=0.2, holdout_every=1,
                                    patience=2)
    assert kept and len(steps) == 5  # two looks after the best one
    assert len(held_out) == 8 and not set(held_out) & set(sum(steps, []))


def test_every_epoch_has_its_own_order(tmp_path):
    steps, *_ = trained(tmp_path, steps=4, batch=20, holdout=0.0)
    first, second = sum(steps[:2], []), sum(steps[2:], [])
    assert sorted(first) == sorted(second) and len(set(first)) == 40 and first != second
