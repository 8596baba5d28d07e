"""The rule measures against hand labels (fixtures/LABELS.md): 60 responses in free prose to questions of our own.

The goal, exact counts for 24 of 30 on each measure, is missed: of the first 30, 14 on citations, 19 on rejections, 14
on unsupported; of the second, 13, 15 and 13; of the even ids, which no rule was mended on though their counts were
seen, 13, 19 and 12 of 30. A
response cites 7 findings, so an exact count takes nearly every one of them. What is left is paraphrase ("the gait came
first"), parts of a finding that count as findings, and medicine: whether a reason is true. The floors below hold what
was reached. Who reads reaches it: two readers with the rules of labelling alone agree with the labels in 27 of 30 or
more, on each measure.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from measures import citations, rejections, unsupported

COUNTS = {"citations": citations, "rejections": rejections, "unsupported": unsupported}
FIRST, SECOND, READERS = (
    [json.loads(line) for line in (Path(__file__).parent / "fixtures" / name).open(encoding="utf-8")]
    for name in ("labelled.jsonl", "labelled2.jsonl", "readers.jsonl"))


def test_the_labels_are_whole():
    assert len({row["id"] for row in FIRST}) == len({row["id"] for row in SECOND}) == 30
    for row in FIRST + SECOND:
        assert row["answer"] in row["options"]
        assert set(row["rejections"]) <= set(row["options"]) - {row["answer"]}
        assert all(len(set(row[m])) == len(row[m]) for m in COUNTS)


def test_other_readers_count_alike():
    counts = {row["id"]: row["counts"] for row in READERS}
    for rows in (FIRST, SECOND):
        for reader in (0, 1):
            for i, measure in enumerate(COUNTS):
                assert sum(counts[row["id"]][reader][i] == len(row[measure]) for row in rows) >= 27


@pytest.mark.parametrize("measure, first, second", [  # exact of 30, at least; mean absolute error of the count, at most
    ("citations", (14, 0.87), (13, 1.07)),
    ("rejections", (19, 0.5), (15, 0.71)),
    ("unsupported", (14, 0.67), (13, 0.77)),
])
def test_counts_agree_as_far_as_reached(measure, first, second):
    for rows, (exact, error) in ((FIRST, first), (SECOND, second)):
        off = []
        for row in rows:
            question = SimpleNamespace(stem=row["stem"], options=row["options"], answer=row["answer"])
            off.append(abs(len(COUNTS[measure](row["response"], question)) - len(row[measure])))
        assert off.count(0) >= exact
        assert sum(off) / len(off) <= error
