"""Real trained models read, passed through the portable passes and written again: ONNX Runtime answers as it does on the original."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from graphmill.engine.compiler import optimize
from graphmill.engine.options import Options
from graphmill.engine.report import CompileReport
from graphmill.frontends.onnx.reader import read
from graphmill.frontends.onnx.writer import export

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import realset

pytestmark = [pytest.mark.slow, pytest.mark.models]
# Branches return tensors of two ranks, so that the rank of an output is not known: the checker wants a shape all the same.
NO_RANK = ("livekit_plugins_silero__silero_vad", "silero_vad__silero_vad_16k_op15", "silero_vad__silero_vad_half")


def session(model: str | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("entry", realset.entries(max_mb=10), ids=lambda e: e["file"][:-5])
def test_export(entry: dict[str, Any]) -> None:
    try:
        path = str(realset.fetch(entry, realset.folder()))
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"{entry['package']} cannot be had: {e}")
    module, feeds = read(path), realset.feeds(entry)
    optimize(module, Options("reference"), CompileReport())
    proto = export(module)
    if not entry["file"].startswith(NO_RANK):
        onnx.checker.check_model(proto)
    got, want = session(proto.SerializeToString()).run(None, feeds), session(path).run(None, feeds)
    for a, b in zip(got, want, strict=True):
        share, what = realset.difference(realset.as_array(a), realset.as_array(b))
        assert share <= 1, what
