"""Passes as text: each case in cases/*.gir is IR, a pipeline to run on it, and FileCheck lines for what must come out.

    // RUN: infer,canonicalize
    module @m { ... }
    // CHECK: %y = relu(%x)
    // CHECK: decisions:
    // CHECK: identity(x) => x @ %y: applied

Cases of a file are separated by lines of `// -----`. After every pass the module is verified and printed, parsed and printed again.
What the module computes must not change: it is interpreted on random inputs before and after (but for a case with `// NO-RUN`; a case
with `// TOLERANCE: 0.01` computes in fewer bits). Passes that ask a target ask the CPU's, or CUDA's after `// TARGET: cuda`.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser, pattern_for_opts
from graphmill.ir import interp
from graphmill.ir.core import Module
from graphmill.ir.infer import infer_module
from graphmill.ir.parser import parse_module
from graphmill.ir.passes.manager import Context, parse_pipeline, print_pipeline, run_pipeline
from graphmill.ir.printer import print_module
from graphmill.ir.symbols import evaluate
from graphmill.ir.types import TensorType
from graphmill.kernels.cpu.target import CpuTarget
from graphmill.kernels.cuda.target import CudaTarget

CASES = sorted(Path(__file__).parent.glob("cases/*.gir"))


def cases() -> list[Any]:
    out = []
    for path in CASES:
        for i, text in enumerate(path.read_text().split("// -----\n")):
            out.append(pytest.param(text, id=f"{path.stem}-{i}"))
    return out


def random_inputs(module: Module) -> dict[str, np.ndarray]:
    rng, sizes, out = np.random.default_rng(0), {name: max(3, s.lo) for name, s in module.symbols.items()}, {}
    for v in module.main.inputs:
        assert isinstance(v.type, TensorType) and v.type.shape is not None
        shape, d = [evaluate(n, sizes) for n in v.type.shape], v.type.dtype
        a = rng.uniform(-2, 2, shape) if d.is_float else rng.integers(0, 3, shape)
        out[v.name] = np.asarray(a).astype(d.np)
    return out


def round_trip(pass_: Any, module: Module) -> None:
    blobs: dict[str, np.ndarray] = {}
    text = print_module(module, blobs=blobs)
    assert print_module(parse_module(text, blobs), blobs={}) == text


def filecheck(checks: str, output: str) -> None:
    opts = Options("case", "-")
    parser = Parser(opts, io.StringIO(checks), *pattern_for_opts(opts))
    errors = io.StringIO()
    with redirect_stderr(errors):
        code = Matcher(opts, FInput("-", output), parser).run()
    assert code == 0, f"{errors.getvalue()}\n--- the output was\n{output}"


@pytest.mark.parametrize("text", cases())
def test_case(text: str) -> None:
    pipeline = next(line for line in text.splitlines() if line.startswith("// RUN:")).removeprefix("// RUN:").strip()
    module, untouched = parse_module(text), parse_module(text)
    infer_module(untouched)
    inputs = random_inputs(untouched)
    passes = parse_pipeline(pipeline)
    assert [print_pipeline([p]) for p in parse_pipeline(print_pipeline(passes))] == [print_pipeline([p]) for p in passes]
    ctx = Context(target=CudaTarget() if "// TARGET: cuda" in text else CpuTarget())
    run_pipeline(module, passes, ctx, round_trip)
    filecheck(text, print_module(module) + "\ndecisions:\n" + "\n".join(map(str, ctx.log.decisions)))
    given = next((line for line in text.splitlines() if line.startswith("// TOLERANCE:")), "")
    tolerance = float(given.removeprefix("// TOLERANCE:") or 2e-5)
    if "// NO-RUN" not in text:
        before, after = interp.run(untouched, inputs), interp.run(module, inputs)
        for name, a in before.items():
            b = after[name]
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=tolerance, atol=tolerance)
