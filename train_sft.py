"""Cold start: supervised fine-tuning on a teacher's responses, loss on the response only.

    python train_sft.py --model Qwen2.5-3B-Instruct/ --data cold_start.jsonl --out cold/

Data: JSON lines of a question and a `response` (data.py, the project's own format). The verifiers can filter them.
A held-out part decides when to stop; the weights that did best on it are saved.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import rewards
import run
from data import PROMPTS, Tokenizer, load_responses, prompt_ids
from model import Packed
from run import dtype_option, option


@dataclass
class Config:
    """The whole configuration; every field is a flag."""

    out: str = option("ckpt", "run directory; it is itself a Hugging Face model directory")
    model: str = option(str(Path(__file__).parent / "assets" / "tiny"), "model directory, or a preset's name")
    tokenizer: str = option("", "tokenizer directory, where it is not the model's")
    data: list = option([], "files of questions with responses")
    objective: str = option("crpo", "whose prompt is answered, where a row does not say", choices=[*PROMPTS])
    require_right: bool = option(False, "drop responses whose answer is wrong")
    require_form: bool = option(False, "drop responses that are not of their objective's form")
    mcqa_zero_based: bool = option(False, "MedMCQA's cop counts from 0, as in its parquet export")
    skip_bad_rows: bool = option(False, "count and list bad rows instead of stopping")
    save_every: int = option(100, "updates between two saved states, from which the same command goes on; 0: none")
    fresh: bool = option(False, "start anew where --out holds an unfinished run, which is moved aside")
    shard_within: int = option(0, "processes that share one copy of the weights, as a machine's GPUs; 0: all")
    dtype: str = dtype_option()
    seed: int = option(0, "fixes the held-out part and the order")
    steps: int = option(0, "updates; 0: as many as --epochs asks for")
    epochs: float = option(1.0, "passes over the data, where --steps is 0")
    batch: int = option(16, "sequences an update, over all processes", least=1)
    micro_batch: int = option(16, "sequences that pass through the model at once", least=1)
    checkpoint_layers: bool = option(False, "recompute layers in the backward pass, to save memory")
    max_tokens: int = option(4096, "longer sequences are left out, and counted", least=1)
    lr: float = option(1e-4, "peak learning rate; cosine to a tenth of it")
    warmup: int = option(20, "updates of linear warm-up")
    weight_decay: float = option(0.01, "of AdamW")
    grad_clip: float = option(1.0, "largest gradient norm")
    holdout: float = option(0.02, "share of the data held out for early stopping; 0: none", most=0.9)
    holdout_every: int = option(100, "updates between two looks at it", least=1)
    patience: int = option(5, "looks without a better loss before stopping", least=1)


def load_sequences(config, tokenizer, context):
    """([(prompt ids, response ids, question id)] of --data after filtering, a line on what was dropped and why).

    Rows of the same stem and options bear the first one's id, as the published formats give every row its own."""
    kept, ids, wrong, formless, long = [], {}, 0, 0, 0
    limit = min(config.max_tokens, context)
    for path in config.data:
        for question, response, objective in load_responses(path, config.skip_bad_rows, config.mcqa_zero_based):
            objective = objective or config.objective
            form = rewards.thinking if objective == "grpo" else rewards.clinical
            if config.require_right and not rewards.accuracy(response, question):
                wrong += 1
            elif config.require_form and not form(response, question):
                formless += 1
            else:
                prompt = prompt_ids(tokenizer, question, objective)
                target = tokenizer.encode(response) + [tokenizer.end_id]
                if len(prompt) + len(target) > limit:
                    long += 1
                else:
                    content = (question.stem, *question.options.values())
                    kept.append((prompt, target, ids.setdefault(content, question.id)))
    counts = f"{len(kept)} responses kept; dropped: {wrong} wrong, {formless} without form, {long} over {limit} tokens"
    return kept, counts


def sequence_loss(model, rows, device):
    """Sum of the negative log-likelihood over the response tokens of rows."""
    packed = Packed([p for p, _, _ in rows], [r for _, r, _ in rows], device)
    logprob, _ = model.token_logprobs(packed, entropy=False)
    return -logprob.sum()


def total_loss(model, rows, config, processes):
    """Mean loss a response token over `rows`, shared by the processes and their micro-batches; gradients as they sum.

    Every process makes the same number of passes, as sharded models require: who has run out repeats a row at weight 0.
    """
    tokens = sum(len(r) for _, r, _ in rows)
    mine = rows[processes.rank::processes.world]
    passes = math.ceil(math.ceil(len(rows) / processes.world) / config.micro_batch)
    total = torch.zeros((), dtype=torch.float64, device=processes.device)  # read once, so that no pass waits for a GPU
    for i in range(passes):
        part = mine[i * config.micro_batch:(i + 1) * config.micro_batch]
        loss = sequence_loss(model, part or rows[:1], processes.device) * bool(part)
        if torch.is_grad_enabled():
            (loss / tokens * processes.world).backward()  # FSDP averages over processes; the sum is wanted
        total += loss.detach()
    return processes.sum([total.item()])[0] / tokens


def main(config):
    if not config.data:
        raise ValueError("--data: give at least one file of questions with responses")
    processes = run.start(config.shard_within, config.dtype)
    model, tokenizer_files = run.resolve_model(config.model, config.tokenizer, config.seed)
    tokenizer = Tokenizer(config.tokenizer or config.model, model.config.vocab_size)
    sequences, counts = load_sequences(config, tokenizer, model.config.max_position_embeddings)
    processes.say(counts)
    ids = sorted({row[2] for row in sequences})  # by question, so that no question is on both sides
    shuffled = np.random.default_rng((config.seed, 0)).permutation(len(ids))
    held = {ids[i] for i in shuffled[:math.ceil(config.holdout * len(ids))]}
    held_out, train = ([row for row in sequences if (row[2] in held) == side] for side in (True, False))
    processes.say(f"{len(train)} to train on, {len(held_out)} held out")
    if not train:
        raise ValueError("no response is left to train on")
    batch = min(config.batch, len(train))
    steps = config.steps or math.ceil(config.epochs * len(train) / batch)
    if not steps:
        raise ValueError("--steps 0 and --epochs 0 leave nothing to train")
    directory = run.RunDirectory(config.out, config, processes, tokenizer_files, sequences)
    model.checkpoint_layers = config.checkpoint_layers
    model = run.shard(model, processes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)

    def rate(i):
        warm = min(1.0, (i + 1) / max(config.warmup, 1))
        return warm * (0.55 + 0.45 * math.cos(math.pi * i / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    best = run.sharded_copy(model, processes) if held_out else None
    first, best_loss, looks = 0, math.inf, 0
    if directory.continued:
        values = directory.load_state(model, optimizer, schedule, best)
        first, best_loss, looks = values["step"], values["best_loss"], values["looks"]
    stopping = run.catch_signals()
    bar = tqdm(range(first, steps), initial=first, total=steps, disable=not processes.main, dynamic_ncols=True)
    for step in bar:
        start = time.perf_counter()
        epoch, offset = divmod(step * batch, len(train))
        shuffled = [np.random.default_rng((config.seed, 1, e)).permutation(len(train)) for e in (epoch, epoch + 1)]
        rows = [train[i] for i in np.concatenate(shuffled)[offset:offset + batch]]
        loss = total_loss(model, rows, config, processes)
        norm, finite = run.step_if_finite(model, optimizer, loss, config.grad_clip)
        row = {"step": step + 1, "loss": loss, "grad_norm": norm, "lr": schedule.get_last_lr()[0]}
        row["nonfinite"] = int(not finite)
        schedule.step()
        if held_out and ((step + 1) % config.holdout_every == 0 or step + 1 == steps):
            with torch.no_grad():
                row["holdout_loss"] = total_loss(model, held_out, config, processes)
            looks += 1
            if row["holdout_loss"] < best_loss:
                run.copy_shards(model, best)
                best_loss, looks = row["holdout_loss"], 0
        row["seconds"] = time.perf_counter() - start
        offending = [] if finite else [{"step": step + 1, "question": q, "nonfinite": True} for _, _, q in rows]
        directory.log(row, offending if processes.main else [])
        bar.set_postfix_str(f"loss {loss:.3f}" + (f" best held-out {best_loss:.3f}" if best_loss < math.inf else ""))
        if held_out and looks >= config.patience:
            processes.say(f"stopped at step {step + 1}: no better held-out loss in {looks} looks")
            break
        values = {"best_loss": best_loss, "looks": looks}
        directory.keep_state(model, optimizer, schedule, step + 1, steps, values, stopping(), best)
    if best_loss < math.inf:
        run.copy_shards(best, model)
        processes.say(f"best held-out loss {best_loss:.4f}")
    directory.save(model, tokenizer)
    processes.say(f"next: python eval.py {config.out}\n"
                  f"  or: python train_crpo.py --model {config.out} --out {Path(config.out)}-crpo")
    run.stop()


if __name__ == "__main__":
    run.script(main, Config, __doc__, "a smaller --micro-batch or --max-tokens; --checkpoint-layers")
