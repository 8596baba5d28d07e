import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.tensor import DTensor

import clinic
import metrics
import rewards
import run
from model import PRESETS as MODEL_PRESETS
from model import init_model
from sampler import Rollout, generate
from train_crpo import (PRESETS, Config, advantages, brake, kl_penalty, load_data, micro_batches, policy_loss,
                        reference_logprobs, rollout_kl, steered_beta, step_questions, ties, update)

ONE = torch.tensor([1.0])
EQ4 = torch.tensor([10, 1, 0.5])
RANGES = torch.tensor([1, 1.5, 1])


def group(*totals):
    return torch.tensor(totals, dtype=torch.float64)[None, :, None]  # [1, G, 1]


@pytest.mark.parametrize("totals, expected", [
    ((1, 0), (0.7071068, -0.7071068)),                                    # std = sqrt(1/2)
    ((3, 1, 2), (1, -1, 0)),                                              # std = 1
    ((10, 0, 0, 0, 0), (1.7888544, -0.4472136, -0.4472136, -0.4472136, -0.4472136)),
    ((12, 12, 12, 12, 11.999), (0.4472136,) * 4 + (-1.7888544,)),         # noise among ties
    ((11.9, 11.9, 11.9, 11.9, 11.9), (0,) * 5),
    ((0.1 + 0.2, 0.3, 0.3), (0, 0, 0)),                                   # a tie but for rounding
])
def test_advantages_by_hand(totals, expected):
    advantage, parts = advantages(group(*totals), ONE, ONE)
    assert torch.allclose(advantage[0], torch.tensor(expected).double(), atol=1e-6)
    assert torch.equal(parts[..., 0], advantage)


def test_advantages_weigh_objectives_and_keep_groups_apart():
    reward = torch.tensor([[[1, 1.5, 1], [0, 1, 1], [0, 0, 0.8]],           # Eq 4: 12, 1.5, 0.4
                           [[1, 1, 1], [1, 1, 1], [1, 1, 1]]])
    a, _ = advantages(reward, EQ4, RANGES)
    mean = (12 + 1.5 + 0.4) / 3
    std = math.sqrt(((12 - mean) ** 2 + (1.5 - mean) ** 2 + (0.4 - mean) ** 2) / 2)
    assert torch.allclose(a[0], torch.tensor([(x - mean) / std for x in (12, 1.5, 0.4)]).double(), atol=1e-6)
    assert a[1].tolist() == [0, 0, 0]


def test_one_consistency_of_0_998_among_right_answers():
    """Noise alone steers under Eq 3; under our default it is no difference at all."""
    reward = torch.tensor([[[1, 1.5, 1]] * 4 + [[1, 1.5, 0.998]]])
    paper, _ = advantages(reward, EQ4, RANGES)
    assert torch.allclose(paper[0], torch.tensor([0.4472136] * 4 + [-1.7888544]).double(), atol=1e-4)
    ours = Config()
    for mode in ("sum", "decoupled"):
        a, parts = advantages(reward, EQ4, RANGES, mode, ours.floor, ours.noise)
        assert not a.any() and not parts.any()


def test_decoupled_advantages_by_hand():
    """Two rollouts: z = +-0.7071 whatever the scale, weighted 10 : 1 : 0.5 of 11.5; the floor of 0.1 x range = 0.1
    holds where consistency differs by 0.05: std 0.03536, z = +-0.025 / 0.1 = +-0.25."""
    a, parts = advantages(torch.tensor([[[1, 0, 1.0], [0, 1.5, 0.95]]]), EQ4, RANGES, "decoupled", floor=0.1, noise=0.01)
    by_hand = [10 * 0.7071068 / 11.5, -0.7071068 / 11.5, 0.5 * 0.25 / 11.5]
    assert torch.allclose(parts[0, 0], torch.tensor(by_hand).double(), atol=1e-5)
    assert torch.allclose(parts[0, 1], -parts[0, 0]) and torch.allclose(a[0, 0], torch.tensor(sum(by_hand)).double(), atol=1e-5)
    free, _ = advantages(torch.tensor([[[1, 1, 1.0], [1, 1, 0.95]]]), EQ4, RANGES, "decoupled", floor=0.0, noise=0.01)
    assert free[0, 0].item() == pytest.approx(0.5 * 0.7071068 / 11.5, abs=1e-5)


def test_noise_and_floor_are_shares_of_an_objectives_range():
    """Of clinical's 1.5: a hundredth is 0.015, a tenth 0.15."""
    assert ties(torch.tensor([[[0, 0.014, 0], [0, 0, 0]]]), RANGES, 0.01).all()
    _, parts = advantages(torch.tensor([[[0, 0.1, 0], [0, 0, 0]]]), EQ4, RANGES, "decoupled", floor=0.1, noise=0.01)
    assert parts[0, 0, 1].item() == pytest.approx(0.05 / 0.15 / 11.5)


def test_a_doubled_weight_doubles_the_share():
    reward = torch.tensor([[[1, 1.5, 1.0], [0, 1.5, 0.9], [0, 1, 0.7], [1, 0, 0.8]]])
    for mode in ("decoupled", "sum"):
        _, once = advantages(reward, torch.tensor([1, 1, 1]), RANGES, mode)
        _, twice = advantages(reward, torch.tensor([2, 1, 1]), RANGES, mode)
        ratio = (twice[..., 0] / twice[..., 1]) / (once[..., 0] / once[..., 1])
        assert torch.allclose(ratio[0][once[0, :, 1] != 0], torch.tensor(2.0).double())
    scaled = reward * torch.tensor([1, 7, 1])  # another scale of an objective changes nothing
    _, same = advantages(scaled, torch.tensor([1, 1, 1]), RANGES, "decoupled")
    _, once = advantages(reward, torch.tensor([1, 1, 1]), RANGES, "decoupled")
    assert torch.allclose(same, once)


@pytest.mark.parametrize("beta, kl, target, then", [
    (0.01, 0.2, 0.1, 0.015), (0.01, 0.05, 0.1, 0.01 / 1.5), (0.01, 0.1, 0.1, 0.01), (0.01, 0.14, 0.1, 0.01),
    (0.01, 0.07, 0.1, 0.01), (0.09, 9, 0.1, 0.1),
    (1e-4, 0.0, 0.1, 1e-4), (0.0, 0.2, 0.1, 1e-4), (0.007, 9.0, 0.0, 0.007), (0.0, 9.0, 0.0, 0.0),
])
def test_beta_follows_the_target(beta, kl, target, then):
    assert steered_beta(beta, kl, target) == pytest.approx(then)


def test_the_kl_of_the_rollouts_is_a_token_mean(processes):
    batch = [([1], Rollout([2, 3], [-1.0, -1.0], True)), ([1], Rollout([4], [-2.0], True))]
    ref = [torch.tensor([-1.0, -1.0 + math.log(2)]), torch.tensor([-2.0 - math.log(8)])]
    assert rollout_kl(batch, ref, processes) == pytest.approx((0 - math.log(2) + 3 * math.log(2)) / 3)


def test_the_brake_halves_the_rate_and_stops_the_momentum():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], lr=0.5, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1.0)

    def step(gradient):
        before = weight.item()
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        schedule.step()
        return weight.item() - before

    assert step(1.0) == pytest.approx(-0.5)
    brake(optimizer, schedule)
    assert step(0.0) == 0  # without the brake Adam goes on by 0.9 / 1.9 x 0.5 and more
    assert optimizer.param_groups[0]["lr"] == 0.25 and schedule.get_last_lr() == [0.25]


def test_another_mode_of_advantages_is_refused():
    with pytest.raises(ValueError, match="no mode dr"):
        advantages(torch.rand(1, 2, 1), torch.ones(1), torch.ones(1), "dr")


def test_weights_are_read_and_refused():
    assert rewards.weights_of("crpo", ["accuracy=3", "coverage=.5"]) == {
        "accuracy": 3.0, "clinical": 1.0, "consistency": 0.5, "coverage": 0.5}
    for bad in ("accurcy=1", "accuracy", "accuracy=-1", "accuracy=nan", "accuracy=1e999"):
        with pytest.raises(ValueError, match="--weights " + bad):
            rewards.weights_of("grounded", [bad])
    with pytest.raises(ValueError, match="above 0"):
        rewards.weights_of("grpo", ["accuracy=0", "thinking=0.0"])


def test_an_update_without_rows_does_nothing(processes):
    policy = run.shard(small_policy(), processes)
    before = [p.full_tensor().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    assert update(policy, optimizer, [], torch.zeros(0), [], 0.1, Config(), processes) == {}
    assert all(torch.equal(a, p.full_tensor()) for a, p in zip(before, policy.parameters()))


@pytest.mark.parametrize("ratio, advantage, loss, slope, clipped", [
    # slope: d loss / d logprob = -A * ratio where the surrogate is free, 0 where it is clipped
    (1.1, 2.0, -2.2, -2.2, False),
    (1.5, 2.0, -2.4, 0.0, True),    # already more likely, still good: no further push
    (0.5, 2.0, -1.0, -1.0, False),  # less likely, yet good: pulled back
    (1.5, -2.0, 3.0, 3.0, False),   # more likely, yet bad: pushed down
    (0.5, -2.0, 1.6, 0.0, True),    # already less likely, still bad: no further push
    (0.9, -2.0, 1.8, 1.8, False),
])
def test_clip_in_all_quadrants(ratio, advantage, loss, slope, clipped):
    logprob = torch.tensor([-1.0 + math.log(ratio)], requires_grad=True)
    value, hit = policy_loss(logprob, torch.tensor([-1.0]), torch.tensor([advantage]), clip=0.2)
    value.sum().backward()
    assert value.item() == pytest.approx(loss, abs=1e-5)
    assert logprob.grad.item() == pytest.approx(slope, abs=1e-5)
    assert hit.item() == clipped


@pytest.mark.parametrize("log_ratio, kl", [
    (0.0, 0.0), (math.log(2), 2 - math.log(2) - 1), (-math.log(2), 0.5 + math.log(2) - 1),
    (100.0, math.exp(10) - 11), (-100.0, math.exp(-10) + 9),
])
def test_kl_by_hand(log_ratio, kl):
    value = kl_penalty(torch.tensor([-3.0]), torch.tensor([-3.0 + log_ratio]))
    assert value.item() == pytest.approx(kl, rel=1e-4, abs=1e-6)


def test_kl_is_unbiased_for_the_kl_divergence():
    """The expectation of k3 under pi is KL(pi || ref), summed exactly over a vocabulary of three."""
    pi, ref = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    exact = 0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.5) + 0.2 * math.log(0.2 / 0.3)
    assert (pi * kl_penalty(pi.log(), ref.log())).sum().item() == pytest.approx(exact, abs=1e-6)


def test_every_epoch_visits_every_question_once():
    picked = [i for step in range(15) for i in step_questions(10, step, 4, seed=3)]
    for epoch in range(6):
        assert sorted(picked[10 * epoch:10 * epoch + 10]) == list(range(10))
    assert picked[:10] != picked[10:20] != list(range(10))
    assert picked[:4] == step_questions(10, 0, 4, seed=3) != step_questions(10, 0, 4, seed=4)


def test_micro_batches_hold_their_limit():
    """Prompts of 5 and 4 tokens: 5 + 2 + 3 = 10, 5 + 3 = 8, 4 + 4 = 8 of 12."""
    batch = [([1] * p, Rollout([2] * n, [0.0] * n, True)) for p, n in ((5, 3), (5, 2), (5, 3), (4, 4))]
    assert micro_batches(batch, 12) == [[1, 0], [2], [3]]
    assert micro_batches(batch, 13) == [[1, 0, 2], [3]] and micro_batches(batch, 1) == [[1], [0], [2], [3]]


def test_the_held_out_clinic_is_of_the_test_split(processes):
    train, held_out = load_data(Config(eval_questions=3), processes)
    assert held_out == clinic.make_questions(3, seed=0, split="test") and len(train) == 5000
    assert all(q.id.startswith("clinic-train-") for q in train)


def test_the_paper_preset_holds_the_published_numbers():
    paper = Config(**PRESETS["paper"])
    assert (paper.group, paper.prompts, paper.minibatches, paper.lr, paper.weight_decay) == (5, 512, 32, 1e-6, 0.01)
    assert (paper.clip, paper.grad_clip, paper.beta, paper.entropy_bonus) == (0.2, 1.0, 0.001, 0.001)
    assert (paper.objective, paper.advantage, paper.floor, paper.noise, paper.target_kl) == ("crpo", "sum", 0, 0, 0)
    assert (paper.max_prompt_tokens, paper.max_new_tokens, paper.epochs, paper.temperature) == (1024, 4096, 20.0, 1.0)


@pytest.fixture(scope="module")
def processes():
    processes = run.start()
    yield processes
    run.stop()


def small_policy():
    shape = replace(MODEL_PRESETS["tiny"], vocab_size=50, hidden_size=32, intermediate_size=48, head_dim=8)
    return init_model(shape, seed=1)


def fixed_batch(shift=0.0, jitter=0.0):
    """Six rollouts, 32 tokens, and their advantages. Probabilities as sampled: those of a small policy nearly, others
    by `shift`, and by turns more and less by `jitter`."""
    torch.manual_seed(0)
    batch = []
    for prompt, length in ((3, 9), (7, 2), (5, 5), (4, 12), (6, 1), (3, 3)):
        ids = torch.randint(0, 50, (prompt + length,)).tolist()
        old = [-3.9 + shift + jitter * (-1) ** t for t in range(length)]
        batch.append((ids[:prompt], Rollout(ids[prompt:], old, True)))
    return batch, torch.tensor([1.0, -0.5, 0.3, -1.2, 0.7, 0.0])


def updated(processes, micro_tokens=10_000, shift=0.0, jitter=0.0, **options):
    """One step's update of a fresh small policy on fixed rollouts -> its metrics and its weights afterwards."""
    config = Config(micro_tokens=micro_tokens, lr=1e-2, **options)
    batch, advantage = fixed_batch(shift, jitter)
    advantage = advantage.to(processes.device)
    policy = run.shard(small_policy(), processes)
    reference = run.shard(small_policy().requires_grad_(False), processes)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    ref_logprob = [x - 0.1 for x in reference_logprobs(reference, batch, config, processes)]
    metrics = update(policy, optimizer, batch, advantage, ref_logprob, config.beta, config, processes)
    return metrics, [p.full_tensor().clone() for p in policy.parameters()]


def test_the_update_does_not_depend_on_the_micro_batch(processes):
    options = dict(beta=0.5, entropy_bonus=0.01, grad_clip=1e9)
    metrics, weights = updated(processes, 10_000, **options)
    for micro_tokens in (1, 20, 40):
        other_metrics, other_weights = updated(processes, micro_tokens, **options)
        for name in metrics:
            assert other_metrics[name] == pytest.approx(metrics[name], abs=1e-5), name
        for a, b in zip(weights, other_weights):
            assert torch.allclose(a, b, atol=1e-5)


def test_the_loss_is_a_mean_over_all_response_tokens(processes):
    """Zero weights: every logprob is log(1/50) = -3.912; with old = -3.912 and no KL the loss is the mean of -A."""
    config = Config(entropy_bonus=0.0)
    policy = small_policy()
    with torch.no_grad():
        for p in policy.parameters():
            p.zero_()
    old = math.log(1 / 50)
    batch = [([1, 2], Rollout([3, 4, 5], [old] * 3, True)), ([1], Rollout([9], [old], False))]
    policy = run.shard(policy, processes)
    metrics = update(policy, torch.optim.SGD(policy.parameters(), lr=0.1), batch,
                     torch.tensor([2.0, -1.0], device=processes.device), None, 0.0, config, processes)
    assert metrics["loss"] == pytest.approx(-(3 * 2.0 - 1.0) / 4, abs=1e-4)
    assert metrics["entropy"] == pytest.approx(math.log(50), abs=1e-3)
    assert metrics["logprob_gap"] == pytest.approx(0, abs=1e-4) and metrics["clipped"] == 0


@pytest.mark.parametrize("micro_tokens", [1, 10_000])
def test_the_gradient_is_that_of_the_written_formula(micro_tokens, processes):
    """One step of SGD at a rate of 1 against autograd of Eq 1 and 2, row by row: a mean over all response tokens of an
    update, of responses of one to twelve tokens, some clipped, with the KL and the entropy."""
    model, config = small_policy(), Config(beta=0.5, entropy_bonus=0.01)
    metrics, weights = updated(processes, micro_tokens, beta=0.5, entropy_bonus=0.01, grad_clip=1e9, jitter=0.4)
    batch, advantage = fixed_batch(jitter=0.4)
    terms, clipped = [], 0
    for (prompt, rollout), a in zip(batch, advantage.tolist()):
        logits = model(torch.tensor([prompt + rollout.ids]))[0, len(prompt) - 1:-1]
        every = logits.log_softmax(-1)
        logp = every.gather(-1, torch.tensor(rollout.ids)[:, None]).squeeze(-1)
        ratio = (logp - torch.tensor(rollout.logprobs)).exp()
        surrogate = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
        log_ratio = logp.detach() - 0.1 - logp  # of the reference, the same model less 0.1
        kl = log_ratio.exp() - log_ratio - 1
        terms.append(-surrogate + config.beta * kl + config.entropy_bonus * (every.exp() * every).sum(-1))
        clipped += int((ratio.clamp(0.8, 1.2) * a < ratio * a).sum())
    loss = torch.cat(terms).mean()
    loss.backward()
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-5) and metrics["clipped"] * 32 == pytest.approx(clipped)
    assert clipped > 3
    for before, after in zip(model.parameters(), weights, strict=True):
        assert torch.allclose(before - before.grad, after.cpu(), atol=1e-5)


def test_clipped_tokens_are_counted(processes):
    assert updated(processes, shift=-2.0)[0]["clipped"] > 0.3


def test_an_update_raises_what_was_better_and_lowers_what_was_worse(processes):
    config = Config(beta=0.0, lr=0.05)
    policy = run.shard(small_policy(), processes)
    batch = [([1, 2], Rollout([3, 4], [-3.9] * 2, True)), ([1, 2], Rollout([7, 8], [-3.9] * 2, True))]
    before = reference_logprobs(policy, batch, config, processes)
    assert all(isinstance(p, DTensor) for p in policy.parameters())  # none stays whole
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    update(policy, optimizer, batch, torch.tensor([0.7, -0.7], device=processes.device), None, 0.0, config, processes)
    after = reference_logprobs(policy, batch, config, processes)
    assert after[0].sum() > before[0].sum() and after[1].sum() < before[1].sum()


def test_trained_and_reference_probabilities_are_those_that_were_sampled(processes):
    policy = run.shard(small_policy(), processes)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    [rollouts] = generate(small_policy().to(processes.device), [[1, 2]], [[0, 1, 2]], 9, {50}, temperature=0.5)
    batch, config = [([1, 2], rollout) for rollout in rollouts], Config(temperature=0.5)
    for found, rollout in zip(reference_logprobs(policy, batch, config, processes), rollouts):
        assert torch.allclose(found.cpu(), torch.tensor(rollout.logprobs), atol=1e-5)
    advantage = torch.ones(3, device=processes.device)
    assert update(policy, optimizer, batch, advantage, None, 0.0, config, processes)["logprob_gap"] < 1e-5
    assert all(p.grad is None for p in policy.parameters())  # none is left to the next update


@pytest.mark.parametrize("bonus", [1.0, -1.0])
def test_an_entropy_bonus_raises_the_entropy_and_a_penalty_lowers_it(bonus, processes):
    policy = run.shard(small_policy(), processes)
    batch = [([1, 2], Rollout([3, 4], [-3.9] * 2, True))]
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    before, after = (update(policy, optimizer, batch, torch.zeros(1, device=processes.device), None, 0.0,
                            Config(entropy_bonus=bonus), processes)["entropy"] for _ in range(2))
    assert (after - before) * bonus > 1e-5


def test_the_kl_pulls_to_the_reference(processes):
    policy = run.shard(small_policy(), processes)
    batch = [([1, 2], Rollout([3, 4], [-3.9] * 2, True)), ([1, 2], Rollout([7, 8], [-3.9] * 2, True))]
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    before = reference_logprobs(policy, batch, Config(), processes)
    update(policy, optimizer, batch, torch.zeros(2, device=processes.device),
           [before[0] + 1, before[1] - 1], 1.0, Config(entropy_bonus=0.0), processes)
    after = reference_logprobs(policy, batch, Config(), processes)
    assert after[0].sum() > before[0].sum() and after[1].sum() < before[1].sum()


def test_the_gradient_is_clipped(processes):
    metrics, weights = updated(processes, grad_clip=0.01)
    moved = sum((a.detach().cpu() - b.detach()).square().sum() for a, b in zip(weights, small_policy().parameters()))
    assert metrics["grad_norm"] > 0.02 and math.sqrt(moved) == pytest.approx(0.01, rel=1e-2)  # SGD at a rate of 1


def test_a_full_disk_costs_the_held_out_table_only(tmp_path, monkeypatch):
    said = []
    processes = SimpleNamespace(main=True, say=said.append)
    result = {"accuracy": 0.5, "accuracy_interval": (0.1, 0.9), "questions": 2, "reward": 1.0, "clinical": 1.0,
              "length": 3.0}
    metrics.report_accuracy(result, "before", tmp_path, SimpleNamespace(main=False, say=lambda text: None))
    assert not list(tmp_path.iterdir())  # the first process writes it
    metrics.report_accuracy(result, "before", tmp_path, processes)
    assert (tmp_path / "held_out_before.json").exists() and len(said) == 1
    monkeypatch.setattr(metrics, "write_json", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    metrics.report_accuracy(result, "after", tmp_path, processes)
    assert "accuracy after: 0.500" in said[1] and "no space left" in said[2]


def test_group_metrics_by_hand(processes):
    """Two groups of two: one steered by accuracy against a little consistency, one without any advantage."""
    columns = [list(rewards.OBJECTIVES).index(name) for name in ("accuracy", "consistency")]
    reward, parts = torch.zeros(2, 2, len(rewards.OBJECTIVES)), torch.zeros(2, 2, len(rewards.OBJECTIVES))
    reward[..., columns] = torch.tensor([[[1, 0.8], [0, 1.0]], [[1, 1.0], [1, 1.0]]])
    parts[0][:, columns] = torch.tensor([[0.75, -0.25], [0, 0]])
    rollouts = [[Rollout([1] * n, [0.0] * n, n < 4) for n in lengths] for lengths in ((1, 2), (3, 4))]
    found = metrics.group_metrics(reward, ties(reward, torch.ones(len(rewards.OBJECTIVES)), 0.01), parts,
                                  reward.sum(-1), rollouts, 3, processes)
    expected = {"reward": 6.8 / 4, "answered": 3 / 4, "length": 10 / 4, "tokens": 10, "cut": 1 / 4, "skipped": 1 / 2,
                "accuracy": 3 / 4, "accuracy_spread": math.sqrt(1 / 2) / 2, "accuracy_tie": 1 / 2,
                "accuracy_steers": 1.5, "consistency_steers": -0.5, "coverage_tie": 1, "coverage_steers": 0}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    none = metrics.group_metrics(reward, ties(reward, torch.ones(len(rewards.OBJECTIVES)), 0.01), 0 * parts,
                                 reward.sum(-1), rollouts, 3, processes)
    assert none["skipped"] == 1 and none["accuracy_steers"] == 0


def test_the_line_beside_the_bar():
    row = {"reward": 9.876, "accuracy": 0.875, "grounding": 0.5, "kl": 0.0517, "entropy": None, "length": 51.6,
           "tokens": 3300, "seconds": 0.5}
    weights = {"accuracy": 10.0, "consistency": 0.0, "grounding": 4.0}
    assert metrics.status(row, weights, 0.3) == (
        "reward 9.88 (accuracy 0.88 grounding 0.50) kl 0.052/0.3 length 52, 6,600 tokens/s")
    assert metrics.status({**row, "entropy": 0.25}, {"accuracy": 1.0}, 0) == (
        "reward 9.88 (accuracy 0.88) kl 0.052 entropy 0.250 length 52, 6,600 tokens/s")
    assert " kl " not in metrics.status({**row, "kl": None}, weights, 0.3)


def test_the_example_before_and_after():
    said, question = [], clinic.make_questions(1, seed=0, split="test")[0]
    metrics.show_example((question, "one"), (None, "two"), SimpleNamespace(say=said.append))
    assert said == [f"\n{question.stem}\n" + "".join(f"{letter}) {text}\n" for letter, text in question.options.items())
                    + f"key: {question.answer}", "\nanswer before: one\n\nanswer after: two"]


def test_a_trouble_is_told_once_when_it_begins():
    told, before = [], {}
    fine = {"step": 1, "skipped": 0.2, "kl": 0.1, "answered": 1.0, "cut": 0.5}
    for step, changed in enumerate([{}, {"cut": 0.6}, {"cut": 1.0}, {}, {"cut": 0.9, "skipped": 0.9}, {"kl": 0.5},
                                    {"answered": 0.0}, {"answered": 0.7}]):
        before = metrics.report_troubles(fine | changed | {"step": step}, before, 0.3, SimpleNamespace(say=told.append))
    assert [line.split("step ")[1][:32] for line in told] == [
        "1: 60% of the responses are cut;", "4: 90% of the groups teach nothi",
        "4: 90% of the responses are cut;", "5: KL 0.5 is over its limit 0.3;",
        "7: of late 78% of the responses "]


def test_a_falling_share_of_answers_is_told_and_a_noisy_one_is_not():
    def told_of(answered):
        told, before = [], {}
        for step, share in enumerate(answered):
            row = {"step": step, "skipped": 0, "kl": 0, "answered": share, "cut": 0}
            before = metrics.report_troubles(row, before, 0, SimpleNamespace(say=told.append))
        return [line.split("step ")[1].split(":")[0] for line in told]

    # of 36 rollouts each, as a small real run had them
    noisy = [0.17, 0.08, 0.14, 0.03, 0.11, 0.08, 0.28, 0.14, 0.36, 0.17, 0.25, 0.22, 0.36, 0.22, 0.47, 0.28]
    assert told_of(noisy) == ["3"]
    assert told_of([0.9, 0.95, 0.9, 0.7, 0.5, 0.3, 0.1]) == ["5"] and told_of([1.0] * 5) == []
