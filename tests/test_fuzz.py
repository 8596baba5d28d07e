"""The fuzzer of fuzz.py in small; every check is an assertion in there."""

import fuzz


def test_responses_of_any_shape_are_scored():
    outcomes = fuzz.fuzz_responses(700, seed=1)
    assert min(outcomes[name] for name in ("answer right", "answer wrong", "answer none", "clinical 1.5",
                                           "grounding above 0", "coverage above 0", "consistency between")) > 5


def test_files_of_any_shape_are_read_or_refused():
    outcomes = fuzz.fuzz_files(300, seed=1)
    assert min(outcomes[name] for name in ("read", "error with line, the rest kept", "error with line, nothing to keep",
                                           "error of the file, nothing to keep")) > 5
