"""The modules of this folder and the worker of the hostile models can be imported; kernels are kept for the session."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

for folder in (".", "../hostile"):
    sys.path.insert(0, str((Path(__file__).parent / folder).resolve()))

LONG = int(os.environ.get("GRAPHMILL_FUZZ_LONG") or 0)
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("fuzz", max_examples=40, derandomize=True, database=None, **COMMON)
settings.register_profile("fuzz-long", max_examples=LONG or 1, **COMMON)
settings.load_profile("fuzz-long" if LONG else "fuzz")


@pytest.fixture(scope="session", autouse=True)
def kernels_of_the_session(tmp_path_factory):
    """One cache for all models of this run, so that equal kernels compile once; a set GRAPHMILL_CACHE is kept."""
    if "GRAPHMILL_CACHE" in os.environ:
        yield
        return
    os.environ["GRAPHMILL_CACHE"] = str(tmp_path_factory.mktemp("kernels"))
    yield
    del os.environ["GRAPHMILL_CACHE"]


@pytest.fixture(scope="session")
def worker():
    from hostile_harness import Worker

    w = Worker()
    yield w
    w.close()
