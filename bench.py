"""How fast, how much memory, and how far from the machine's limit; beside peers, on the same shapes.

    python bench.py sampler --peer hf          rollouts: tokens a second, beside transformers' generate
    python bench.py step --peer trl            a whole CRPO step by phase, beside TRL's GRPOTrainer
    python bench.py memory                     peak of a step against the plan, and how it grows
    python bench.py plan --preset Qwen2.5-3B --gpus 8 --gpu-memory 48 --context 5120

Weights are random, prompts are random tokens. Runs take turns (ours, peer, ours, peer, ...) after a warm-up; numbers
are medians. Peers are imported only here and only when asked for. The plan needs no machine: it is arithmetic.
"""

import argparse
import gc
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import clinic
import rewards
import run
import sampler
import train_crpo
from checkpoint import save_model
from data import Tokenizer
from linear import linear
from model import LOGITS_AT_ONCE, PRESETS, TOKENS_AT_ONCE, ModelConfig, Packed, init_model
from sampler import generate

LIBRARIES = {"hf": "transformers", "trl": "trl"}
WARM = 32  # tokens of a peer's warm-up
SPREAD = 0.6  # sigma of the log-normal lengths, whose median is 40% of the limit


def machine(device):
    """Where the numbers come from."""
    try:
        cpu = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {"cpu": cpu, "threads": torch.get_num_threads(), "python": platform.python_version(),
            "torch": torch.__version__, "commit": commit,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}


def clock(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def take_turns(jobs, rounds, device):
    """{name: function} -> {name: [seconds of each round]}, A B A B ..."""
    seconds = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = clock(device)
            job()
            seconds[name].append(clock(device) - start)
    return seconds


def best(job, rounds, device):
    """Seconds of the quickest of several calls after a warm-up."""
    job()
    return min(take_turns({"": job}, rounds, device)[""])


def matmul_rate(device, dtype):
    """Floating-point operations a second of a square matrix product, the best of several: by torch, and the better of
    that and ours (linear.py), the machine's peak."""
    size = 8192 if device.type == "cuda" else 2048  # long beside a launch, and many waves of a GPU's processors
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torchs, ours = (2 * size ** 3 / best(job, 10, device) for job in (lambda: a @ b, lambda: linear(a, b)))
    return torchs, max(torchs, ours)


def copy_rate(device):
    """Bytes a second of a copy, read and written bytes counted; the best of several."""
    size = 2**31 if device.type == "cuda" else 2**28
    a = torch.empty(size, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * size / best(lambda: b.copy_(a), 5, device)


def body_size(config):
    """Weights in the matrix products that every token passes: all but embedding and head."""
    c = config
    attention = c.hidden_size * c.head_dim * 2 * (c.num_attention_heads + c.num_key_value_heads)
    return c.num_hidden_layers * (attention + 3 * c.hidden_size * c.intermediate_size)


def forward_flops(config, fed, predicted, seen):
    """Floating-point operations that a forward pass needs: 2 a weight a token, the head only where one is predicted;
    attention 4 H Dh for each pair of a token and one it sees, itself included. A backward pass needs twice that.

    fed, predicted: tokens; seen: pairs.
    """
    pairs = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * seen
    return 2 * body_size(config) * fed + 2 * config.hidden_size * config.vocab_size * predicted + pairs


def group_flops(config, prompt, responses):
    """forward_flops of one prompt of so many tokens with responses of the given lengths, the prompt computed once."""
    seen = prompt * (prompt + 1) / 2 + sum((n - 1) * prompt + n * (n - 1) / 2 for n in responses)
    return forward_flops(config, prompt + sum(n - 1 for n in responses), sum(responses), seen)


class Counted(sampler.Step):
    """A decode step that counts its rows and, with `hazard`, ends rollouts with token 0 at random so that their lengths
    follow a given distribution: hazard[t] is the chance that a rollout still running ends at its token t."""

    hazard, generator, steps, rows = None, None, 0, 0

    def __call__(self, token, positions, cache):
        logits = super().__call__(token, positions, cache)
        Counted.rows += len(token)
        Counted.steps += 1
        if self.hazard is not None:
            chance = torch.rand(len(token), device=token.device, generator=self.generator)
            logits[:, 0] = torch.where(chance < self.hazard[self.steps], 1e9, -1e9)
        return logits


def lognormal_hazard(limit):
    """`limit` chances of ending at each token, of a log-normal length with median 0.4 limit, cut at the limit."""
    upto = [0.5 * (1 + math.erf(math.log((t + 1) / (0.4 * limit)) / SPREAD / 2 ** 0.5)) for t in range(limit)]
    survival = [1.0] + [1 - p for p in upto]
    return [min(max(1 - b / a, 1e-6), 1 - 1e-6) for a, b in zip(survival, survival[1:])]


def random_prompts(config, args):
    generator = np.random.default_rng(0)
    return [generator.integers(3, config.vocab_size, args.prompt_tokens).tolist() for _ in range(args.prompts)]


def build(args, device):
    return init_model(PRESETS[args.preset], device=device).to(getattr(torch, args.dtype)).eval()


def hf_model(model, device, directory):
    """The same weights as transformers' class, by way of a directory (which TRL reads again, for its reference)."""
    from transformers import AutoModelForCausalLM
    save_model(directory, model.config, dict(model.named_parameters()), [2], 2)
    return AutoModelForCausalLM.from_pretrained(directory, dtype=next(model.parameters()).dtype).to(device).eval()


def hf_job(model, prompts, group, lengths, limit, device):
    """A call of transformers' generate whose rows end after `lengths` tokens (None: all at the limit)."""
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

    class EndAt(LogitsProcessor):
        def __call__(self, ids, scores):
            ends = ends_at == ids.shape[1] - len(prompts[0]) + 1
            scores[:, 0] = torch.where(ends, 1e9, -1e9)
            return scores

    processors = LogitsProcessorList()
    if lengths:
        ends_at = torch.tensor(lengths, device=device)
        processors.append(EndAt())
    ids = torch.tensor(prompts, device=device)
    model.generation_config.eos_token_id = None
    settings = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=group,
                                eos_token_id=0 if lengths else None, pad_token_id=1)

    def job(new_tokens=limit):
        settings.max_new_tokens = new_tokens
        with torch.no_grad():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings,
                                  logits_processor=processors)
        asked = min(new_tokens, max(lengths or [limit]))
        assert made.shape[1] - len(prompts[0]) == asked, "the peer made another number of tokens"
    return job


def bench_sampler(args, device):
    model, limit = build(args, device), args.new_tokens
    sampler.Step = Counted
    config, prompts, total = model.config, random_prompts(model.config, args), args.prompts * args.group
    seeds = [[(b, g) for g in range(args.group)] for b in range(args.prompts)]
    with tempfile.TemporaryDirectory() as directory:
        peer = hf_model(model, device, directory) if args.peer else None
    (torchs, rate), bandwidth = matmul_rate(device, next(model.parameters()).dtype), copy_rate(device)
    out = {"torch_matmul_gflops": torchs / 1e9, "matmul_gflops": rate / 1e9, "copy_gb_per_s": bandwidth / 1e9}
    for name in ("fixed", "spread"):
        Counted.hazard = lognormal_hazard(limit) if name == "spread" else None
        eos = {0} if name == "spread" else {config.vocab_size}

        def ours(new_tokens=limit):
            Counted.rows, Counted.steps, Counted.generator = 0, 0, torch.Generator(device).manual_seed(0)
            ours.rollouts = [r for g in generate(model, prompts, seeds, new_tokens, eos) for r in g]

        ours()
        lengths, rows = [len(r.ids) for r in ours.rollouts], Counted.rows
        jobs = {"ours": ours, "prefill": lambda: ours(1)}
        if peer:
            jobs["hf"] = hf_job(peer, prompts, args.group, lengths if name == "spread" else None, limit, device)
            jobs["hf"](min(limit, WARM))
        seconds = take_turns(jobs, args.rounds, device)
        s = {job: statistics.median(times) for job, times in seconds.items()}
        tokens, steps = sum(lengths), max(lengths) - 1
        own = [lengths[i:i + args.group] for i in range(0, total, args.group)]
        work = sum(group_flops(config, args.prompt_tokens, group) for group in own)
        row = {"tokens": tokens, "tokens_per_s": tokens / s["ours"], "prefill_ms": 1e3 * s["prefill"],
               "decode_step_ms": 1e3 * (s["ours"] - s["prefill"]) / steps,
               "useful_row_steps": (tokens - total) / rows, "share_of_matmul_rate": work / rate / s["ours"]}
        if peer:
            row |= {"ratio_to_hf": s["hf"] / s["ours"], "hf_tokens_per_s": tokens / s["hf"],
                    "ratios": [b / a for a, b in zip(seconds["ours"], seconds["hf"])]}
        if device.type == "cuda":
            size = next(model.parameters()).element_size()
            slot = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size
            count, decode = sum(p.numel() for p in model.parameters()), s["ours"] - s["prefill"]
            read, floors = size * count / bandwidth, []
            for t in range(1, steps + 1):  # a step's rows are those that have a token t; they read t slots each
                rows = sum(n > t for n in lengths)
                cache = slot * (args.prompts * args.prompt_tokens + t * rows) / bandwidth
                # where rows are many, their products with the weights take longer than reading those
                floors.append((read + cache, max(read, 2 * count * rows / rate) + cache))
            row["share_of_bandwidth_floor"], row["share_of_floor_with_products"] = (
                sum(x) / decode for x in zip(*floors))
        out[name] = row
    return out


def step_parts(args, processes):
    """A whole CRPO step on fixed shapes -> a function that makes one and returns the seconds of its phases.

    Its arguments: of the first `count` prompts; with `own`, reference and update are then done again with a prompt of
    its own for each rollout (one token differs), so that none is computed once for a group.
    """
    gc.collect()  # FSDP's hooks keep a model of before in cycles
    config = train_crpo.Config(beta=0.001, target_kl=0.0, entropy_bonus=0.0,  # as the peer
                               micro_tokens=args.micro_tokens)
    policy = init_model(PRESETS[args.preset], device=processes.device)
    policy.checkpoint_layers = args.checkpoint_layers
    policy = run.shard(policy, processes)
    reference, actor = run.sharded_copy(policy, processes), run.full_copy(policy.config, processes)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=True)
    prompts = random_prompts(policy.config, args)
    seeds = [[(b, g) for g in range(args.group)] for b in range(args.prompts)]
    tokenizer = Tokenizer(train_crpo.ASSET, policy.config.vocab_size)
    [question] = clinic.make_questions(1, seed=0)
    advantage = torch.randn(args.prompts * args.group, generator=torch.Generator().manual_seed(0))
    advantage = advantage.to(processes.device)

    def step(count=args.prompts, own=False):
        cuda = processes.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        times = [clock(processes.device)]
        run.copy_weights(policy, actor)
        groups = generate(actor, prompts[:count], seeds[:count], args.new_tokens, {policy.config.vocab_size})
        times.append(clock(processes.device))
        for group in groups:
            for rollout in group:
                rewards.score(tokenizer.decode([t % tokenizer.size for t in rollout.ids]), question)
        times.append(clock(processes.device))
        for apart in (False, True) if own else (False,):
            batch = [([g, *p[1:]] if apart else p, r) for p, group in zip(prompts, groups) for g, r in enumerate(group)]
            ref_logprob = train_crpo.reference_logprobs(reference, batch, config, processes)
            times.append(clock(processes.device))
            train_crpo.update(policy, optimizer, batch, advantage, ref_logprob, config.beta, config, processes)
            times.append(clock(processes.device))
            if cuda and not apart:
                step.peak = torch.cuda.max_memory_allocated()
        return dict(zip(("sample", "score", "reference", "update", "own reference", "own update"),
                        (b - a for a, b in zip(times, times[1:]))))

    return step


def bench_step(args, device):
    processes = run.start(dtype=args.dtype)
    config, total = PRESETS[args.preset], args.prompts * args.group
    step, rows = step_parts(args, processes), []
    torchs, rate = matmul_rate(device, processes.dtype)
    step(min(args.prompts, 8), own=True)
    peer, ours = [], lambda: rows.append(step(own=True))
    if args.peer:
        peer = trl_seconds(args, ours)
    else:
        for _ in range(args.rounds):
            ours()
    median = {phase: statistics.median(row[phase] for row in rows) for phase in rows[0]}
    own = {phase: median.pop(f"own {phase}") for phase in ("reference", "update")}
    steps = [sum(row[phase] for phase in median) for row in rows]
    whole = statistics.median(steps)
    forward = args.prompts * group_flops(config, args.prompt_tokens, [args.new_tokens] * args.group)
    out = {"torch_matmul_gflops": torchs / 1e9, "matmul_gflops": rate / 1e9,
           "seconds": whole, "seconds_by_phase": median,
           "tokens_per_s": total * (args.prompt_tokens + args.new_tokens) / whole,
           "update_share_of_matmul_rate": 3 * forward / rate / median["update"],
           "update_share_of_torch_matmul_rate": 3 * forward / torchs / median["update"],
           "step_share_of_matmul_rate": 5 * forward / rate / whole,
           "shared_prompt": {"ratio": sum(own.values()) / (median["reference"] + median["update"]),
                             "update_ratio": own["update"] / median["update"], "update_without": own["update"]}}
    if device.type == "cuda":
        out["peak_gb"] = step.peak / 1e9
    if peer:
        out |= {"ratio_to_trl": statistics.median(peer) / whole, "trl_seconds": statistics.median(peer),
                "trl_runs": peer, "our_runs": steps}
    run.stop()
    return out


def trl_seconds(args, between):
    """Seconds of each step of TRL's GRPOTrainer on the same shapes after a warm-up; `between` runs between them."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(train_crpo.ASSET) / "tokenizer.json"),
                                        eos_token="<|im_end|>", pad_token="<|endoftext|>")
    word = next(t for t in (" fever", " cough", "a") if len(tokenizer(t)["input_ids"]) == 1)
    prompts = [{"prompt": word * args.prompt_tokens} for _ in range(args.prompts)]
    seconds = []

    class Turns(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.start = time.perf_counter()

        def on_step_end(self, *_, **__):
            seconds.append(time.perf_counter() - self.start)
            between()

    with tempfile.TemporaryDirectory() as directory:
        model = hf_model(init_model(PRESETS[args.preset]), "cpu", directory)
        settings = GRPOConfig(output_dir=directory, per_device_train_batch_size=args.prompts * args.group,
                              num_generations=args.group, max_completion_length=args.new_tokens, beta=0.001,
                              num_iterations=1, temperature=1.0, max_steps=args.rounds + 1, learning_rate=1e-6,
                              gradient_checkpointing=False, bf16=args.dtype == "bfloat16", report_to=[],
                              save_strategy="no", logging_strategy="no", disable_tqdm=True,
                              use_cpu=not torch.cuda.is_available(),
                              generation_kwargs={"min_new_tokens": args.new_tokens})
        trainer = GRPOTrainer(model=model, args=settings, processing_class=tokenizer, callbacks=[Turns()],
                              train_dataset=Dataset.from_list(prompts),
                              reward_funcs=lambda completions, **_: [float(len(set(c))) for c in completions])
        trainer.train()
    return seconds[1:]


def plan(config, gpus, prompt_tokens, new_tokens, rows, micro_tokens, checkpoint_layers, group, half=True):
    """Bytes that each of `gpus` processes holds in a CRPO step, by name. rows: rollouts in flight while sampling;
    micro_tokens: tokens at once while training; half: computes in bfloat16 on a GPU, else in float32.

    Sharded, in float32: parameters, AdamW's two moments, the reference. Whole, in the compute dtype: the sampler's
    copy. Then the larger of the two phases, which do not overlap. Sampling: the cache of rows in flight. Training: the
    gradients, sharded, in float32; activations kept for the backward pass; attention's mask; the layer that is
    gathered, and the embedding with its gradient (one process copies them all the same); one chunk of logits, as
    probabilities, and of those in passing their logarithms and a product of both. Not counted, as small: a CPU's packed
    weights of the sampler, what fills a pass up to a multiple of WHOLE tokens, and on CUDA what fills the cache up to
    WINDOW slots a row, and a graph's memory, which is a decode step's.
    """
    c, size = config, 2 if half else 4
    weights = body_size(c) + c.vocab_size * c.hidden_size * (1 if c.tie_word_embeddings else 2)
    heads, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    slot = 2 * c.num_hidden_layers * kv * size
    # kept by a layer for one token: what two norms read, make and weight; what attention asks and yields, by a mask
    # also after it is put in rows; keys and values, the prompt's once more for each response; the MLP's three products
    context, group_tokens = prompt_tokens + new_tokens, prompt_tokens + group * new_tokens
    keys = 2 * kv * group * context / group_tokens
    layer = size * (6 * c.hidden_size + (2 if half else 3) * heads + keys + 3 * c.intermediate_size)
    if c.model_type == "qwen3":  # and of two norms more
        layer += size * 3 * (heads + kv)
    kept = c.num_hidden_layers * c.hidden_size * size + layer if checkpoint_layers else c.num_hidden_layers * layer
    largest = body_size(c) // c.num_hidden_layers
    predicted = micro_tokens * group * new_tokens / group_tokens
    logits = min(LOGITS_AT_ONCE, predicted * c.vocab_size)
    passing = logits if logits == LOGITS_AT_ONCE else min(logits, TOKENS_AT_ONCE * c.vocab_size)
    mask = predicted * context * (1 + size * c.num_attention_heads / c.num_key_value_heads)  # as bool and as added
    mask *= not half  # flash attention has none
    held = {"parameters": 4 * weights / gpus, "optimizer": 8 * weights / gpus, "reference": 4 * weights / gpus,
            "sampler copy": size * weights}
    apart = min(group, 2) * context  # of a prompt whose last rows have it for themselves (model.Cache)
    sampling = {"cache": slot * rows / group * max(group_tokens, apart), "sampler logits": 12 * rows * c.vocab_size}
    gathered = size * (2 * largest + c.vocab_size * c.hidden_size) + 4 * c.vocab_size * c.hidden_size
    training = {"gradients": 4 * weights / gpus, "activations": (kept + 3 * c.hidden_size * size) * micro_tokens,
                "mask": mask, "gathered": gathered, "logits chunk": 4 * logits + 8 * passing}
    return held, sampling, training


def bench_plan(args, _):
    config = PRESETS[args.preset]
    new = args.context - args.prompt_tokens
    if new < 1:
        raise ValueError("--context must be more than --prompt-tokens")
    args.new_tokens, args.dtype = new, "bfloat16"  # for the record
    held, sampling, training = plan(config, args.gpus, args.prompt_tokens, new, args.rows, args.micro_tokens, True,
                                    args.group)
    peak = sum(held.values()) + max(sum(sampling.values()), sum(training.values()))
    gib = {f"{name} (GiB)": value / 2**30 for part in (held, sampling, training) for name, value in part.items()}
    return {"fits": peak < 0.92 * args.gpu_memory * 1e9, **gib, "peak (GiB)": peak / 2**30,
            "share of the GPU": peak / (args.gpu_memory * 1e9)}


def peak_bytes(job, device):
    """The most bytes that tensors made by job() held at once: of CUDA's allocator, or of the CPU's as torch's profiler
    saw it (the process's resident memory would count libraries, and pages that malloc keeps, as well)."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        job()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        job()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def logprobs_peak(vocab_size, tokens, device):
    """Peak of the log-probabilities of one response and their backward pass, of a model that is little but its head."""
    model = init_model(ModelConfig("qwen2", vocab_size, 8, 8, 1, 1, 1, 8), device=device)
    packed = Packed([[1]], [[i % 7 for i in range(tokens)]], device)
    packed.attend = lambda layer, q, k, v: q  # its mask grows with the square of the tokens
    return peak_bytes(lambda: model.token_logprobs(packed)[0].sum().backward(), device)


def bench_memory(args, device):
    processes = run.start(dtype=args.dtype)

    def steps(prompts, rounds):
        step = step_parts(argparse.Namespace(**{**vars(args), "prompts": prompts}), processes)
        return [sum(step().values()) for _ in range(rounds)]

    config, group_tokens = PRESETS[args.preset], args.prompt_tokens + args.group * args.new_tokens
    micro = min(args.prompts * group_tokens, args.micro_tokens)
    held, sampling, training = plan(config, 1, args.prompt_tokens, args.new_tokens, args.prompts * args.group, micro,
                                    args.checkpoint_layers, args.group, half=args.dtype == "bfloat16")
    planned = sum(held.values()) + max(sum(sampling.values()), sum(training.values()))
    out = {"microseconds a token of a step, by prompts": {
        n: 1e6 * statistics.median(steps(n, args.rounds + 1)[1:]) / (n * group_tokens) for n in args.by_prompts}}
    measured = peak_bytes(lambda: steps(args.prompts, 2), device)  # AdamW's moments are there from the second on
    chunk = LOGITS_AT_ONCE // 151936
    out |= {"measured (GiB)": measured / 2**30, "planned (GiB)": planned / 2**30, "ratio": measured / planned,
            f"peak of log-probabilities by tokens, V = 151936, {chunk} tokens a chunk (MiB)": {
                n: logprobs_peak(151936, n, device) / 2**20 for n in (512, 1024, 2048, 4096)},
            "peak of log-probabilities of 4096 tokens by V (MiB)": {
                v: logprobs_peak(v, 4096, device) / 2**20 for v in (18992, 37984, 75968, 151936)}}
    run.stop()
    return out


def shown(value, indent=0):
    for name, item in value.items():
        if isinstance(item, dict):
            print(" " * indent + f"{name}:")
            shown(item, indent + 2)
        elif not isinstance(item, list):
            print(" " * indent + f"{name:<{34 - indent}}" + (f"{item:,.3f}" if isinstance(item, float) else str(item)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    jobs = {"sampler": bench_sampler, "step": bench_step, "memory": bench_memory, "plan": bench_plan}
    parser.add_argument("what", choices=list(jobs))
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny", help="shape; weights are random")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="none: cuda where there is one")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="what is computed in, by the peer too; none: "
                        "bfloat16 on CUDA, float32 on the CPU (plan: always bfloat16)")
    parser.add_argument("--peer", choices=list(LIBRARIES), help="beside whom: hf for sampler, trl for step")
    parser.add_argument("--json", help="write the numbers into this file as well")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8, help="rollouts a prompt")
    parser.add_argument("--prompt-tokens", type=int, default=160)
    parser.add_argument("--new-tokens", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each")
    parser.add_argument("--gpus", type=int, default=8, help="plan: processes")
    parser.add_argument("--gpu-memory", type=float, default=48, help="plan: GB of each")
    parser.add_argument("--context", type=int, default=5120, help="plan: prompt and response tokens")
    parser.add_argument("--rows", type=int, default=80, help="plan: rollouts in flight (--max-rows)")
    parser.add_argument("--micro-tokens", type=int, default=4096, help="step, memory, plan: tokens at once in training")
    parser.add_argument("--checkpoint-layers", action="store_true",
                        help="step, memory: layers are computed again in the backward pass (plan: they always are)")
    parser.add_argument("--by-prompts", type=int, nargs="*", default=[4, 8, 16, 32], help="memory: also time these")
    args = parser.parse_args()
    if args.peer and args.peer != {"sampler": "hf", "step": "trl"}.get(args.what):
        raise ValueError(f"--peer {args.peer} does not go with {args.what}")
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(args.device)
    args.dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    try:
        result = jobs[args.what](args, device)
    except ModuleNotFoundError as error:
        raise ValueError(f"--peer {args.peer} needs {error.name}: pip install {LIBRARIES.get(args.peer)}") from None
    result = {**result, "settings": {k: v for k, v in vars(args).items() if k != "json"}, "machine": machine(device)}
    shown({k: v for k, v in result.items() if "ratio" in k} | result)
    if args.json:
        Path(args.json).parent.mkdir(exist_ok=True)
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        run.fail(error, "--checkpoint-layers, a smaller --micro-tokens, --prompts or --new-tokens")
