"""Where the time of a step goes, operation by operation: of one decode step against caches that are half full, of the
draw, and of one update, by torch's profiler.

    python experiments/profile_step.py --preset Qwen2.5-3B --prompts 64 --group 5 --prompt-tokens 300 \\
        --new-tokens 1300 --micro-tokens 8192

Weights, caches and tokens are random. On CUDA a decode step is a graph's replay. The update takes as many prompts as
pass together (--micro-tokens), twice before it is profiled.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))
import bench  # noqa: E402
import run  # noqa: E402
import train_crpo  # noqa: E402
from model import PRESETS, Cache, init_model  # noqa: E402
from sampler import Rollout, Step, draw  # noqa: E402


def shown(name, job, device, repeats=1):
    """Print what a call of job() takes (after two more), and its operations by their own time."""
    job(), job()
    start = bench.clock(device)
    for _ in range(repeats):
        job()
    print(f"\n{name}: {1e3 * (bench.clock(device) - start) / repeats:.3f} ms", flush=True)
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        job()
        bench.clock(device)
    own = f"self_{'device' if cuda else 'cpu'}_time_total"
    print(seen.key_averages().table(sort_by=own, row_limit=25, max_name_column_width=70))


@torch.inference_mode()
def decoding(args, device, dtype):
    model = init_model(PRESETS[args.preset], device=device).to(dtype).eval()
    rows, half = args.prompts * args.group, args.new_tokens // 2
    step = Step(model, args.prompt_tokens + args.new_tokens)
    cache = Cache(torch.full((args.prompts,), args.prompt_tokens, device=device), args.prompt_tokens)
    ids = torch.randint(0, model.config.vocab_size, (args.prompts, args.prompt_tokens), device=device)
    for part in torch.arange(args.prompts, device=device).split(max(1, 8192 // args.prompt_tokens)):
        model(ids[part], attend=lambda layer, q, k, v, part=part: cache.prefill(part, layer, q, k, v), last=part * 0)
    cache.fork(torch.arange(args.prompts, device=device).repeat_interleave(args.group), args.new_tokens)
    for slots in cache.response:
        slots[..., :half, :].normal_()
    cache.ahead[..., :half] = 0
    token = torch.zeros(rows, dtype=torch.long, device=device)
    positions = token + args.prompt_tokens + half

    def decode():
        cache.length = half
        return step(token, positions, cache)

    shown(f"a decode step of {rows} rows, {half} of {args.new_tokens} slots in use", decode, device, 10)
    logits, u = decode(), torch.rand(rows, device=device)
    shown(f"a draw of {rows} tokens", lambda: draw(logits, u), device, 10)


def updating(args, processes):
    policy = run.shard(init_model(PRESETS[args.preset], device=processes.device), processes)
    policy.checkpoint_layers = args.checkpoint_layers
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=True)
    config = train_crpo.Config(micro_tokens=args.micro_tokens, entropy_bonus=0.0)
    group_tokens = args.prompt_tokens + args.group * args.new_tokens
    prompts = max(1, min(args.prompts, args.micro_tokens // group_tokens))
    tokens = torch.randint(3, policy.config.vocab_size, (prompts, group_tokens)).tolist()
    batch = [(row[:args.prompt_tokens], Rollout(row[i:i + args.new_tokens], [-1.0] * args.new_tokens, False))
             for row in tokens for i in range(args.prompt_tokens, group_tokens, args.new_tokens)]
    advantage = torch.ones(len(batch), device=processes.device)
    shown(f"an update of {prompts} prompts, {prompts * group_tokens} tokens", lambda: train_crpo.update(
        policy, optimizer, batch, advantage, None, 0.0, config, processes), processes.device)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny")
    for name, default in (("prompts", 8), ("group", 8), ("prompt-tokens", 160), ("new-tokens", 160),
                          ("micro-tokens", 4096)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--checkpoint-layers", action="store_true")
    args = parser.parse_args()
    processes = run.start()
    print(bench.machine(processes.device))
    decoding(args, processes.device, processes.dtype)
    updating(args, processes)
    run.stop()


if __name__ == "__main__":
    main()
