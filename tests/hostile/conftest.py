"""One worker process for all hostile models; the modules of this folder import one another."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def worker():
    from hostile_harness import Worker

    w = Worker()
    yield w
    w.close()
