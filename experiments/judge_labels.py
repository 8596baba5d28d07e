"""A judge beside the hand labels (tests/fixtures/LABELS.md): of how many responses it counts what the reader counted.

    python experiments/judge_labels.py JUDGE/ OUT.jsonl [RESPONSES]

JUDGE/ is a Hugging Face directory, as for eval.py --judge. The 60 responses come from the two readers in turn, and the
first so many are judged. OUT.jsonl keeps every answer; the same command, or one for more responses, goes on after them.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import run  # noqa: E402
from checkpoint import load_model  # noqa: E402
from data import load_responses  # noqa: E402
from judge import answers, open_judge, parse, verdict, words_of  # noqa: E402
from stream import streamed  # noqa: E402

LABELS = {"cecd": "citations", "drc": "rejections", "hallucination": "unsupported"}
FILES = [Path(__file__).parent.parent / "tests/fixtures" / name for name in ("labelled.jsonl", "labelled2.jsonl")]


def main(directory, out, most=60):
    processes = run.start()
    judge = open_judge(directory, processes)
    model = load_model(directory).to(processes.device, processes.dtype).eval()
    files = [zip(load_responses(path), path.read_text(encoding="utf-8").splitlines()) for path in FILES]
    rows = [(question, response, json.loads(line)) for pair in zip(*files) for (question, response, _), line in pair]
    rows = rows[:int(most)]

    def judged(i, found):
        question, _, labels = rows[i]
        verdicts = {name: verdict(name, question, answer) for name, answer in zip(LABELS, found)}
        return {"question": question.id, "labels": {name: len(labels[label]) for name, label in LABELS.items()},
                "responses": [verdicts]}

    def make(batch):
        found = iter(answers(judge, model, [(name, *rows[i][:2]) for i in batch for name in LABELS], max_rows=12))
        return [judged(i, [next(found) for _ in LABELS]) for i in batch]

    ids = [question.id for question, _, _ in rows]
    done = streamed(ids, 4, make, processes, Path(out), judge.settings, lambda i, row: row)
    print(f"{'':16}{'exact':>10}{'mean absolute error':>22}{'unreadable':>12}{'evidence':>10}{'made up':>10}")
    for name, label in LABELS.items():
        counted = [(row["responses"][0][name], row["labels"][name]) for row in done]
        off = [abs(v["count"] - n) for v, n in counted if v["count"] is not None]
        shown = [words_of(line) in words_of(response) for row, (_, response, _) in zip(done, rows)
                 if row["responses"][0][name]["count"] is not None for line in parse(row["responses"][0][name]["text"])]
        print(f"{label:16}{off.count(0):>4} of {len(done):2}{sum(off) / max(len(off), 1):>22.2f}"
              f"{len(done) - len(off):>12}{len(shown):>10}{shown.count(False):>10}")
    run.stop()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
