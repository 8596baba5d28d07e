"""Evaluation: sample answers, score them, vote, aggregate with intervals.

    python eval.py ckpt/
    python eval.py ckpt/ --data medqa_test.jsonl medmcqa_dev.json medxpertqa.jsonl --votes 5

Prompt, sampler and answer extractor are training's; the temperature is 1 unless said otherwise. Every rate is over all
questions: an answer that cannot be read, a response that was cut and a prompt that did not fit are wrong answers, never
left out (PAPER.md, trap 7).
The behaviours and faithfulness measures are rewards.py's verifiers by rule, where the paper asks a language model.

Written to DIR/eval/: NAME.json (the table) and NAME.responses.jsonl (every response with its scores).
"""

import argparse
import json
import math
from collections import Counter
from pathlib import Path

import clinic
import rewards
import run
from checkpoint import write_json
from data import encode_prompts, load_questions, load_tokenizer
from sampler import generate


def wilson(right, n, z=1.96):
    """The 95% score interval (Wilson 1927) of a proportion right / n -> (low, high). `right` may be fractional."""
    if n == 0:
        return 0.0, 1.0
    p = right / n
    centre = p + z * z / (2 * n)
    margin = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - margin) / (1 + z * z / n)), min(1.0, (centre + margin) / (1 + z * z / n))


def majority(answers):
    """The most frequent answer; None does not vote; among equals the one drawn first. All None -> None."""
    votes = Counter(a for a in answers if a is not None)
    return votes.most_common(1)[0][0] if votes else None


def judge(text, rollout, question):
    """One response's row: its answer, every objective, every measure, for the clinic also the exact audit."""
    row = {"text": text, "length": len(rollout.ids), "finished": rollout.finished,
           "answer": rewards.extract_answer(text, question.options),
           **rewards.score(text, question), **rewards.measures(text, question)}
    if question.source == "clinic":
        row |= {f"audit_{name}": value for name, value in clinic.audit(text, question).items()}
    return row


def aggregate(rows, objective):
    """The table of a data set from its question rows ({"question", "key", "answer", "responses"}).

    accuracy: the share of right responses, over all questions and samples; its interval counts each question once.
    majority: the share of questions whose majority answer is right. Other entries: means over all responses sampled.
    """
    n = len(rows)
    tried = [row["responses"] for row in rows if row["responses"]]
    responses = [r for group in tried for r in group]
    right = sum(sum(r["accuracy"] for r in group) / len(group) for group in tried)
    table = {"questions": n, "too_long": n - len(tried), "right": right,
             "accuracy": right / max(n, 1), "accuracy_interval": wilson(right, n)}
    voted = sum(row["answer"] == row["key"] for row in rows)
    table |= {"majority": voted / max(n, 1), "majority_interval": wilson(voted, n)}
    table["answered"] = sum(sum(r["answer"] is not None for r in group) / len(group) for group in tried) / max(n, 1)
    if responses:
        skip = ("text", "answer", "accuracy")
        for name in responses[0]:
            if name not in skip:
                table[name] = sum(float(r[name]) for r in responses) / len(responses)
        weights = rewards.WEIGHTS[objective]
        table["reward"] = sum(rewards.total({k: r[k] for k in weights}, weights) for r in responses) / len(responses)
        cited = sum(r["citations"] for r in responses)
        table["hallucination_share"] = sum(r["hallucination"] for r in responses) / max(cited, 1)
    return table


def evaluate(model, tokenizer, questions, objective, processes, max_new_tokens, temperature=1.0, votes=1, top_p=1.0,
             top_k=0, seed=0, max_rows=0):
    """Answer every question `votes` times on an unsharded model and score the answers; processes share the questions.

    -> aggregate()'s table, with "rows" (one a question, in order) and "example" (the first question answered, and its
    response) beside it. ValueError if no prompt fits into the context beside max_new_tokens.
    """
    limit = model.config.max_position_embeddings - max_new_tokens
    prompts = encode_prompts(tokenizer, questions, objective, limit)
    mine = [i for i in range(processes.rank, len(questions), processes.world) if prompts[i] is not None]
    seeds = [[(seed, i, vote, 0, 1) for vote in range(votes)] for i in mine]  # the last two part them from training's
    groups = generate(model, [prompts[i] for i in mine], seeds, max_new_tokens, tokenizer.eos_ids, temperature, top_p,
                      top_k, max_rows)
    done = {}
    for i, group in zip(mine, groups):
        texts = [tokenizer.decode(r.ids[:-1] if r.finished else r.ids) for r in group]
        done[i] = [judge(text, rollout, questions[i]) for text, rollout in zip(texts, group)]
    done = {i: responses for part in processes.gather(done) for i, responses in part.items()}
    rows = []
    for i, question in enumerate(questions):
        responses = done.get(i, [])
        rows.append({"question": question.id, "key": question.answer, "responses": responses,
                     "answer": majority([r["answer"] for r in responses])})
    if not any(row["responses"] for row in rows):
        raise ValueError(f"none of the {len(rows)} prompts fits into {limit} tokens; lower --max-new-tokens")
    example = next((q, row["responses"][0]["text"]) for q, row in zip(questions, rows) if row["responses"])
    return {**aggregate(rows, objective), "rows": rows, "example": example}


def print_tables(tables):
    """One column a data set, one line a measure."""
    names = dict.fromkeys(name for table in tables.values() for name in table)
    names = [name for name in names if not name.endswith("_interval") and name != "right"]
    width = max(12, *(len(name) for name in tables)) + 2
    print(" " * 28 + "".join(f"{name:>{max(width, 24)}}" for name in tables))
    for name in names:
        cells = []
        for table in tables.values():
            value = table.get(name)
            cell = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
            if f"{name}_interval" in table:
                low, high = table[f"{name}_interval"]
                cell += f" [{low:.3f}, {high:.3f}]"
            cells.append(f"{cell:>{max(width, 24)}}")
        print(f"{name:<28}" + "".join(cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("directory", help="a run directory or any Hugging Face model directory")
    parser.add_argument("--data", nargs="+", default=[], help="question files; none: the clinic's test cases")
    parser.add_argument("--limit", type=int, default=0, help="only the first so many questions of each file; 0: all")
    parser.add_argument("--votes", type=int, default=1, help="samples a question, for the majority vote")
    parser.add_argument("--objective", choices=list(rewards.WEIGHTS), help="whose prompt; none: the run's own, else crpo")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: greedy")
    parser.add_argument("--top-p", type=float, default=1.0, help="nucleus; 1: off")
    parser.add_argument("--top-k", type=int, default=0, help="0: off")
    parser.add_argument("--max-new-tokens", type=int, default=0, help="0: the run's own, else 4096 or half the context")
    parser.add_argument("--max-rows", type=int, default=0, help="responses in flight; 0: the run's own, else 64")
    parser.add_argument("--seed", type=int, default=0, help="fixes every response")
    parser.add_argument("--skip-bad-rows", action="store_true", help="count and list bad rows instead of stopping")
    parser.add_argument("--mcqa-zero-based", action="store_true", help="MedMCQA's cop counts from 0")
    parser.add_argument("--json", help="write all tables into this file as well")
    args = parser.parse_args()

    if args.votes < 1 or args.limit < 0:
        raise ValueError("--votes must be at least 1 and --limit at least 0")
    directory = Path(args.directory)
    sets = {}
    for path in args.data:
        name = Path(path).name.split(".")[0]
        if name in sets:
            raise ValueError(f"two data files are named {name}; rename one, as results are kept by that name")
        sets[name] = load_questions(path, args.skip_bad_rows, args.mcqa_zero_based)
    if not sets:
        sets["clinic"] = clinic.make_questions(args.limit or 400, seed=0, split="test")
    processes = run.start()
    results = directory / "eval"
    policy, _ = run.resolve_model(args.directory)
    if processes.main:
        results.mkdir(exist_ok=True)  # what cannot be written should fail before hours of sampling
    tokenizer = load_tokenizer(args.directory, policy.config.vocab_size)
    made_by = directory / "run.json"
    settings = json.loads(made_by.read_text(encoding="utf-8")) if made_by.exists() else {}
    objective = args.objective or settings.get("objective", "crpo")
    half = policy.config.max_position_embeddings // 2
    max_new_tokens = args.max_new_tokens or settings.get("max_new_tokens") or min(4096, half)
    max_rows = args.max_rows or settings.get("max_rows") or 64
    policy = policy.to(processes.device, processes.dtype).eval()
    tables = {}
    for name, questions in sets.items():
        questions = questions[:args.limit or None]
        result = evaluate(policy, tokenizer, questions, objective, processes, max_new_tokens, args.temperature,
                          args.votes, args.top_p, args.top_k, args.seed, max_rows)
        rows = result.pop("rows")
        result.pop("example")
        tables[name] = {**result, "objective": objective, "temperature": args.temperature, "votes": args.votes,
                        "top_p": args.top_p, "top_k": args.top_k, "max_new_tokens": max_new_tokens, "seed": args.seed}
        if processes.main:
            write_json(results / f"{name}.json", tables[name])
            with open(results / f"{name}.responses.jsonl", "w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if processes.main:
        print_tables(tables)
        if args.json:
            write_json(args.json, tables)
    run.stop()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, RuntimeError) as error:
        run.fail(error, "a smaller --max-rows or --max-new-tokens")
