import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def shared():
    """The folder of real benchmark rows and the real tokenizer; tests that need it skip where it is not."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs the real benchmark rows and tokenizer in ../shared, which are not here")
    return path
