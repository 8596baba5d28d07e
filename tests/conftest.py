"""Tests compute on the CPU, also where there is a GPU, as they compare bits and fork processes. `CRPO_TEST_GPU=1 pytest
tests/test_model.py tests/test_sampler.py tests/test_device.py` lets those three use it."""

import os
import sys
from pathlib import Path

import pytest

if not os.environ.get("CRPO_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def shared():
    """The folder of real benchmark rows and the real tokenizer; tests that need it skip where it is not."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs the real benchmark rows and tokenizer in ../shared, which are not here")
    return path


def pytest_collection_modifyitems(items):
    """test_train_sft comes first: where torch is built for CUDA, a process forked after a backward pass has none."""
    items.sort(key=lambda item: item.module.__name__ != "test_train_sft")
