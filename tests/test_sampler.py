from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import linear
import sampler
from model import PRESETS, Cache, Packed, init_model
from sampler import draw, generate, truncate, uniforms

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONFIG = replace(PRESETS["tiny"], vocab_size=40, hidden_size=32, intermediate_size=48, head_dim=8, num_hidden_layers=2)
PROMPTS = [[5, 6, 7], [8] * 12, [9, 10], [11, 12, 13, 14, 15, 16]]
SEEDS = [[(0, b, g) for g in range(n)] for b, n in enumerate((3, 5, 1, 4))]
EOS = {2, 3}


@pytest.fixture(scope="module")
def model():
    model = init_model(CONFIG)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.mul_(8)  # far from uniform, so that a wrong position or mask shows
    return model.to(DEVICE)


def test_a_rollout_depends_on_its_seed_and_prompt_only(model, monkeypatch):
    together = generate(model, PROMPTS, SEEDS, 30, EOS)
    assert len({r.finished for g in together for r in g}) == 2, "the case should have both finished and cut rows"
    for b, prompt in enumerate(PROMPTS):
        for g, seed in enumerate(SEEDS[b]):
            [[alone]] = generate(model, [prompt], [[seed]], 30, EOS)
            assert alone.ids == together[b][g].ids and alone.finished == together[b][g].finished
    expected = [[r.ids for r in g] for g in together]
    assert [[r.ids for r in g] for g in generate(model, PROMPTS, SEEDS, 30, EOS, max_rows=4)] == expected
    passed = []
    hook = model.register_forward_pre_hook(lambda _, args: passed.append(tuple(args[0].shape)))
    for most, passes in ((1, [(1, 2), (1, 3), (1, 6), (1, 12)]), (24, [(2, 3), (2, 12)])):  # like lengths together
        monkeypatch.setattr(sampler, "PREFILL_TOKENS", most)
        assert [[r.ids for r in g] for g in generate(model, PROMPTS, SEEDS, 30, EOS)] == expected
        assert passed == passes or DEVICE.type == "cuda"  # there lengths are multiples of 8
        passed.clear()
    monkeypatch.undo()
    made, rows, step = Cache.__init__, [], sampler.Step.__call__
    monkeypatch.setattr(sampler.Step, "__call__", lambda self, token, *args: rows.append(len(token)) or step(
        self, token, *args))
    for window in (4, 64):  # compacted for a tenth of the rows where a window ends, for half within one
        monkeypatch.setattr(Cache, "__init__", lambda self, *args: made(self, *args) or setattr(self, "window", window))
        assert [[r.ids for r in g] for g in generate(model, PROMPTS, SEEDS, 30, EOS)] == expected
        left = [(t, after / before) for t, (before, after) in enumerate(zip(rows, rows[1:]), 1) if after < before]
        assert all(t % window == 0 or share <= 0.5 for t, share in left)
        assert (max(share for _, share in left) > 0.5) == (window == 4)
        rows.clear()
    monkeypatch.undo()
    passed.clear()
    generate(model, PROMPTS, [[0, 1]] * 4, 2, EOS, max_rows=5)
    hook.remove()
    assert [n for n, _ in passed] == [2, 2]  # two groups of two are the most that are no more than five rows


def test_packed_weights_draw_the_same(model, monkeypatch):
    expected = generate(model, PROMPTS, SEEDS, 30, EOS)
    monkeypatch.setattr(linear, "LARGE", 1)
    asked, onednn = [], linear.onednn
    monkeypatch.setattr(linear, "onednn", lambda *args: asked.append(args) or onednn(*args))
    packed = generate(model, PROMPTS, SEEDS, 30, EOS)
    assert bool(asked) == (linear.X86 and DEVICE.type == "cpu")
    for ours, theirs in zip(packed, expected):
        assert [r.ids for r in ours] == [r.ids for r in theirs]
        assert all(np.allclose(a.logprobs, b.logprobs, atol=1e-4) for a, b in zip(ours, theirs))


def test_other_seeds_give_other_rollouts(model):
    [group] = generate(model, PROMPTS[:1], [[(7, i) for i in range(8)]], 12, EOS)
    assert len({tuple(r.ids) for r in group}) > 4


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_stored_logprobs_equal_the_trainers(model, temperature):
    groups = generate(model, PROMPTS, SEEDS, 20, EOS, temperature)
    for prompt, group in zip(PROMPTS, groups):
        for rollout in group:
            with torch.no_grad():
                logprob, _ = model.token_logprobs(Packed([prompt], [rollout.ids], DEVICE), temperature)
            assert torch.allclose(logprob.cpu(), torch.tensor(rollout.logprobs), atol=1e-4)


def test_finished_and_cut(model):
    rollouts = [r for g in generate(model, PROMPTS, SEEDS, 25, EOS) for r in g]
    for r in rollouts:
        assert len(r.ids) == len(r.logprobs) <= 25
        assert not EOS & set(r.ids[:-1])
        assert (r.ids[-1] in EOS) == r.finished
        assert r.finished or len(r.ids) == 25


def test_every_eos_id_ends_a_rollout(model):
    """The same seeds with EOS sets that differ: an id of the set ends the rollout where the wider run went on."""
    free = generate(model, PROMPTS, SEEDS, 25, {39 + 1})
    for eos in ({2}, {3}, {2, 3, 17}):
        for group, wide in zip(generate(model, PROMPTS, SEEDS, 25, eos), free):
            for r, w in zip(group, wide):
                ends = [i for i, token in enumerate(w.ids) if token in eos]
                assert r.ids == (w.ids[:ends[0] + 1] if ends else w.ids)


def test_pad_that_equals_eos_changes_nothing(model):
    """Prompts are padded with id 0; with 0 as an EOS the ragged batch still equals each prompt alone."""
    together = generate(model, PROMPTS, SEEDS, 20, {0})
    for b, prompt in enumerate(PROMPTS):
        [alone] = generate(model, [prompt], [SEEDS[b]], 20, {0})
        assert [r.ids for r in alone] == [r.ids for r in together[b]]


def test_greedy_ignores_seeds(model):
    a = generate(model, PROMPTS, SEEDS, 10, EOS, temperature=0)
    b = generate(model, PROMPTS, [[(9, 9, g) for g in range(len(s))] for s in SEEDS], 10, EOS, temperature=0)
    assert [[r.ids for r in g] for g in a] == [[r.ids for r in g] for g in b]
    token, logprob = draw(torch.log(torch.tensor([[0.3, 0.7]])) + 5, torch.tensor([0.1]), temperature=0)
    assert token.item() == 1 and logprob.exp().item() == pytest.approx(0.7)


def test_draw_is_the_inverse_cdf():
    logits = torch.log(torch.tensor([0.5, 0.25, 1e-30, 0.25])).repeat(7, 1)
    u = torch.tensor([0.0, 0.499, 0.501, 0.7499, 0.7501, 0.9, 1 - 2**-24])
    token, logprob = draw(logits, u)
    assert token.tolist() == [0, 0, 1, 1, 3, 3, 3]
    assert torch.allclose(logprob.exp(), torch.tensor([0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25]))


def test_draw_frequencies_at_a_temperature():
    logits = torch.log(torch.tensor([0.1, 0.2, 0.7])).repeat(20000, 1)
    token, _ = draw(logits, torch.from_numpy(uniforms(3, 20000)), temperature=0.5)
    p = torch.tensor([0.01, 0.04, 0.49]) / 0.54  # squares, normalised
    assert torch.allclose(torch.bincount(token, minlength=3) / 20000, p, atol=0.01)


def test_draw_over_several_blocks():
    places = torch.tensor([0, 63, 64, 150, 199])
    assert draw(torch.zeros(5, 200), (places + 0.5) / 200)[0].equal(places)


def test_the_nucleus_is_one_of_the_tempered_distribution():
    """Squares, normalised: 16, 1, 9, 4 of 30, so that the first token alone is half of it."""
    logits = torch.log(torch.tensor([[0.4, 0.1, 0.3, 0.2]]))
    token, logprob = draw(logits, torch.tensor([0.99]), temperature=0.5, top_p=0.5)
    assert token.item() == 0 and logprob.exp().item() == pytest.approx(16 / 30)


def test_nan_logits_draw_a_token_whose_logprob_tells():
    token, logprob = draw(torch.full((1, 5), torch.nan), torch.tensor([0.5]))
    assert token.item() == 4 and logprob.isnan().all()


def test_a_block_that_rounds_beyond_its_end_draws_its_last_token():
    """Whatever the rounding of its sum, nothing is drawn from the block without mass behind it."""
    logits = torch.randn(20000, 128, generator=torch.Generator().manual_seed(0))
    logits[:, 64:] = -torch.inf
    assert draw(logits, torch.full((20000,), 1 - 2**-24))[0].max() == 63


def test_impossible_tokens_are_never_drawn():
    logits = torch.full((3, 5), -torch.inf)
    logits[:, 2] = 0
    token, logprob = draw(logits, torch.tensor([0.0, 0.5, 1 - 2**-24]))
    assert token.tolist() == [2, 2, 2] and logprob.tolist() == [0, 0, 0]


def test_truncate_by_hand():
    logits = torch.log(torch.tensor([[0.4, 0.1, 0.3, 0.2]]))
    assert truncate(logits, top_k=2).isfinite().tolist() == [[True, False, True, False]]
    assert truncate(logits, top_p=0.7).isfinite().tolist() == [[True, False, True, False]]
    assert truncate(logits, top_p=0.71).isfinite().tolist() == [[True, False, True, True]]
    assert truncate(logits, top_p=0.0).isfinite().tolist() == [[True, False, False, False]]
    assert truncate(logits).equal(logits)
    assert truncate(logits, top_k=9).equal(logits)


def test_the_nucleus_of_a_real_vocabulary_is_exact():
    """Against sums from the tail in float64; in float32 from the top 6% of these were missing."""
    logits = 5 * torch.randn(3, 151936, generator=torch.Generator().manual_seed(0))
    rising = logits.double().softmax(-1).sort(-1).values.cumsum(-1)
    for top_p in (0.95, 0.9999):
        assert truncate(logits, top_p=top_p).isfinite().sum(-1).tolist() == (rising > 1 - top_p).sum(-1).tolist()


def test_no_number_is_zero(monkeypatch):
    """At 0 the first token with any mass would be drawn, here one of e^-60."""
    zeros = SimpleNamespace(random=lambda count, dtype: np.zeros(count, dtype))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: zeros)
    logits = torch.zeros(1, 100)
    logits[0, 0] = -60
    assert draw(logits, torch.from_numpy(uniforms(0, 1)))[0].tolist() == [1]


def test_truncation_keeps_the_tempered_logprob():
    logits = torch.log(torch.tensor([[0.4, 0.1, 0.3, 0.2]]))
    token, logprob = draw(logits, torch.tensor([0.6]), top_k=2)
    assert token.item() == 2 and torch.allclose(logprob.exp(), torch.tensor([0.3]))


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="empty prompt"):
        generate(model, [[]], [[0]], 4, EOS)
    assert generate(model, [], [], 4, EOS) == []


def test_large_scores_keep_their_digits_in_bfloat16():
    """Qwen2's biases make attention scores of hundreds, whose bfloat16 neighbours are 2 apart."""
    model = init_model(replace(PRESETS["tiny"], vocab_size=64), seed=1)
    with torch.no_grad():
        for layer in model.model.layers:
            for projection, bias in ((layer.self_attn.q_proj, 20.0), (layer.self_attn.k_proj, 80.0)):
                projection.weight *= 20
                projection.bias.view(-1, 32)[:, 15] = bias  # the slowest pair of the rotation: scores of 280
    model = model.to(DEVICE, torch.bfloat16)
    prompt = list(range(3, 43))
    [group] = generate(model, [prompt], [[0, 1, 2, 3]], 40, {64})
    with torch.no_grad():
        logprob, _ = model.token_logprobs(Packed([prompt] * 4, [r.ids for r in group], DEVICE))
    gap = (logprob - torch.tensor([x for r in group for x in r.logprobs], device=DEVICE)).abs()
    assert gap.mean() < 0.02


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_any_number_of_key_heads(kv_heads):
    """Down to as many as there are heads; greedy decoding follows the full forward."""
    model = init_model(replace(CONFIG, num_key_value_heads=kv_heads)).to(DEVICE)
    for prompt, group in zip(PROMPTS, generate(model, PROMPTS, SEEDS, 6, {40}, temperature=0)):
        for rollout in group:
            with torch.no_grad():
                logits = model(torch.tensor([prompt + rollout.ids], device=DEVICE))[0, len(prompt) - 1:-1]
            assert logits.argmax(-1).tolist() == rollout.ids
