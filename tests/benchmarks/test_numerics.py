"""The largest errors that `benchmarks/numerics.py` finds stay where they are, and accuracy="strict" keeps out what rounds worse."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import graphmill as gm
import numpy as np
import pytest
from graphmill.kernels.cpu import target
from graphmill.kernels.spec import KernelSource, Launch, Refusal

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import numerics

# Twice the errors of docs/numerics.md (thrice where sums of vectors of 128 bits need it): 0.5 and more are units of the last place,
# less is a share of the case's scale, 0 is exact.
BOUNDS = {
    "exp": 1.9, "log": 1.6, "erf": 2.2, "tanh": 4.1, "sigmoid": 2.4e-07, "gelu": 2.1e-07, "gelu_tanh": 2.2e-07,
    "silu": 2.6e-07, "softplus": 3.4, "mish": 2.4e-07, "elu": 1.6, "selu": 3.6, "hard_swish": 1.8e-07, "softsign": 3,
    "sqrt": 0.5001, "reciprocal": 0.5001, "sin": 2.9, "cos": 3.1, "tan": 6.6, "asin": 1.7, "acos": 1.8, "atan": 1.7,
    "sinh": 3.6, "cosh": 3.6, "asinh": 3, "acosh": 3.7, "atanh": 3.2, "pow": 1.1, "div": 0.5001, "matmul": 2.4e-06,
    "matmul, one row": 4.9e-07, "matmul, long sums": 1.2e-06, "matmul, batched": 6.3e-07, "gemm, bias, relu": 1e-06,
    "gemm, gelu": 1.2e-06, "einsum": 6.9e-07, "3x3, 64 channels": 7.4e-07, "3x3, 64 channels, wide": 0.00066,
    "3x3, 512 channels": 9.8e-07, "1x1": 8.5e-07, "3x3, stride 2": 1.4e-06, "7x7 of 3 channels": 1e-06,
    "5x5, 20 channels": 1.2e-06, "5x5 to 1 channel": 3.7e-07, "depthwise 3x3": 5e-07, "grouped": 9.6e-07, "1-d": 9.2e-07,
    "transposed": 8.6e-07,
    "Sum, last axis": 1.6e-08, "Sum, first axis": 6.4e-08, "Mean, last axis": 1.6e-08, "Mean, first axis": 6.3e-08,
    "SumSquare, last axis": 1.9e-07, "SumSquare, first axis": 4.6e-07, "L1, last axis": 2.9e-07, "L1, first axis": 5.7e-07,
    "L2, last axis": 1.3, "L2, first axis": 3.6, "LogSumExp, last axis": 1.3, "LogSumExp, first axis": 1.4,
    "Prod, last axis": 2.3e-05, "Prod, first axis": 6.2e-06, "AveragePool": 8.8e-07, "GlobalAveragePool": 7.5e-08,
    "LpPool": 3.2e-07, "MaxPool": 0, "CumSum": 3.3e-07, "softmax": 14, "softmax, first axis": 28, "log_softmax": 2.6,
    "layer_norm": 2.4e-07, "instance_norm": 1.6e-07, "group_norm": 1.4e-07, "layer_norm, mean 1000 deviations": 5.7e-05,
    "instance_norm, mean 1000 deviations": 2.1e-05, "group_norm, mean 1000 deviations": 3.6e-05, "rms_norm": 5.7,
    "batch_norm": 1.7e-07, "lrn": 4.2, "attention": 1.1e-06, "attention, causal": 4.5e-07, "LSTM": 4e-07, "GRU": 1.2e-06,
    "GRU linear_before_reset=1": 6.5e-07, "RNN": 7.6e-07, "resize linear": 2e-07, "resize cubic": 2.3e-07,
    "grid_sample": 6e-06, "MatMulInteger": 0, "MatMulInteger, small weights": 0, "QLinearMatMul": 0, "ConvInteger": 0, "QLinearConv": 0, "QuantizeLinear": 0,
    "DequantizeLinear": 0, "DynamicQuantizeLinear": 0,
}  # fmt: skip
# Where the fast kernel rounds worse, and the strict one must not.
STRICT = {
    "3x3, 64 channels": 4.9e-07,
    "3x3, 64 channels, wide": 1.7e-06,
    "3x3, 512 channels": 2.7e-07,
}
CASES = {c.name: c for c in numerics.cases()}


@pytest.mark.parametrize("name", CASES)
def test_errors(name: str) -> None:
    row = numerics.measure(CASES[name], quick=True, peers=False)
    fast, strict = row.found["fast"], row.found["strict"]
    bound, least = BOUNDS[name], STRICT.get(name, BOUNDS[name])
    column = "ulp" if bound >= 0.5 else "scale"
    assert getattr(fast, column) <= bound and getattr(strict, column) <= least, (fast, strict)
    assert "conv.winograd" not in row.strict_kernels and ("conv.winograd" in row.kernels) == (name in STRICT)


@pytest.mark.parametrize("name", ["3x3, 64 channels", "softmax", "softmax, first axis", "attention", "layer_norm", "gelu", "LSTM",
                                  "gemm, gelu"])  # fmt: skip
def test_strict_kernels(name: str) -> None:
    """Their texts, not only their names: neither Winograd's transforms nor polynomials that round worse."""
    case = CASES[name]
    exe = gm.compile(numerics.model_of(case, numerics.operands(case, "normal", quick=True)), accuracy="strict")
    texts = [s.source.text for s in exe.plan.steps if hasattr(s, "source")]
    assert texts and not any(re.search("|".join([r"\bto_frequencies\b", *target.REDUCED]), t) for t in texts)


def test_less_exact_functions_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = KernelSource("softmax_exp(x) + my_softmax_exp(x) + exp(x)", lambda call: Launch(()))
    strict = KernelSource("softmax_exp(1)", lambda call: Launch(()))
    for source, text in ((plain, "exp(x) + my_softmax_exp(x) + exp(x)"), (replace(plain, strict=strict), "exp(1)")):
        monkeypatch.setattr(target, "select", lambda node, source=source: source)
        assert target.selector("strict")(None).text == text
    monkeypatch.setattr(target, "select", lambda node: Refusal("no"))
    assert target.selector("strict")(None) == Refusal("no")


def test_an_error_is_seen() -> None:
    want = np.array([1, -4, 0, np.nan, 1e39, 2.0**-140])
    with np.errstate(over="ignore"):
        got = want.astype(np.float32)
    assert numerics.errors(got, want, np.abs(want)) == numerics.Errors(0, 0)
    got[1] += 2.0**-20
    assert numerics.errors(got, want, np.array(8.0)) == numerics.Errors(2, 2.0**-23)
    got[3] = 1
    assert numerics.errors(got, want, np.array(8.0)).ulp == np.inf


def test_the_page(tmp_path: Path) -> None:
    page, data = tmp_path / "page.md", tmp_path / "rows.json"
    assert numerics.main(["--quick", "erf", "MatMulInteger", "--markdown", str(page), "--json", str(data)]) == 0
    assert "| elementwise | erf | loops | arg |" in page.read_text()
    assert [r["name"] for r in json.loads(data.read_text())["rows"]] == ["erf", "MatMulInteger"]
