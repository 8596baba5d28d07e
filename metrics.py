"""What a training step leaves behind: its rows in metrics.jsonl and samples.jsonl, and what the terminal says of it.

Nothing here changes what is trained. Legend: b prompts of this process, G rollouts each, M objectives.
"""

import rewards
from checkpoint import write_json

# no names for a verifier: they stand beside its scores in logs and tables
COLUMNS = frozenset("""advantage agreement answer answered asked audit_citations audit_false_findings audit_rejections
    backtracking backward_chaining beta breakdown cecd chosen citations cited clipped cut drc dtype entropy eos_ids
    faithfulness finished grad_norm hallucination hallucination_share judge key kl length logprob_gap loss lr majority
    majority_interval max_new_tokens nonfinite objective options parts prompts question questions refused rejected
    response responses reward reward_weights right rollout rules seconds seed settings skipped stem step subgoal
    temperature text tokens too_long top_k top_p unsupported verification votes weights""".split())


def check_names():
    """ValueError for a verifier that bears the name of a column."""
    if taken := COLUMNS & rewards.OBJECTIVES.keys():
        raise ValueError(f"verifiers need other names than {', '.join(sorted(taken))}, which are columns of logs and "
                         "tables")


def group_metrics(reward, tied, parts, total, rollouts, answered, processes):
    """Means over all processes' rollouts. reward: [b, G, M] of every objective, tied: [b, 1, M] where it is a tie,
    parts: [b, G, M] its part in the advantage, total: [b, G] weighted, answered: how many rollouts name an option.

    For each objective its mean, its spread (mean over groups of the standard deviation within), the share of groups
    in which it is a tie, and its share of the advantage's variance: who is steering. skipped: groups without advantage.
    """
    advantage, flat = parts.sum(-1), [r for group in rollouts for r in group]  # [b, G]
    n, groups, power = len(flat), len(rollouts), (advantage ** 2).sum()
    pairs = {"reward": (total.sum(), n), "answered": (answered, n), "length": (sum(len(r.ids) for r in flat), n),
             "cut": (sum(not r.finished for r in flat), n), "skipped": ((advantage == 0).all(1).sum(), groups)}
    for i, name in enumerate(rewards.OBJECTIVES):
        pairs |= {name: (reward[..., i].sum(), n), f"{name}_spread": (reward[..., i].std(1).sum(), groups),
                  f"{name}_tie": (tied[..., i].sum(), groups),
                  f"{name}_steers": ((parts[..., i] * advantage).sum(), power)}
    sums = processes.sum([float(x) for pair in pairs.values() for x in pair])
    means = {name: value / (count or 1) for name, value, count in zip(pairs, sums[::2], sums[1::2])}
    return {**means, "tokens": means["length"] * sums[1]}


def sample_rows(step, bad, questions, texts, rollouts, scores, total, advantage, parts, weights, processes):
    """For samples.jsonl: the step's first question with its whole group, and every rollout whose update was `bad`;
    parts: each objective's in the advantage."""
    rows = []
    for n in sorted({*bad, *(range(len(texts[0])) if processes.main else [])}):
        j, g = divmod(n, len(texts[0]))
        q, rollout, text = questions[j], rollouts[j][g], texts[j][g]
        rows.append({"step": step, "question": q.id, "stem": q.stem, "options": q.options, "answer": q.answer,
                     "rollout": g, "response": text, "finished": rollout.finished, "tokens": len(rollout.ids),
                     **scores[j][g], "reward": float(total[j, g]), "advantage": float(advantage[j, g]),
                     "weights": weights, "parts": dict(zip(scores[j][g], parts[j, g].tolist())),
                     **rewards.evidence(text, q), "nonfinite": n in bad})
    return rows


def status(row, weights, target_kl):
    """A row of metrics as the text beside the progress bar: the reward, the objectives in it, and how it goes."""
    parts = " ".join(f"{name} {row[name]:.2f}" for name, weight in weights.items() if weight)
    text = f"reward {row['reward']:.2f} ({parts})"
    for name in ("kl", "entropy"):
        if row[name] is not None:
            text += f" {name} {row[name]:.3f}" + (f"/{target_kl:g}" if name == "kl" and target_kl else "")
    return f"{text} length {row['length']:.0f}, {row['tokens'] / row['seconds']:,.0f} tokens/s"


def report_troubles(row, before, kl_limit, processes):
    """Print what is off in a step's row of metrics, once when it begins. before: what this returned for the last step,
    {} at first. kl_limit: 0 if there is none."""
    # a running mean, as the share of a step's few rollouts is noisy
    share = 0.8 * before.get("share", row["answered"]) + 0.2 * row["answered"]
    most = max(before.get("most", 0), share)
    checks = [
        ("ties", row["skipped"] > 0.8,
         f"{row['skipped']:.0%} of the groups teach nothing: all rollouts of such a group earn the same"),
        ("kl", kl_limit and row["kl"] > kl_limit,
         f"KL {row['kl']} is over its limit {kl_limit:.3g}; the step only pulls back to the start model, and "
         "the learning rate is halved"),
        ("answered", share < 0.8 * most, f"of late {share:.0%} of the responses name an option, it was {most:.0%}"),
        ("cut", row["cut"] > 0.5, f"{row['cut']:.0%} of the responses are cut; see --max-new-tokens"),
    ]
    for name, off, text in checks:
        if off and name not in before.get("off", ()):
            processes.say(f"\nwarning: step {row['step']}: {text}")
    return {"share": share, "most": most, "off": [name for name, off, _ in checks if off]}


def report_accuracy(result, when, directory, processes):
    """Print a held-out result of eval.evaluate and write it to held_out_WHEN.json. when: "before" or "after"."""
    low, high = result["accuracy_interval"]
    processes.say(f"held-out accuracy {when}: {result['accuracy']:.3f} [{low:.3f}, {high:.3f}] "
                  f"on {result['questions']} questions; reward {result['reward']:.2f}, "
                  f"clinical {result['clinical']:.2f}, mean length {result['length']:.0f} tokens")
    try:
        if processes.main:
            write_json(directory / f"held_out_{when}.json", result)
    except OSError as error:
        processes.say(f"warning: not written: {error}")


def show_example(before, after, processes):
    """Print a question and its answers before and after training; before, after: (question, response)."""
    question = before[0]
    options = "\n".join(f"{letter}) {text}" for letter, text in question.options.items())
    processes.say(f"\n{question.stem}\n{options}\nkey: {question.answer}")
    processes.say(f"\nanswer before: {before[1]}\n\nanswer after: {after[1]}")
