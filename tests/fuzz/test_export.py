"""Random graphs, optimized with and without fusion, written as ONNX: ONNX Runtime answers as it does on the original."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
from graphmill.engine.compiler import optimize
from graphmill.engine.options import Options
from graphmill.engine.report import CompileReport
from graphmill.frontends.onnx.reader import read
from graphmill.frontends.onnx.writer import export
from graphs import G, graphs
from hypothesis import given
from hypothesis import strategies as st
from test_graphs import equal, peer, sensitive


@given(graphs(), st.integers(0, 1000), st.sampled_from(["reference", "cpu"]), st.sampled_from([None, 21]))
def test_what_is_written_is_what_was_read(g: G, seed: int, target: str, opset: int | None):
    module = read(g.model)
    optimize(module, Options(target), CompileReport())
    proto = export(module, opset)
    onnx.checker.check_model(proto)
    for which in (0, 1):
        inputs = g.inputs(which, seed)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            want = peer(g.model, inputs)
            if want is None:
                return
            got = peer(proto, inputs)
            assert got is not None, onnx.printer.to_text(proto)
            wrong = [d for a, b in zip(got, want, strict=True) if (d := equal(a, b))]
            assert not wrong or sensitive(g.model, inputs, want), "\n".join(wrong)
