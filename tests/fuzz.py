"""A seeded fuzzer: mutated responses for every verifier, mutated files for the loader of questions.

    python tests/fuzz.py --responses 100000 --data-files 5000 --seed 0

Any exception that is not the documented one, any reward out of its range, and any row lost in silence ends the run.
"""

import argparse
import gzip
import json
import math
import random
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import clinic  # noqa: E402
import measures  # noqa: E402
import rewards  # noqa: E402
from data import CountingError, DataError, Question, load_questions  # noqa: E402

# ---- Responses ---------------------------------------------------------------------------------------------------

PIECES = (
    "<dx>", "</dx>", "<conclusion>", "</conclusion>", "<think>", "</think>", "<answer>", "</answer>", "<DX>", "< dx >",
    " System 1:", " System 2:", "system 1:",
    r"\boxed{", "}", r"\boxed{A}", r"\boxed{\text{B}}", r"\boxed{{C}", "{", "\\",
    "\0", "\ud800", "\udfff", "\u200b", "\u202e", "\ufeff", "\ufffd", "\u2028", "\x85", "\r", "İ", "ß", "ﬁ", "Ａ", "А",
    "𝐀", "e\u0301" * 3, "胸痛", "боль", "😀", "\U0010ffff", "°C", "≥", "−5", "-0.45", "1,200.0", "1e999", "90/", "½", "٣",
    "no ", "not ", "because of ", "which suggests ", "supported by ", "given ", "the patient has ", "unlikely ", ". ",
    ", ", ";", ":", "\n", "\t", " ", "A) ", "(B)", "option c ", "sharp chest pain ", "troponin of 90 ng/L ")


def questions():
    """Five of the clinic and some that are as odd as the responses."""
    odd = [("", {"A": "", "B": ""}), ("\0\ud800?", {"A": "\ud800", "B": "\0"}), ("Which?", {}),
           ("90 mg, (5) 1/2; ²³ and ٣.", {"A": "90", "B": "90"}), ("胸痛がある。", {"A": "心筋梗塞", "B": "x"}),
           (r"\boxed{A}<dx>", {"A": "</dx>", "B": "B", "C": "A) B)"}), ("no " * 5000, {"A": "no", "B": "not no"})]
    return clinic.make_questions(5, 0) + [Question(f"odd-{i}", s, o, "A", "fuzz") for i, (s, o) in enumerate(odd)]


def response(rng, q):
    """A trace of the clinic or nothing, changed in up to twelve places; now and then grown to as much as 1 MB."""
    objective, style = rng.choice(("crpo", "grpo")), rng.choice(list(clinic.STYLES))
    text = clinic.write_trace(q, rng, objective, style, rng.random() < 0.3) if q.source == "clinic" else ""
    for _ in range(rng.choice((0, 1, 2, 4, 12))):
        a, b = sorted(rng.randint(0, len(text)) for _ in range(2))
        b = min(b, a + 60)
        character = chr(rng.randrange(0x110000))
        piece = rng.choice((rng.choice(PIECES), text[a:b], character, rng.choice(PIECES) * 20, q.stem))
        text = rng.choice((text[:a] + piece + text[a:], text[:a] + text[b:], text[:a] + piece + text[b:], text[:b]))
    if rng.random() < 0.005:
        text = (text or "x") * (int(10 ** rng.uniform(3, 6)) // max(1, len(text)) + 1)
    return text[:1_000_000]


def check_response(text, q):
    """Every verifier on one response, against its range; -> what became of it, for the counts."""
    scores, counts = rewards.score(text, q), measures.measures(text, q)
    assert tuple(scores) == tuple(rewards.OBJECTIVES), scores
    for name, value in scores.items():
        assert math.isfinite(value) and 0 <= value <= rewards.OBJECTIVES[name], (name, value)
    for name, value in counts.items():
        assert type(value) is int and value >= 0, (name, value)
    assert counts["drc"] <= max(len(q.options) - 1, 0) and counts["cecd"] <= len(rewards.case_of(q).findings) + 1  # the age
    assert counts["citations"] == counts["cecd"] + counts["hallucination"]
    letter = rewards.extract_answer(text, q.options)
    assert letter is None or letter in q.options
    assert all(math.isfinite(rewards.total(scores, weights)) for weights in rewards.WEIGHTS.values())
    yield "answer " + ("none" if letter is None else "right" if scores["accuracy"] else "wrong")
    yield f"clinical {scores['clinical']}"
    yield f"thinking {scores['thinking']}"
    yield "consistency " + ("1" if scores["consistency"] == 1 else "0" if scores["consistency"] == 0 else "between")
    yield "grounding " + ("0" if scores["grounding"] == 0 else "above 0")
    yield "coverage " + ("0" if scores["coverage"] == 0 else "above 0")
    yield f"length to {max(3, len(str(len(text))))} digits"


def fuzz_responses(n, seed):
    rng, qs, outcomes = random.Random(f"responses-{seed}"), questions(), Counter()
    for i in range(n):
        q = rng.choice(qs)
        text = response(rng, q)
        try:
            outcomes.update(check_response(text, q))
        except Exception as error:
            raise AssertionError(f"response {i} of seed {seed}: {text[:300]!r} to {q.id}") from error
    return outcomes


# ---- Data files --------------------------------------------------------------------------------------------------

ROWS = (
    {"question": "A man coughs. What?", "answer": "Tea", "options": {"A": "Rest", "B": "Tea"}, "answer_idx": "B"},
    {"question": "Which fièvre?", "exp": "b", "cop": 2, "opa": "-0.45", "opb": "0.45", "opc": "(+)", "opd": "(-)"},
    {"question": "Rh(D). What?\nAnswer Choices: (A) one (B) two", "label": ["B"],
     "options": [{"letter": "A", "content": "one"}, {"letter": "B", "content": "two"}], "medical_task": "Diagnosis"},
    {"stem": "Who?", "options": {"A": "a", "B": "b"}, "answer": "A", "meta": {"k": 1}},
)
VALUES = (None, True, 0, 1, 4, -1, 1.5, float("nan"), 10**30, "", " ", "A", "Z", "é", "\0", "\ud800", [], ["A"],
          ["A", "B"], {}, {"A": "x"}, {"A": "x", "B": None}, {"A": "x", "C": "y"}, [{"letter": "A"}],
          "<|im_end|>", "x" * 5000, [[[[]]]])


def mutated_row(rng, number):
    """One line of a file, as text, and the id it was given."""
    row = dict(rng.choice(ROWS)) | {"id": rng.choice((*[number] * 20, str(number), 1))}
    if rng.random() < 0.15:
        for _ in range(rng.randint(1, 3)):
            name = rng.choice([*row, "stem", "cop", "label", "answer_idx", "id", "options", "source"])
            if rng.random() < 0.3:
                row.pop(name, None)
            else:
                row[name] = rng.choice(VALUES)
    line = json.dumps(row, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.05:
        at = rng.randrange(len(line))
        line = rng.choice((line[:at], line[:at] + rng.choice("{}[],:\"\\\0\n") + line[at:], line + line, f"[{line}]",
                           "[" * 99999, "null", "-", "1" * 5000))
    return line


def file_bytes(rng):
    """The bytes of a file of up to eight rows, and the ending of its name."""
    lines = [mutated_row(rng, i) for i in range(rng.randint(0, 8))]
    encoding = rng.choices(("utf-8", "latin-1", "utf-16", "utf-8-sig"), (90, 4, 2, 4))[0]
    errors = "surrogatepass" if "utf" in encoding else "replace"
    raw = rng.choice(("\n", "\n", "\r\n", "\n\n")).join(lines).encode(encoding, errors)
    if rng.random() < 0.1 and raw:
        at = rng.randrange(len(raw))
        noise = rng.randbytes(3)
        raw = rng.choice((raw[:at], raw[:at] + b"\0" + raw[at:], raw[:at] + noise + raw[at + 3:], b"\0" * 50 + raw))
    if rng.random() < 0.8:
        return raw, ".jsonl"
    packed = gzip.compress(raw)
    at = rng.randrange(len(packed))
    return rng.choice((packed, packed, packed[:at], packed[:at] + rng.randbytes(2) + packed[at + 2:], raw)), ".jsonl.gz"


def check_questions(found):
    for q in found:
        assert isinstance(q.stem, str) and q.stem.strip() and len(q.options) >= 2 and q.answer in q.options, q
        assert list(q.options) == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:len(q.options)])
        assert all(isinstance(text, str) and text.strip() for text in q.options.values())
    by_id = {q.id: (q.stem, q.options, q.answer) for q in found}
    assert len(by_id) == len(found)


def check_file(path, zero_based):
    """load_questions on one file, first strict, then skipping; -> what became of it."""
    outcome, strict = "read", None
    try:
        strict = load_questions(path, mcqa_zero_based=zero_based)
        check_questions(strict)
    except DataError as error:
        message = str(error)
        where = re.match(re.escape(str(path)) + r":(\d+): ", message)
        assert where or re.match(re.escape(str(path)) + ": (cannot be read|holds no usable row)", message), message
        outcome = "error with line" if where else "error of the file"
    printed = StringIO()
    try:
        with redirect_stderr(printed):
            kept = load_questions(path, skip_bad_rows=True, mcqa_zero_based=zero_based)
        check_questions(kept)
        told = re.search(r"skipped (\d+) bad rows, kept (\d+)", printed.getvalue())
        listed = len(re.findall(rf"^skipped {re.escape(str(path))}:\d+: ", printed.getvalue(), re.MULTILINE))
        assert (told is None) == (strict is not None) and (strict is None or strict == kept)
        if told:
            data = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
            filled = sum(bool(line.strip()) for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
            assert (int(told[1]), int(told[2]), filled) == (listed, len(kept), listed + len(kept)), printed.getvalue()
    except DataError as error:
        assert strict is None and str(path) in str(error)
        return outcome + (", counts from the other base" if isinstance(error, CountingError) else ", nothing to keep")
    return outcome if strict is not None else outcome + ", the rest kept"


def fuzz_files(n, seed):
    rng, outcomes = random.Random(f"files-{seed}"), Counter()
    with tempfile.TemporaryDirectory() as directory:
        for i in range(n):
            raw, ending = file_bytes(rng)
            path = Path(directory) / f"rows{ending}"
            path.write_bytes(raw)
            try:
                outcomes[check_file(path, rng.random() < 0.3)] += 1
            except Exception as error:
                raise AssertionError(f"file {i} of seed {seed}: {raw[:500]!r}") from error
    return outcomes


# ---- Slopes ------------------------------------------------------------------------------------------------------

VERIFIERS = ("accuracy", "clinical", "consistency", "thinking", "grounding", "coverage", "measures")
SIZES = (1_000, 10_000, 100_000, 1_000_000)


def slopes(seed):
    """{verifier: seconds at each of SIZES}, the worst of some texts, each the best of three."""
    rng, q = random.Random(f"slopes-{seed}"), clinic.make_questions(1, 0)[0]
    trace = clinic.write_trace(q, rng)
    units = [trace, trace[:200] + " ", "<dx>", r"\boxed{A} ", f"{q.stem.partition(',')[0]} supports {q.options['A']}. "]
    table = {}
    for name in VERIFIERS:
        verifier, row = getattr(rewards, name, None) or getattr(measures, name), []
        for size in SIZES:
            worst = 0.0
            for unit in units:
                middle, best = (unit * (size // len(unit) + 1))[:size], math.inf
                text = trace.replace("System 2:", f"System 2: {middle}", 1)
                for _ in range(3):
                    start = time.perf_counter()
                    verifier(text, q)
                    best = min(best, time.perf_counter() - start)
                worst = max(worst, best)
            row.append(worst)
        table[name] = row
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--responses", type=int, default=2000)
    parser.add_argument("--data-files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for what, n, fuzz in (("responses", args.responses, fuzz_responses), ("data files", args.data_files, fuzz_files)):
        start = time.perf_counter()
        outcomes = fuzz(n, args.seed)
        print(f"{n} {what}, no failure, {time.perf_counter() - start:.0f} s")
        for name, count in sorted(outcomes.items()):
            print(f"  {name:50} {count:8}")
    print("\nms a response by length, worst of five texts; the slope is of log time over log length, 10 kB to 1 MB")
    print("  verifier    " + "".join(f"{size // 1000:>8} kB" for size in SIZES) + "   slope")
    for name, row in slopes(args.seed).items():
        print(f"  {name:12}" + "".join(f"{1000 * t:11.2f}" for t in row) + f"{math.log10(row[3] / row[1]) / 2:8.2f}")


if __name__ == "__main__":
    main()
