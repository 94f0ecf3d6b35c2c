"""Every model of ONNX's own backend suite that is made without files can be read, and its types can be inferred."""

from __future__ import annotations

import warnings

import pytest
from graphmill.frontends.onnx.reader import Reader, load
from graphmill.ir.infer import infer_module

# onnx.reference has no Gradient either: it stands for training.
UNSUPPORTED = {("ai.onnx.preview.training", "Gradient")}


@pytest.mark.slow
def test_the_node_models_are_read():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        cases = load_model_tests(kind="node")
    assert len(cases) > 1000
    failed = {}
    for case in cases:
        reader = Reader(load(case.model))
        problems = [str(p) for p in reader.problems if (p.domain, p.op) not in UNSUPPORTED]
        if problems:
            failed[case.name] = problems
        elif not reader.problems:
            infer_module(reader.module)
    assert not failed
