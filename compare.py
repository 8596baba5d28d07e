"""Evaluations side by side: one checkpoint's on several data sets, or several checkpoints' on the same questions, with
paired differences to the first.

The differences are read from the DIR/eval/NAME.responses.jsonl that eval.py wrote and taken question by question (each
question's mean over its samples), so what makes a question hard cancels.

    counts and rates   95% interval by the paired bootstrap (percentiles, RESAMPLES resamples of the questions, fixed
                       seed); no star where fewer than FEWEST questions differ, as five coins fall alike once in 16
    majority           McNemar's exact test on the questions that only one of the two answers right (with one sample a
                       question the majority is that answer)

Neither knows of the spread between training runs (one checkpoint an arm says nothing about the arm), nor of how many
measures are looked at: of twenty, one gets a star by chance.
"""

import json
import math
from pathlib import Path

import numpy as np

from checkpoint import write_json
from stream import digest_of

RESAMPLES = 10_000
FEWEST = 6
SETTINGS = ("objective", "temperature", "votes", "top_p", "top_k", "max_new_tokens", "dtype", "prompts", "rules",
            "reward_weights")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BREAKDOWNS = ("system", "kind", "subject_name", "body_system", "question_type", "medical_task", "meta_info")
SECTIONS = {"backtracking": "counts a response, by rule", "length": "responses and their objectives",
            "audit_citations": "counts a response, by the clinic's exact audit",
            "judge_backtracking": "counts a response, by the judge, where it can be read"}


def mcnemar(only_first, only_second):
    """The exact two-sided p of McNemar's test: of the questions that one of two got right and the other not, so many
    or fewer fall to either side by fair coin throws."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(fewer + 1)) / 2**n)


def bootstrap(differences, resamples=RESAMPLES, seed=0):
    """95% percentile intervals of the means of paired differences. [questions, measures] -> [2, measures] (low, high).

    A nan is a question without that measure; all measures share the resamples.
    """
    n, rng = len(differences), np.random.default_rng(seed)
    there = ~np.isnan(differences)
    values, means = np.where(there, differences, 0.0), []
    for start in range(0, resamples, 500):  # at once: 500 x questions
        drawn = rng.integers(n, size=(min(500, resamples - start), n))
        times = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(float)  # [resamples, questions]
        with np.errstate(invalid="ignore"):
            means.append(times @ values / (times @ there))
    return np.nanpercentile(np.concatenate(means), [2.5, 97.5], axis=0)


def load_rows(directory, name):
    """(rows, settings and table) of one finished evaluation. ValueError says what is wrong with it."""
    path = Path(directory) / "eval" / f"{name}.responses.jsonl"
    again = "evaluate it again with the command that made it"
    try:
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        table = json.loads((path.parent / f"{name}.json").read_text(encoding="utf-8"))
        if len(rows) != table["questions"] or any(row.get("settings") != table.get("settings") for row in rows):
            raise ValueError(f"{path}: unfinished, or not of the same evaluation as {name}.json; {again}")
        return [(row["question"], row["key"], row["answer"], row["responses"]) for row in rows], table
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, FileNotFoundError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); {again}") from None


def means_of(rows):
    """{measure: (its mean, [each question's mean or nan])}. The mean is eval.py's: of accuracy over all questions, of
    others over all responses that have the measure."""
    responses = [r for *_, group in rows for r in group]
    right = [sum(r["answer"] == key for r in group) / max(len(group), 1) for _, key, _, group in rows]
    voted = [float(answer == key) for _, key, answer, _ in rows]
    out = {name: (sum(own) / len(rows), own) for name, own in (("accuracy", right), ("majority", voted))}
    for name in dict.fromkeys(name for r in responses for name in r):
        if name not in ("text", "answer", "accuracy"):
            own = [[float(r[name]) for r in group if r.get(name) is not None] for *_, group in rows]
            values = [value for group in own for value in group]
            if values:
                out[name] = (sum(values) / len(values), [sum(v) / len(v) if v else math.nan for v in own])
    return out


def settings_of(table):
    """{name: what a comparison says where it differs}."""
    judge = {name: value for name, value in (table.get("judge") or {}).items() if name != "unparsable"}
    return {**{name: table.get(name) for name in SETTINGS},
            "judge": judge and f"{judge['directory']} ({digest_of(judge)})"}


def compare(directories):
    """{data set: {"directories", "questions", "differ", "means", "differences", "intervals", "pairs", "unequal",
    "mcnemar"}} over the data sets that all directories were evaluated on; differences, of the measures that all have,
    are to the first directory. pairs: the questions with the measure in both; unequal: those where it differs.

    ValueError if there is none, or if a set's questions are not the same.
    """
    if not 2 <= len(directories) <= len(LETTERS):
        raise ValueError(f"--compare takes 2 to {len(LETTERS)} directories")
    missing = [str(d) for d in directories if not Path(d).is_dir()]
    if missing:
        raise ValueError(f"{', '.join(missing)}: no such directory")
    found = [{p.name.removesuffix(".responses.jsonl") for p in Path(d).glob("eval/*.responses.jsonl")}
             for d in directories]
    names = sorted(set.intersection(*found))
    if not names:
        raise ValueError("no data set was evaluated in all of them: " + "; ".join(
            f"{d}: {', '.join(sorted(f)) or 'none, run eval.py on it first'}" for d, f in zip(directories, found)))
    out = {}
    for name in names:
        rows, tables = zip(*(load_rows(directory, name) for directory in directories))
        for directory, other in zip(directories[1:], rows[1:]):
            if [row[:2] for row in other] != [row[:2] for row in rows[0]]:
                place = next((i for i, (a, b) in enumerate(zip(rows[0], other), 1) if a[:2] != b[:2]),
                             min(len(rows[0]), len(other)) + 1)
                raise ValueError(f"{name}: the questions of {directory} ({len(other)}) are not those of "
                                 f"{directories[0]} ({len(rows[0])}), from line {place} on; evaluate both with the "
                                 "same --data and --limit")
        if len({table["asked"] for table in tables if "asked" in table}) > 1:
            raise ValueError(f"{name}: the texts of the questions differ under the same names; evaluate all with the "
                             "same --data")
        measured = [means_of(one) for one in rows]
        asked = [settings_of(table) for table in tables]
        shared = [m for m, (_, own) in measured[0].items()
                  if all(m in one and not np.isnan(np.subtract(one[m][1], own)).all() for one in measured)]
        first = np.array([measured[0][m][1] for m in shared]).T  # [questions, measures]
        result = {"directories": list(map(str, directories)), "questions": len(rows[0]),
                  "differ": {key: [one[key] for one in asked] for key in asked[0]
                             if any(one[key] != asked[0][key] for one in asked)},
                  "means": {m: [one[m][0] for one in measured] for m in shared},
                  "differences": [], "intervals": [], "pairs": [], "unequal": [], "mcnemar": []}
        for one in measured[1:]:
            difference = np.array([one[m][1] for m in shared]).T - first
            pairs = ~np.isnan(difference)
            mean = np.where(pairs, difference, 0).sum(0) / np.maximum(pairs.sum(0), 1)
            result["differences"].append(dict(zip(shared, mean.tolist())))
            result["intervals"].append(dict(zip(shared, bootstrap(difference).T.tolist())))
            result["pairs"].append(dict(zip(shared, pairs.sum(0).tolist())))
            result["unequal"].append(dict(zip(shared, (pairs & (difference != 0)).sum(0).tolist())))
            a, b = (np.array(m["majority"][1]) for m in (measured[0], one))
            split = int((a > b).sum()), int((b > a).sum())
            result["mcnemar"].append({"only_first": split[0], "only_this": split[1], "p": mcnemar(*split)})
        out[name] = result
    skipped = sorted(set.union(*found) - set(names))
    if skipped:
        print(f"not in all of them and left out: {', '.join(skipped)}")
    return out


def report(comparison):
    """The comparison as text."""
    lines = []
    for name, result in comparison.items():
        letters = LETTERS[:len(result["directories"])]
        lines += [f"{name}: {result['questions']} questions", *(
            f"  {letter}  {directory}" for letter, directory in zip(letters, result["directories"]))]
        lines += [f"  they differ in {key}: {', '.join(map(str, values))}" for key, values in result["differ"].items()]
        titles = [f"{letter} - A" for letter in letters[1:]]
        lines += ["", " " * 20 + "".join(f"{c:>9}" for c in letters) + "".join(f"{t:>31}" for t in titles)]
        for measure, means in result["means"].items():
            line = f"{measure:<20}" + "".join(f"{mean:9.3f}" for mean in means)
            some = set()
            for differences, intervals, pairs, unequal in zip(*(result[key] for key in (
                    "differences", "intervals", "pairs", "unequal"))):
                low, high = intervals[measure]
                cell = f"{differences[measure]:+.3f} [{low:+.3f}, {high:+.3f}]"
                star = unequal[measure] >= FEWEST and (low > 1e-9 or high < -1e-9)
                line += f" {cell:>28} {'*' if star else ' '}"
                some |= {pairs[measure]} - {result["questions"]}
            lines.append(line.rstrip() + (f"  on {', '.join(map(str, sorted(some)))} questions" if some else ""))
        lines += ["", "* the 95% interval of the difference (paired bootstrap over the questions) leaves out 0, and "
                  f"{FEWEST} questions or more differ"]
        for letter, test in zip(letters[1:], result["mcnemar"]):
            lines.append(f"majority, McNemar's exact test: only A right {test['only_first']}, only {letter} right "
                         f"{test['only_this']}, p = {test['p']:.3g}")
        lines.append("")
    return "\n".join(lines).rstrip()


def breakdown(rows, questions):
    """{name: {value: {"questions", "accuracy"}}} for each of BREAKDOWNS that the questions' meta has, largest first."""
    groups = {}
    for row, question in zip(rows, questions):
        share = sum(r["answer"] == row["key"] for r in row["responses"]) / max(len(row["responses"]), 1)
        for name in BREAKDOWNS:
            if name in question.meta:
                groups.setdefault(name, {}).setdefault(str(question.meta[name]), []).append(share)
    return {name: {value: {"questions": len(shares), "accuracy": sum(shares) / len(shares)}
                   for value, shares in sorted(of.items(), key=lambda item: (-len(item[1]), item[0]))}
            for name, of in groups.items()}


def show(directories, path=""):
    """Print the comparison of directories; path: a JSON file that gets it as well."""
    comparison = compare(directories)
    print(report(comparison))
    if path:
        write_json(path, comparison)


def print_tables(directory, tables, hidden):
    """The settings of an evaluation; one column a data set, one line a measure that is not hidden; then each breakdown
    in a line, at most its four largest groups."""
    of = next(iter(tables.values()))
    print(f"{directory}: {of['objective']} prompt, temperature {of['temperature']:g}, samples {of['votes']}, "
          f"at most {of['max_new_tokens']} tokens, seed {of['seed']}\n")
    names = dict.fromkeys(n for table in tables.values() for n, v in table.items() if not isinstance(v, (dict, tuple)))
    names = [name for name in names if name not in hidden]
    width = max(24, *(len(name) + 2 for name in tables))
    print(" " * 24 + "".join(f"{name:>{width}}" for name in tables))
    for name in names:
        if name in SECTIONS:
            print(f"\n{SECTIONS[name]}")
        cells = []
        for table in tables.values():
            value = table.get(name)
            cell = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
            if f"{name}_interval" in table:
                low, high = table[f"{name}_interval"]
                cell += f" [{low:.3f}, {high:.3f}]"
            cells.append(f"{cell:>{width}}")
        print(f"{name:<24}" + "".join(cells))
    breakdowns = [(f"{title} {name}", by) for title, table in tables.items() for name, by in table["breakdown"].items()]
    print("\naccuracy by group (questions)" if breakdowns else "")
    for title, by in breakdowns:
        shown = [f"{value} {group['accuracy']:.3f} ({group['questions']})" for value, group in list(by.items())[:4]]
        print(f"{title}: {', '.join(shown)}{f', and {len(by) - 4} more' if len(by) > 4 else ''}")
