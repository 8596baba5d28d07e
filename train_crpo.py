"""Clinical-objective Relative Policy Optimization (PAPER: Clinical-R1, PMLR 317, 2026), in one loop.

For B prompts a step, sample G rollouts each from the current policy and score every rollout on M objectives:

    r   = sum_m weight_m * reward_m             Eq 4: 10 accuracy + clinical reasoning + 0.5 consistency
    A_i = (r_i - mean(r)) / std(r)              Eq 3, over the G rollouts of a prompt; std with divisor G - 1
                                                (our default normalises each objective by itself: advantages())
    maximise  mean over tokens of  min(ratio A, clip(ratio, 1 - c, 1 + c) A) - beta * D_KL          Eq 1
    D_KL = ref/pi - log(ref/pi) - 1             Eq 2 per token ("k3"), log-ratio clamped to +-10

Where this deviates from the letter of the paper, and why: Eq 1 has no gradient as printed (the advantage is a number),
so the surrogate is the clipped ratio of new to old probabilities; Eq 2 on whole sequences overflows, so it is per
token; the mean runs over all response tokens of an update, one denominator whatever the micro-batches and processes.
Groups whose rollouts all earned the same teach nothing and are left out of the update, KL included.
`old` is what the sampler stored while it drew the tokens, the true behaviour policy. Our default also takes a small
penalty on the entropy: at temperature 1 most errors are the sampling's own noise.

    torchrun --nproc_per_node=1 train_crpo.py
    torchrun --nproc_per_node=8 train_crpo.py --preset paper --model Qwen2.5-3B-Instruct/ --data medqa_train.jsonl

Legend: B prompts, G rollouts, N = B*G, T tokens, M objectives; n = response tokens of a micro-batch.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import clinic
import metrics
import rewards
import run
from data import Tokenizer, encode_prompts, load_questions
from eval import Config as EvalConfig, evaluate
from model import Packed, sent
from run import dtype_option, option
from sampler import Rollout, generate
from stream import digest_of

ASSET = str(Path(__file__).parent / "assets" / "tiny")


@dataclass
class Config:
    """The whole configuration; every field is a flag (--micro-tokens for micro_tokens)."""

    out: str = option("ckpt", "run directory; it is itself a Hugging Face model directory")
    model: str = option(ASSET, "model directory, or a preset's name for random weights of that shape")
    tokenizer: str = option("", "tokenizer directory, where it is not the model's")
    data: list = option([], "question files (MedQA, MedMCQA, MedXpertQA or own JSONL); none: the embedded clinic")
    eval_data: list = option([], "held-out question files; none: the clinic's test cases, if the clinic is the data")
    eval_questions: int = option(400, "the first so many held-out questions are answered before and after; 0: none")
    skip_bad_rows: bool = option(False, "count and list bad rows instead of stopping")
    mcqa_zero_based: bool = option(False, "MedMCQA's cop counts from 0, as in its parquet export")
    preset: str = option("", "paper: its hyper-parameters and its released code's", choices=["", "paper"])
    objective: str = option("grounded", "whose prompt and rewards: crpo (Eq 4), the grpo baseline, or grounded: crpo "
                            "with rewards for evidence and rejected options", choices=[*rewards.WEIGHTS])
    weights: list = option([], "NAME=VALUE, in place of the objective's own (rewards.WEIGHTS)")
    advantage: str = option("decoupled", "advantages() says what each does", choices=["sum", "decoupled"])
    floor: float = option(0.1, "decoupled: least divisor, as a share of an objective's range")
    noise: float = option(0.01, "an objective that differs by less, as a share of its range, is a tie in that group")
    seed: int = option(0, "fixes data order and every rollout")
    save_every: int = option(20, "steps between two saved states, from which the same command goes on; 0: none")
    fresh: bool = option(False, "start anew where --out holds an unfinished run, which is moved aside")
    shard_within: int = option(0, "processes that share one copy of the weights, as a machine's GPUs; 0: all")
    dtype: str = dtype_option()

    steps: int = option(0, "training steps; 0: as many as --epochs asks for, or 80 if that is 0 too")
    epochs: float = option(0.0, "passes over the data, where --steps is 0")
    prompts: int = option(8, "B, prompts a step over all processes", least=1)
    group: int = option(8, "G, rollouts a prompt: an advantage is relative to its group", least=2)
    minibatches: int = option(2, "updates a step, each on its share of the prompts", least=1)
    micro_tokens: int = option(4096, "tokens that pass through the model at once, in training", least=1)
    checkpoint_layers: bool = option(False, "recompute layers in the backward pass, to save memory")

    temperature: float = option(1.0, "of sampling, and of the probabilities that are trained", least=1e-6)
    top_p: float = option(1.0, "nucleus; below 1 it trains others than it samples from", least=1e-6, most=1)
    top_k: int = option(0, "0: off; otherwise as top_p")
    max_prompt_tokens: int = option(512, "longer prompts are left out, and counted", least=1)
    max_new_tokens: int = option(160, "longer rollouts are cut, and counted", least=1)
    max_rows: int = option(0, "rollouts in flight on one process while sampling; 0: all of its share")

    lr: float = option(4e-4, "learning rate, constant after the warm-up")
    warmup: int = option(0, "updates of linear warm-up")
    weight_decay: float = option(0.01, "of AdamW")
    clip: float = option(0.2, "c, the ratio's clip range", least=1e-6)
    grad_clip: float = option(1.0, "largest gradient norm", least=1e-6)
    beta: float = option(0.001, "weight of the KL to the start model, at first")
    target_kl: float = option(0.3, "beta is steered, from 1e-4 to 0.1, to keep the KL near it; 0: beta stays as it is")
    entropy_bonus: float = option(-0.05, "weight of the entropy; below 0 a penalty, which sharpens the policy",
                                  least=None)


# What the paper and its released code publish. Rollouts in flight and micro-batches are ours, for 48 GB.
PRESETS = {"paper": dict(
    epochs=20.0, prompts=512, group=5, minibatches=32, micro_tokens=8192, checkpoint_layers=True,
    temperature=1.0, max_prompt_tokens=1024, max_new_tokens=4096, max_rows=80, lr=1e-6, weight_decay=0.01,
    clip=0.2, grad_clip=1.0, beta=0.001, entropy_bonus=0.001,
    objective="crpo", advantage="sum", floor=0.0, noise=0.0, target_kl=0.0,
)}
BETA_RANGE = (1e-4, 0.1)  # of a steered beta; above, the few tokens of a huge log-ratio would drown the rewards
UPDATE_METRICS = ("loss", "entropy", "clipped", "logprob_gap", "grad_norm")
EMPTY = [([0], Rollout([0], [0.0], True))]  # what a process that has no rows left passes through a sharded model
KL_LIMIT = 3  # times the target: beyond it rewards no longer move the policy, until the KL has pulled it back


def ties(reward, scale, noise):
    """Which objectives are ties in which groups: all values within noise * scale. [B, G, M], [M] -> [B, 1, M]"""
    return reward.amax(1, keepdim=True) - reward.amin(1, keepdim=True) <= noise * scale + 1e-9  # 1e-9: rounding


def advantages(reward, weight, scale, mode="sum", floor=0.0, noise=0.0):
    """Group-relative advantages. reward: [B, G, M]; weight, scale (each objective's range): [M].

    -> advantage [B, G] and each objective's part in it [B, G, M], which sum to it; float64.

    sum        A = (r - mean(r)) / std(r),  r = sum_m weight_m reward_m                       (Eq 3 on Eq 4, the paper)
    decoupled  A = sum_m weight_m z_m / sum_m weight_m,
               z_m = (reward_m - mean(reward_m)) / max(std(reward_m), floor * scale_m)
               (the idea of GDPO, Group reward-Decoupled Normalization Policy Optimization, 2026, with a floor, and
               without its second normalisation over the batch, which would blow ties up again)

    mean and std (divisor G - 1) run over the G rollouts of a prompt. In both modes an objective that is a tie in a
    group has no part there. So under `decoupled` a weight is an objective's share, whatever its scale and however
    often the others tie.
    """
    reward, weight, scale = reward.double(), weight.double(), scale.double()
    centred = torch.where(ties(reward, scale, noise), 0.0, reward - reward.mean(1, keepdim=True))  # [B, G, M]
    if mode == "sum":
        parts = centred * weight
        spread = parts.sum(-1).std(1)[:, None, None]  # [B, 1, 1]
        parts = torch.where(spread > 1e-8, parts / spread.clamp(min=1e-8), 0.0)
    elif mode == "decoupled":
        spread = centred.std(1, keepdim=True)  # [B, 1, M]
        parts = centred / torch.maximum(spread, floor * scale).clamp(min=1e-8) * weight / weight.sum()
    else:
        raise ValueError(f"advantages() knows no mode {mode}")
    return parts.sum(-1), parts


def policy_loss(logprob, old_logprob, advantage, clip):
    """The negated clipped surrogate of each token (Schulman et al. 2017). All [n] -> loss [n], clipped [n] booleans."""
    ratio = (logprob - old_logprob).exp()
    free = ratio * advantage
    bound = ratio.clamp(1 - clip, 1 + clip) * advantage
    return -torch.minimum(free, bound), bound < free


def kl_penalty(logprob, ref_logprob):
    """Eq 2 of each token, [n] -> [n]: ref/pi - log(ref/pi) - 1, never negative; log-ratio clamped to +-10.

    Differentiated as it stands, as in veRL: on-policy its mean gradient is that of KL(ref || pi). (TRL multiplies it by
    the ratio unless use_bias_correction_kl is off, which gives that of KL(pi || ref).)
    """
    log_ratio = (ref_logprob - logprob).clamp(-10, 10)
    return log_ratio.expm1() - log_ratio


def steered_beta(beta, kl, target):
    """The next weight of the KL: half as much again where kl is over 1.5 times the target, a third less where it is
    under target / 1.5, within BETA_RANGE. target 0 leaves it."""
    if not target:
        return beta
    factor = 1.5 if kl > 1.5 * target else 1 / 1.5 if kl < target / 1.5 else 1.0
    return min(max(beta * factor, BETA_RANGE[0]), BETA_RANGE[1])


def brake(optimizer, schedule):
    """What the KL guard does when its limit is passed: Adam's momentum, which points outwards, is forgotten, and the
    learning rate halved for good. In place."""
    for state in optimizer.state.values():
        state["exp_avg"].zero_()
    for group in optimizer.param_groups:
        group["lr"] /= 2
    schedule.base_lrs = [rate / 2 for rate in schedule.base_lrs]


def step_questions(questions, step, prompts, seed):
    """The `prompts` indices of one step: each epoch is its own permutation, fixed by seed; steps run through them."""
    places = [divmod(place, questions) for place in range(step * prompts, (step + 1) * prompts)]
    return [int(np.random.default_rng((seed, epoch)).permutation(questions)[offset]) for epoch, offset in places]


def micro_batches(batch, limit):
    """Split a list of (prompt ids, rollout) into lists of indices of at most `limit` tokens, if a single one is not
    more. A prompt counts once for the rollouts that follow each other. Groups stand together, sorted by their longest
    rollout, so that little of attention is padding.
    """
    groups = {}
    for n, (prompt, rollout) in enumerate(batch):
        groups.setdefault(tuple(prompt), []).append((len(rollout.ids), n))
    parts, size = [], math.inf  # so that the first row opens a part
    for prompt, group in sorted(groups.items(), key=lambda item: max(item[1])[0]):
        once = len(prompt)
        for length, n in sorted(group):
            if size + once + length > limit:
                parts.append([])
                size, once = 0, len(prompt)
            parts[-1].append(n)
            size, once = size + once + length, 0
    return parts


def passes(batch, config, processes):
    """The micro-batches of `batch` as (indices, rows). Sharded models need equally many on every process: where there
    are too few, ([], EMPTY) follow."""
    parts = micro_batches(batch, config.micro_tokens)
    parts += [[]] * (max(processes.gather(len(parts))) - len(parts))
    return [(part, [batch[n] for n in part] or EMPTY) for part in parts]


def logprobs_of(model, batch, config, device, **entropy):
    """(logprob, entropy), [n] each, of the response tokens of a list of (prompt ids, rollout)."""
    packed = Packed([p for p, _ in batch], [r.ids for _, r in batch], device)
    return model.token_logprobs(packed, config.temperature, **entropy)


def update(model, optimizer, batch, advantage, ref_logprob, beta, config, processes):
    """One optimizer step on `batch`, a list of (prompt ids, rollout). advantage: [N]; ref_logprob: N tensors or None.

    The loss is a mean over the response tokens of all processes. -> UPDATE_METRICS, token means over all processes;
    logprob_gap is |trainer's - sampler's| before the step. Processes may hold different numbers of rows; if none has
    any, nothing is done and the result is {}. If the loss or the gradient is NaN or infinite, no process takes the
    step, and the result is {"nonfinite": indices of this process's rows whose loss is; of all rows where no loss is}.
    Advantages are always finite: a verifier returns plain numbers in a fixed range, and every divisor has a floor.
    """
    tokens = processes.sum([sum(len(r.ids) for _, r in batch)])[0]
    if not tokens:
        return {}
    sums, losses, device = torch.zeros(4, dtype=torch.float64, device=processes.device), [], processes.device
    # No collective in here, as processes without rows skip the rest; nor what waits for a GPU, which would stand still
    # until the next pass has begun (attention by a mask still does).
    for part, rows in passes(batch, config, processes):
        if not part:
            logprobs_of(model, rows, config, device)[0].sum().mul(0).backward()
            continue
        of = sent(torch.tensor([n for n, (_, r) in zip(part, rows) for _ in r.ids]), device)  # [n]
        old = sent(torch.tensor([x for _, r in rows for x in r.logprobs]), device)  # [n]
        logprob, entropy = logprobs_of(model, rows, config, device, entropy_grad=config.entropy_bonus != 0)
        loss, clipped = policy_loss(logprob, old, advantage.float()[of], config.clip)
        if ref_logprob is not None:
            loss = loss + beta * kl_penalty(logprob, torch.cat([ref_logprob[n] for n in part]))
        loss = loss - config.entropy_bonus * entropy
        # FSDP averages gradients over the processes; times `world` that is the sum, over one denominator.
        (loss.sum() / tokens * processes.world).backward()
        sums += torch.stack([x.detach().double().sum() for x in (loss, entropy, clipped, (logprob - old).abs())])
        losses += zip(part, loss.detach().split([len(r.ids) for _, r in rows]))
    means = [x / tokens for x in processes.sum(sums.tolist())]
    norm, finite = run.step_if_finite(model, optimizer, means[0], config.grad_clip)
    if not finite:
        bad = [n for n, x in losses if not x.isfinite().all()]
        return {"nonfinite": bad if processes.sum([len(bad)])[0] else list(range(len(batch)))}
    return dict(zip(UPDATE_METRICS, [*means, norm], strict=True))


def main(config):
    # 0. Data, models, optimizer
    metrics.check_names()
    weights = rewards.weights_of(config.objective, config.weights)
    processes = run.start(config.shard_within, config.dtype)
    for name, parts in (("processes", processes.world), ("minibatches", config.minibatches)):
        if config.prompts % parts:
            raise ValueError(f"--prompts {config.prompts} must be a multiple of the {parts} {name}")
    if config.top_p < 1 or config.top_k:
        processes.say("warning: top-p / top-k cut what is sampled but not what is trained, which biases the ratio")
    policy, tokenizer_files = run.resolve_model(config.model, config.tokenizer, config.seed)
    tokenizer = Tokenizer(config.tokenizer or config.model, policy.config.vocab_size)
    train, held_out = load_data(config, processes)
    limit = max(0, min(config.max_prompt_tokens, policy.config.max_position_embeddings - config.max_new_tokens))
    prompts = encode_prompts(tokenizer, train, config.objective, limit)
    train = [q for q, p in zip(train, prompts) if p]
    prompts = [p for p in prompts if p]
    if not train:
        raise ValueError(f"no prompt fits into {limit} tokens, the lesser of --max-prompt-tokens and what "
                         f"--max-new-tokens leaves of a context of {policy.config.max_position_embeddings}")
    steps = config.steps or math.ceil(config.epochs * len(train) / config.prompts) or 80
    config = replace(config, steps=steps)
    data = [(prompt, q.answer) for prompt, q in zip(prompts, train)]
    directory = run.RunDirectory(config.out, config, processes, tokenizer_files, data, free=("steps", "epochs"),
                                 rewards=weights)
    policy.checkpoint_layers = config.checkpoint_layers
    policy = run.shard(policy, processes)
    reference = run.sharded_copy(policy, processes) if config.beta or config.target_kl else None
    actor = run.full_copy(policy.config, processes)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / max(config.warmup, 1)))
    weight = torch.tensor([weights.get(name, 0.0) for name in rewards.OBJECTIVES], dtype=torch.float64)  # [M]
    scale = torch.tensor(list(rewards.OBJECTIVES.values()), dtype=torch.float64)  # [M]
    first, beta, refused = 0, config.beta, False
    rules = digest_of(Path(rewards.__file__).read_text(encoding="utf-8"))
    if directory.continued:
        values = directory.load_state(policy, optimizer, schedule)
        first, beta, refused = values["step"], values["beta"], values["refused"]
        if values.get("rules") != rules:
            processes.say("warning: rewards.py is not what it was; the steps from here on earn by other rules")

    def held_out_result(when):
        run.copy_weights(policy, actor)
        asked = EvalConfig(objective=config.objective, temperature=config.temperature, seed=config.seed,
                           max_new_tokens=config.max_new_tokens, max_rows=config.max_rows)
        result, _, example = evaluate(actor, tokenizer, held_out, asked, processes, weights=weights)
        metrics.report_accuracy(result, when, directory.path, processes)
        return example

    before = held_out_result("before") if held_out and not first else None
    stopping, troubles = run.catch_signals(), {}
    bar = tqdm(range(first, steps), initial=first, total=steps, disable=not processes.main, dynamic_ncols=True)
    for step in bar:
        clock = [time.perf_counter()]

        # 1. Sample G rollouts for each of this process's prompts
        run.copy_weights(policy, actor)
        picked = step_questions(len(train), step, config.prompts, config.seed)
        mine = range(processes.rank, config.prompts, processes.world)
        questions, inputs = [train[picked[i]] for i in mine], [prompts[picked[i]] for i in mine]
        seeds = [[(config.seed, step, i, g) for g in range(config.group)] for i in mine]
        rollouts = generate(actor, inputs, seeds, config.max_new_tokens, tokenizer.eos_ids, config.temperature,
                            config.top_p, config.top_k, config.max_rows)
        clock.append(time.perf_counter())

        # 2. Score every rollout on every objective; advantages within each group
        texts = [[tokenizer.decode(r.ids[:-1] if r.finished else r.ids) for r in group] for group in rollouts]
        scores = [[rewards.score(text, q) for text in group] for group, q in zip(texts, questions)]
        answered = sum(rewards.extract_answer(text, q.options) is not None
                       for group, q in zip(texts, questions) for text in group)
        # [b, G, M]; float32 would give ties a spread of 1e-7
        reward = torch.tensor([[[*s.values()] for s in group] for group in scores], dtype=torch.float64)
        total = (reward * weight).sum(-1)  # [b, G]
        advantage, parts = advantages(reward, weight, scale, config.advantage, config.floor, config.noise)
        clock.append(time.perf_counter())

        # 3. Log-probabilities of the rollouts under the frozen start model; their KL to it
        batch = [(p, r) for p, group in zip(inputs, rollouts) for r in group]
        ref_logprob = reference_logprobs(reference, batch, config, processes) if reference else None
        kl = rollout_kl(batch, ref_logprob, processes) if reference else None
        newly, settings = not refused, config
        refused = bool(config.target_kl) and kl > KL_LIMIT * config.target_kl
        if refused:  # the step only pulls back to the start model, with all weight
            if newly:
                brake(optimizer, schedule)
            beta, settings = BETA_RANGE[1], replace(config, entropy_bonus=0.0)
            advantage = torch.zeros_like(advantage)
        clock.append(time.perf_counter())

        # 4. Update, once for each minibatch, on the groups that have an advantage
        updates, bad, flat = [], set(), advantage.flatten().to(processes.device)
        rate = optimizer.param_groups[0]["lr"]
        for part in range(config.minibatches):
            # to leave out other groups, set their advantage and parts to 0 above: the metrics count by these
            groups = [j for j, i in enumerate(mine) if i * config.minibatches // config.prompts == part
                      and (refused or advantage[j].any())]
            rows = [n for j in groups for n in range(j * config.group, (j + 1) * config.group)]
            updates.append(update(policy, optimizer, [batch[n] for n in rows], flat[rows],
                                  ref_logprob and [ref_logprob[n] for n in rows], beta, settings, processes))
            bad |= {rows[i] for i in updates[-1].get("nonfinite", [])}
            if "loss" in updates[-1]:  # else there was no update, and a warm-up counts updates
                schedule.step()
        clock.append(time.perf_counter())

        # 5. Log
        tied = ties(reward, scale, config.noise)
        row = {"step": step + 1, **metrics.group_metrics(reward, tied, parts, total, rollouts, answered, processes)}
        done = [u for u in updates if "loss" in u]
        row |= {name: sum(u[name] for u in done) / len(done) if done else None for name in UPDATE_METRICS}
        row["logprob_gap"] = done[0]["logprob_gap"] if done else None  # later updates have moved the policy on purpose
        row |= {"nonfinite": sum("nonfinite" in u for u in updates), "kl": kl, "beta": beta, "refused": refused,
                "lr": rate}
        beta = steered_beta(beta, kl, config.target_kl)
        row["seconds"] = clock[-1] - clock[0]
        phases = ("sample", "score", "reference", "update")
        row |= {f"seconds_{name}": b - a for name, a, b in zip(phases, clock, clock[1:])}
        directory.log(row, metrics.sample_rows(step + 1, bad, questions, texts, rollouts, scores, total, advantage,
                                               parts, weights, processes))
        bar.set_postfix_str(metrics.status(row, weights, config.target_kl))
        troubles = metrics.report_troubles(row, troubles, KL_LIMIT * config.target_kl, processes)
        values = {"beta": beta, "refused": refused, "rules": rules}
        directory.keep_state(policy, optimizer, schedule, step + 1, steps, values, stopping())

    directory.save(policy, tokenizer)
    after = held_out_result("after") if held_out else None
    if before:
        metrics.show_example(before, after, processes)
    asked = config.eval_data or ["QUESTIONS"] * bool(config.data)  # none: eval.py asks the clinic
    processes.say(f"\nwritten: {config.out}/metrics.jsonl, samples.jsonl\nnext: python eval.py {config.out}",
                  *["--data", *asked] * bool(asked))
    run.stop()


def load_data(config, processes):
    """(training questions, held-out questions) as --data and --eval-data ask; says how many are both."""
    def load(paths):
        return [q for path in paths for q in load_questions(path, config.skip_bad_rows, config.mcqa_zero_based)]

    train = load(config.data) or clinic.make_questions(5000, seed=config.seed, split="train")
    tests = [] if config.data else clinic.make_questions(config.eval_questions, seed=0, split="test")
    held_out = (load(config.eval_data) or tests)[:config.eval_questions]
    asked = {(q.stem, *q.options.values()) for q in train}
    if known := sum((q.stem, *q.options.values()) in asked for q in held_out):
        processes.say(f"warning: {known} of {len(held_out)} held-out questions are trained on")
    return train, held_out


@torch.no_grad()
def reference_logprobs(reference, batch, config, processes):
    """Log-probabilities of each rollout under the reference: N tensors [len(rollout)]."""
    found = {}
    for part, rows in passes(batch, config, processes):
        logprob, _ = logprobs_of(reference, rows, config, processes.device, entropy=False)
        found.update(zip(part, logprob.split([len(r.ids) for _, r in rows])))
    reference.reshard()  # without a backward pass its root would stay whole during the update
    return [found[n] for n in range(len(batch))]


def rollout_kl(batch, ref_logprob, processes):
    """Mean KL a token of the policy that sampled the batch to the reference, over all processes: of log(pi/ref).

    Its expectation is that of Eq 2, whose mean over a batch may be a single token's: one that is e^10 times likelier to
    the reference adds 22,016. No guard can steer by that.
    """
    values = [torch.tensor(r.logprobs).double().sum() - ref.cpu().double().sum()
              for (_, r), ref in zip(batch, ref_logprob)]
    kl, tokens = processes.sum([float(sum(values)), sum(len(r.ids) for _, r in batch)])
    return kl / tokens


if __name__ == "__main__":
    run.script(main, Config, __doc__, "a smaller --micro-tokens, --max-rows or --max-new-tokens; --checkpoint-layers",
               PRESETS)
