"""Table 1 in miniature: the paper's five arms, and ours, on the embedded clinic (PROTOCOL.md says what and why).

    python experiments/table1.py                        the recorded table: six arms, five seeds
    python experiments/table1.py --arms ablations       what each choice of our default does
    python experiments/table1.py --arms breaking        CRPO without a cold start at four times the learning rate

Everything runs through the project's own command lines, two jobs of one thread at a time. A run whose result lies in
--work is not run again. Written into --work, with --record beside this file in place of what is recorded there: NAME.json
(every number of every seed), NAME.md, NAME.svg.
"""

import argparse
import html
import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent

PAPER = ("--advantage sum --noise 0 --floor 0 --target-kl 0 --beta 0.001 --entropy-bonus 0 --group 8 --prompts 8 "
         "--minibatches 1 --lr 4e-4")
# arm: (start, prompt of the evaluation, train_crpo.py's flags; None: not trained). Ours is train_crpo.py's default.
TABLE1 = {
    "Baseline": ("base", "crpo", None),
    "GRPO": ("base", "grpo", f"--objective grpo {PAPER}"),
    "CRPO": ("base", "crpo", f"--objective crpo {PAPER}"),
    "Cold start + GRPO": ("cold", "grpo", f"--objective grpo {PAPER}"),
    "Cold start + CRPO": ("cold", "crpo", f"--objective crpo {PAPER}"),
    "Ours": ("base", "crpo", ""),
}
ABLATIONS = {
    "Ours": TABLE1["Ours"],
    "CRPO with two updates and our entropy penalty": (
        "base", "crpo", f"--objective crpo {PAPER} --minibatches 2 --entropy-bonus -0.05"),
    "without entropy penalty": ("base", "crpo", "--entropy-bonus 0"),
    "one update a step": ("base", "crpo", "--minibatches 1"),
    "sum, not decoupled": ("base", "crpo", "--advantage sum"),
    "Eq 4's weights, decoupled": ("base", "crpo", "--objective crpo"),
    "without floor": ("base", "crpo", "--floor 0"),
    "without guard, beta 0": ("base", "crpo", "--target-kl 0 --beta 0"),
    "without guard, beta 0.001": ("base", "crpo", "--target-kl 0 --beta 0.001"),
    "without guard, beta 0.02": ("base", "crpo", "--target-kl 0 --beta 0.02"),
    "G = 5, 12 prompts": ("base", "crpo", "--group 5 --prompts 12"),
}
BREAKING = {
    "CRPO, lr x 4": ("base", "crpo", f"--objective crpo {PAPER} --lr 1.6e-3"),
    "CRPO, lr x 4, guard": ("base", "crpo", f"--objective crpo {PAPER} --lr 1.6e-3 --target-kl 0.1"),
}
SETS = {"table1": TABLE1, "ablations": ABLATIONS, "breaking": BREAKING}
COMPARED = [("CRPO", "GRPO"), ("Cold start + GRPO", "GRPO"), ("Cold start + CRPO", "CRPO"),
            ("Cold start + CRPO", "Cold start + GRPO"), ("Ours", "CRPO")]
# name in the table: (name in the results, digits, whether higher is better). The audit is the clinic's exact one.
MEASURES = {
    "accuracy": ("accuracy", 3, True), "CECD": ("audit_citations", 2, True), "DRC": ("audit_rejections", 2, True),
    "hallucination": ("audit_false_findings", 2, False), "its share": ("false_share", 3, False),
    "tokens": ("length", 1, None), "greedy accuracy": ("greedy_accuracy", 3, True),
    "greedy hallucination": ("greedy_audit_false_findings", 2, False),
}
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's t


def interval(values):
    """(mean, half-width of its 95% interval by Student's t) over seeds; the half-width of one value is nan."""
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return mean, math.nan
    return mean, T95[n - 1] * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)


def command(*words):
    """One of the project's command lines, on one thread. CalledProcessError, with its output, if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}\n{done.stderr[-2000:]}")


def trained(directory, *words):
    if not (directory / "model.safetensors").exists():
        command(*words, "--out", directory)
    return directory


def cold_start(work, seed):
    """The cold start of a seed, shared by its arms: 160 updates on traces in both forms, 15% of them wrong."""
    data = work / f"cold-{seed}.jsonl"
    if not data.exists():
        command("clinic.py", "cold", 2560, data, "--seed", seed)
    return trained(work / f"cold-{seed}", "train_sft.py", "--data", data, "--lr", "1e-3", "--batch", 16, "--holdout", 0,
                   "--seed", seed)


def result_of(arm, seed, work, split, steps, questions):
    """Train and evaluate one arm with one seed, or read its result. -> {measure: value}"""
    start, prompt, flags = arm
    name = f"{start} {prompt} {flags}".strip().replace(" ", "_").replace("/", "_").replace("--", "")
    result = work / f"{name}-{steps}-{seed}-{split}.json"
    if not result.exists():
        model = work / (start if start == "base" else f"cold-{seed}")
        if flags is not None:
            model = trained(work / f"{name}-{steps}-{seed}", "train_crpo.py", "--model", model, "--steps", steps,
                            "--seed", seed, "--eval-questions", 0, *flags.split())
        tables = []
        for temperature in (0, 1):
            table = work / f"{result.stem}.{temperature}.json"
            command("eval.py", model, "--data", work / f"{split}.jsonl", "--objective", prompt, "--temperature",
                    temperature, "--seed", seed, "--max-new-tokens", 160, "--limit", questions, "--json", table)
            tables += json.loads(table.read_text()).values()
        greedy, table = tables
        values = {k: v for k, v in table.items() if isinstance(v, (int, float))}
        made = table["audit_citations"] + table["audit_false_findings"]
        values |= {"false_share": table["audit_false_findings"] / max(made, 1e-9)}
        values |= {f"greedy_{k}": greedy[k] for k in ("accuracy", "audit_citations", "audit_false_findings")}
        if flags is not None:
            rows = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
            values |= {"highest_kl": max(row["kl"] or 0 for row in rows), "last_kl": rows[-1]["kl"],
                       "refused": sum(row["refused"] for row in rows), "seconds": sum(row["seconds"] for row in rows)}
        result.write_text(json.dumps(values, indent=1))
        print(f"{name} seed {seed}: " + ", ".join(f"{m} {values[k]:.3f}" for m, (k, _, _) in MEASURES.items()), flush=True)
    return json.loads(result.read_text())


def markdown(results, seeds):
    """The table of every arm, then the paired differences (COMPARED, or else Ours with each ablation), each with its 95%
    interval over the seeds."""
    def cell(values, digits, sign=""):
        mean, half = interval(values)
        return f"{mean:{sign}.{digits}f} ± {half:.{digits}f}"

    lines = ["| arm | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    for arm, runs in results.items():
        lines.append(f"| {arm} | " + " | ".join(cell([r[k] for r in runs], d) for k, d, _ in MEASURES.values()) + " |")
    pairs = [(a, b) for a, b in COMPARED if a in results and b in results]
    if not pairs and "Ours" in results:
        pairs = [("Ours", arm) for arm in results if arm != "Ours"]
    if pairs:
        lines += ["", "| paired difference | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    for a, b in pairs:
        cells = []
        for key, digits, better in MEASURES.values():
            difference = [x[key] - y[key] for x, y in zip(results[a], results[b])]
            mean, half = interval(difference)
            sure = better is not None and abs(mean) > half
            cells.append(cell(difference, digits, "+") + (" better" if (mean > 0) == better else " worse") * sure)
        lines.append(f"| {a} - {b} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Means over {seeds} seeds ± half the 95% interval (Student's t)."]) + "\n"


def svg(results):
    """Dots and whiskers, a panel a measure, an arm a line; the interval is that of the table."""
    left, width, height, gap = 200, 150, 26, 18
    panels = list(MEASURES.items())[:5]
    bottom = 40 + height * len(results)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + len(panels) * (width + gap)} {bottom + 24}" '
           'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>']
    for row, arm in enumerate(results):
        out.append(f'<text x="{left - 10}" y="{44 + row * height}" text-anchor="end">{html.escape(arm)}</text>')
    for panel, (name, (key, digits, better)) in enumerate(panels):
        x0 = left + panel * (width + gap)
        cells = [interval([r[key] for r in runs]) for runs in results.values()]
        cells = [(mean, 0.0 if math.isnan(half) else half) for mean, half in cells]
        low, high = min(m - h for m, h in cells), max(m + h for m, h in cells)
        margin = 0.05 * (high - low) or 1
        low, high = low - margin, high + margin

        def place(value):
            return x0 + width * (value - low) / (high - low)

        out.append(f'<text x="{x0 + width / 2}" y="16" text-anchor="middle" font-weight="bold">{name} '
                   f'({"higher" if better else "lower"} is better)</text>'.replace(" is better", ""))
        out.append(f'<rect x="{x0}" y="24" width="{width}" height="{bottom - 30}" fill="none" stroke="#bbb"/>')
        for row, (mean, half) in enumerate(cells):
            y = 40 + row * height
            out.append(f'<line x1="{place(mean - half):.1f}" x2="{place(mean + half):.1f}" y1="{y}" y2="{y}" '
                       f'stroke="#246" stroke-width="2"/><circle cx="{place(mean):.1f}" cy="{y}" r="4" fill="#246"/>')
        for value, anchor in ((low, "start"), (high, "end")):
            out.append(f'<text x="{place(value):.1f}" y="{bottom + 10}" text-anchor="{anchor}" fill="#555">'
                       f'{value:.{digits}f}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def reproduced(results, recorded):
    """How many of the new means lie within the recorded 95% intervals, as a line of text."""
    inside = total = 0
    for arm, runs in results.items():
        for key, _, _ in MEASURES.values():
            if arm in recorded:
                mean, half = interval([r[key] for r in recorded[arm]])
                total += 1
                inside += abs(interval([r[key] for r in runs])[0] - mean) <= half + 1e-9
    return f"{inside} of {total} means lie within the recorded 95% intervals"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--arms", choices=list(SETS), default="table1", help="which arms")
    parser.add_argument("--only", nargs="+", default=[], help="only these of the arms")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each arm, seeds 0 and up")
    parser.add_argument("--steps", type=int, default=80, help="training steps")
    parser.add_argument("--questions", type=int, default=400, help="cases of the split")
    parser.add_argument("--split", choices=["test", "final"], default="final", help="test: for tuning; not written here")
    parser.add_argument("--work", default="runs", help="where runs are kept")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--record", action="store_true", help="replace the recorded results")
    args = parser.parse_args()
    arms = {name: arm for name, arm in SETS[args.arms].items() if not args.only or name in args.only}
    work = Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "assets" / "tiny", work / "base", dirs_exist_ok=True)  # eval.py writes into its directory
    command("clinic.py", "questions", args.questions, work / f"{args.split}.jsonl", "--split", args.split)
    with ThreadPoolExecutor(args.jobs) as pool:
        if any(start == "cold" for start, _, _ in arms.values()):
            list(pool.map(lambda seed: cold_start(work, seed), range(args.seeds)))
        jobs = {(name, seed): pool.submit(result_of, arm, seed, work, args.split, args.steps, args.questions)
                for seed in range(args.seeds) for name, arm in arms.items()}
        results = {name: [jobs[name, seed].result() for seed in range(args.seeds)] for name in arms}
    print(markdown(results, args.seeds))
    if args.split == "final" and not args.only:
        print(reproduced(results, json.loads((HERE / f"{args.arms}.json").read_text())))
        written = (HERE if args.record else work) / f"{args.arms}.json"
        written.write_text(json.dumps(results, indent=1) + "\n")
        written.with_suffix(".md").write_text(markdown(results, args.seeds))
        written.with_suffix(".svg").write_text(svg(results))
        print(f"written: {written.with_suffix('')}.json, .md, .svg")


if __name__ == "__main__":
    main()
