"""Evaluation: sample answers, score them, vote, aggregate with intervals.

    python eval.py ckpt/
    python eval.py ckpt/ --data medqa_test.jsonl medmcqa_dev.json medxpertqa.jsonl --votes 5
    python eval.py ckpt/ --judge Qwen2.5-7B-Instruct/        the eight measures counted by a model as well (judge.py)
    python eval.py --compare base/ ckpt/                     checkpoints evaluated on the same questions (compare.py)

Prompt, sampler and answer extractor are training's; the temperature is 1 unless said otherwise. Every rate is over all
questions: an answer that cannot be read and a prompt that did not fit are wrong answers, never left out; a response
that was cut counts by what it says. The eight measures are counted by rule (measures.py), where the paper asks a
language model.

Written to DIR/eval/: NAME.responses.jsonl (every response with its scores, as they are finished) and NAME.json
(settings and table). The same command continues an interrupted evaluation; what other settings left is kept as
NAME.json.1.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import clinic
import compare
import measures
import metrics
import rewards
import run
from checkpoint import load_model, read_json, write_json
from data import Tokenizer, encode_prompts, load_questions
from judge import count_measures, open_judge
from run import dtype_option, option
from sampler import generate
from stream import digest_of, fingerprint, require_own, rewrite, streamed


@dataclass
class Config:
    """The whole configuration; every field but the directory is a flag."""

    directory: str = option("", "a run directory or any Hugging Face model directory", positional=True)
    data: list = option([], "question files; none: the clinic's test cases")
    limit: int = option(0, "only the first so many questions of each file; 0: all")
    votes: int = option(1, "samples a question, for the majority vote", least=1)
    objective: str = option("", "whose prompt; none: the run's, else crpo", choices=["", *rewards.WEIGHTS])
    temperature: float = option(1.0, "0: greedy")
    top_p: float = option(1.0, "nucleus; 1: off", most=1)
    top_k: int = option(0, "0: off")
    max_new_tokens: int = option(0, "0: the run's own, else 4096 or half the context")
    max_rows: int = option(0, "responses in flight; 0: the run's own, else 64")
    seed: int = option(0, "fixes every response")
    skip_bad_rows: bool = option(False, "count and list bad rows instead of stopping")
    mcqa_zero_based: bool = option(False, "MedMCQA's cop counts from 0")
    judge: str = option("", "a model directory that counts the eight measures as well")
    compare: list = option([], "only compare evaluations of these directories")
    dtype: str = dtype_option()
    json: str = option("", "write all tables into this file as well")


def wilson(right, n, z=1.96):
    """The 95% score interval (Wilson 1927) of a proportion right / n -> (low, high). `right` may be fractional."""
    centre, margin = right + z * z / 2, z * math.sqrt(right * (n - right) / max(n, 1) + z * z / 4)
    return max(0.0, (centre - margin) / (n + z * z)), min(1.0, (centre + margin) / (n + z * z))


def majority(answers):
    """The most frequent answer; None does not vote; among equals the one drawn first. All None -> None."""
    votes = Counter(a for a in answers if a is not None)
    return votes.most_common(1)[0][0] if votes else None


def pass_at(k, n, right):
    """The unbiased estimate of the chance that one of k samples is right, from n samples of which `right` are (Chen et
    al. 2021): 1 - C(n - right, k) / C(n, k)."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def agreement(answers):
    """The share of pairs of samples with the same answer; None agrees with nothing, itself included."""
    votes = Counter(a for a in answers if a is not None)
    return sum(math.comb(v, 2) for v in votes.values()) / math.comb(len(answers), 2)


def scored(response, question):
    """A response {"text", "length", "finished"} with its answer, every measure and objective, for the clinic also the
    exact audit."""
    text = response["text"]
    row = {"text": text, "answer": rewards.extract_answer(text, question.options), **measures.measures(text, question),
           "length": response["length"], "finished": response["finished"], **rewards.score(text, question)}
    if question.source == "clinic" and "findings" in question.meta:
        row |= {f"audit_{name}": value for name, value in clinic.audit(text, question).items()}
    return row | {name: value for name, value in response.items() if name.startswith("judge_")}


def question_row(question, responses):
    """A line of NAME.responses.jsonl."""
    responses = [scored(response, question) for response in responses]
    return {"question": question.id, "key": question.answer, "answer": majority([r["answer"] for r in responses]),
            "responses": responses}


def aggregate(rows, weights):
    """The table of a data set from its question rows ({"question", "key", "answer", "responses"}); one has a response.

    accuracy: the share of right responses, over all questions and samples; its interval counts each question once.
    majority: the share of questions whose majority answer is right. pass@k: of those with a right one among k samples,
    agreement(), answered: over all questions. Other entries: means over all responses sampled that have the measure,
    audit_*: the clinic's, judge_*: those that the judge's answer could be read of.
    """
    n = len(rows)
    tried = [row["responses"] for row in rows if row["responses"]]
    responses = [r for group in tried for r in group]
    hits = [sum(r["answer"] == row["key"] for r in row["responses"]) for row in rows if row["responses"]]
    right = sum(hit / len(group) for hit, group in zip(hits, tried))
    table = {"questions": n, "too_long": n - len(tried), "right": right,
             "accuracy": right / n, "accuracy_interval": wilson(right, n)}
    voted = sum(row["answer"] == row["key"] for row in rows)
    table |= {"majority": voted / n, "majority_interval": wilson(voted, n)}
    votes = max(map(len, tried))
    if votes > 1:
        for k in sorted({2**i for i in range(votes.bit_length())} | {votes}):
            table[f"pass@{k}"] = sum(pass_at(k, votes, hit) for hit in hits) / n
        table["agreement"] = sum(agreement([r["answer"] for r in group]) for group in tried) / n
    table["answered"] = sum(sum(r["answer"] is not None for r in group) / len(group) for group in tried) / n
    table["reward"] = sum(rewards.total(r, weights) for r in responses) / len(responses)
    cited = sum(r["citations"] for r in responses)
    table["hallucination_share"] = sum(r["hallucination"] for r in responses) / max(cited, 1)
    names = dict.fromkeys(name for r in responses for name in r)
    for name in [name for name in names if name not in ("text", "answer", "accuracy")]:
        values = [float(r[name]) for r in responses if r.get(name) is not None]
        table[name] = sum(values) / len(values) if values else None
    return table


def evaluate(model, tokenizer, questions, config, processes, path=None, settings=None, weights=None):
    """Answer every question config.votes times on an unsharded model and score the answers; processes share the work.

    config: a Config whose objective and max_new_tokens are given. -> aggregate()'s table with `settings`; the rows,
    one a question, in order; the first question answered and its response. With a path the rows are written there and
    continued, where made with the same settings (stream.py). weights: of the reward, in place of the objective's.
    ValueError if no prompt fits into the context beside max_new_tokens.
    """
    limit = max(0, model.config.max_position_embeddings - config.max_new_tokens)
    prompts = encode_prompts(tokenizer, questions, config.objective, limit)
    if not any(prompts):
        raise ValueError(f"none of the {len(prompts)} prompts fits into {limit} tokens; lower --max-new-tokens")

    def answer(batch):
        asked = [i for i in batch if prompts[i]]
        # the last two part them from training's
        seeds = [[(config.seed, i, vote, 0, 1) for vote in range(config.votes)] for i in asked]
        groups = generate(model, [prompts[i] for i in asked], seeds, config.max_new_tokens, tokenizer.eos_ids,
                          config.temperature, config.top_p, config.top_k)
        found = {i: [{"text": tokenizer.decode(r.ids[:-1] if r.finished else r.ids), "length": len(r.ids),
                      "finished": r.finished} for r in group] for i, group in zip(asked, groups)}
        return [question_row(questions[i], found.get(i, [])) for i in batch]

    # A share each where nothing bounds a batch; else batches that do not depend on the number of processes.
    size = max(1, config.max_rows // config.votes) if config.max_rows else -(-len(questions) // processes.world)
    settings = {**(settings or {}), "prompts": digest_of(prompts)}  # of the questions, the format and the tokenizer

    def again(i, row):
        kept = row["responses"]
        if row["key"] != questions[i].answer:  # a judge was told the key
            kept = [{name: value for name, value in r.items() if not name.startswith("judge_")} for r in kept]
        return question_row(questions[i], kept)

    rows = streamed([q.id for q in questions], size, answer, processes, path, settings, again)
    example = next((q, row["responses"][0]["text"]) for q, row in zip(questions, rows) if row["responses"])
    table = aggregate(rows, weights or rewards.WEIGHTS[config.objective])
    return {**table, **settings, "settings": digest_of(settings)}, rows, example


def main(config):
    metrics.check_names()
    if bool(config.directory) == bool(config.compare):
        raise ValueError("give a model directory to evaluate, or --compare and directories that are evaluated")
    if config.json and not Path(config.json).parent.is_dir():
        raise ValueError(f"--json {config.json}: no such directory")
    if config.compare:
        if config != Config(compare=config.compare, json=config.json):
            raise ValueError("--compare reads what is evaluated already; of the other flags it takes --json only")
        return compare.show(config.compare, config.json)
    directory = Path(config.directory)
    sets = {}
    for path in config.data:
        name = Path(Path(path).name.removesuffix(".gz")).stem
        if name in sets:
            raise ValueError(f"two data files are named {name}; rename one, as results are kept by that name")
        sets[name] = load_questions(path, config.skip_bad_rows, config.mcqa_zero_based)[:config.limit or None]
    if not sets:
        sets["clinic"] = clinic.make_questions(config.limit or 400, seed=0, split="test")
    processes = run.start(dtype=config.dtype)
    judge = config.judge and open_judge(config.judge, processes)
    results = directory / "eval"
    policy, _ = run.resolve_model(config.directory)
    results.mkdir(exist_ok=True)  # what cannot be written should fail before hours of sampling
    tokenizer = Tokenizer(config.directory, policy.config.vocab_size)
    made_by = directory / "run.json"
    trained = read_json(made_by) if made_by.exists() else {}
    most = trained.get("max_new_tokens") or min(4096, policy.config.max_position_embeddings // 2)
    config = replace(config, objective=config.objective or trained.get("objective", "crpo"),
                     max_new_tokens=config.max_new_tokens or most,
                     max_rows=config.max_rows or trained.get("max_rows") or 64)
    own = trained if config.objective == trained.get("objective") else {}
    weights = (own.get("began_with", {}).get("rewards")
               or rewards.weights_of(config.objective, own.get("weights", ())))  # older runs hold the flags only
    if gone := weights.keys() - rewards.OBJECTIVES.keys():
        raise ValueError(f"{made_by}: trained for {', '.join(sorted(gone))}, which rewards.py does not have; "
                         "--objective crpo, say, leaves that out")
    policy = policy.to(processes.device, processes.dtype).eval()
    asked = ("objective", "temperature", "votes", "top_p", "top_k", "max_new_tokens", "seed")
    settings = {**{name: getattr(config, name) for name in asked}, "dtype": str(processes.dtype),
                "eos_ids": tokenizer.eos_ids,
                "weights": processes.gather(processes.main and fingerprint(directory))[0]}
    tables, rows = {}, {}
    for name, questions in sets.items():
        path = results / f"{name}.responses.jsonl"
        table, rows[name], _ = evaluate(policy, tokenizer, questions, config, processes, path, settings, weights)
        tables[name] = {**table, "rules": digest_of([Path(module.__file__).read_text(encoding="utf-8")
                                                     for module in (rewards, measures, clinic)]),
                        "asked": digest_of([(q.stem, q.options, q.answer) for q in questions]),
                        "reward_weights": weights, "breakdown": compare.breakdown(rows[name], questions)}
        if processes.main:
            require_own(path, table["settings"])
            earlier = results / f"{name}.json"
            if "judge_cecd" in table and earlier.exists():  # whose counts the stored responses hold
                found = read_json(earlier)
                tables[name] |= {key: found[key] for key in found if key.startswith("judge") and key not in table}
            write_json(earlier, tables[name])
    del policy
    counting = judge and load_model(config.judge).to(processes.device, processes.dtype).eval()
    for name, questions in sets.items() if judge else ():
        rows[name], verdicts = count_measures(judge, counting, questions, rows[name], processes, config.max_rows,
                                              results / f"{name}.judged.jsonl")
        tables[name] |= {**aggregate(rows[name], weights), **verdicts}
        if processes.main:
            require_own(results / f"{name}.responses.jsonl", tables[name]["settings"])
            rewrite(results / f"{name}.responses.jsonl", rows[name])
            write_json(results / f"{name}.json", tables[name])
    if processes.main:
        compare.print_tables(directory, tables, {"right", "pass@1", "prompts", "settings", "rules", "asked", *settings})
        print(f"\nwritten: {results}/ NAME.json, NAME.responses.jsonl{', NAME.judged.jsonl' if judge else ''}")
        if config.json:
            write_json(config.json, tables)
    run.stop()


if __name__ == "__main__":
    run.script(main, Config, __doc__, "a smaller --max-rows or --max-new-tokens")
