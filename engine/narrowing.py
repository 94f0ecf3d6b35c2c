"""What fewer bits cost: every value of a model that is computed in 16-bit floats, against the same value in f32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import interp
from ..ir.core import Module, Node
from ..ir.errors import InputError
from ..ir.types import TensorType
from .binding import read_inputs
from .compiler import load, optimize
from .options import DEFAULT_PIPELINE, PRECISIONS, Options
from .report import CompileReport

PREPARE = DEFAULT_PIPELINE + ",split-branches,decompose,fold,cse"


@dataclass(frozen=True)
class Narrowed:
    """One value: `error` is the root of the mean square of its difference, over that of the value in f32 (NaN or infinite where
    only one of them is finite), `reason` why its node stays in f32."""

    name: str
    op: str
    dtype: str
    error: float
    reason: str = ""


def precision_report(model: Any, inputs: Mapping[str, Any], precision: str = "fp16", keep_fp32: Sequence[str] = (),
                     shapes: Mapping[str, int] | None = None,
                     observe: Callable[[str], None] | None = None) -> list[Narrowed]:  # fmt: skip
    """The float values of the main graph in the order in which they are computed, and how far each is from f32 on these inputs.

    `model` and `shapes` as for `graphmill.compile`, `precision` "fp16" or "bf16". Both are computed by the operators' references:
    this says what the types cost, and needs no GPU. All values in f32 are held at once. `observe` is told each node's name.
    """
    floats = PRECISIONS.get(precision)
    if not floats:
        raise InputError(f"precision = {precision!r}, expected one of {', '.join(k for k, v in PRECISIONS.items() if v)}")
    keep = f",keep={';'.join(keep_fp32)}" if keep_fp32 else ""
    report = CompileReport()
    narrow = _prepared(model, f"{PREPARE},precision{{to={floats}{keep}}},canonicalize,cse", shapes, report)
    exact: dict[str, np.ndarray] = {}
    rows: list[Narrowed] = []
    reasons = {d.at.removeprefix("%"): d.reason for d in report.decisions if d.rule == "precision" and d.outcome == "refused"}

    def remember(node: Node, operands: Any, results: Any) -> None:
        exact.update((v.name, x) for v, x in zip(node.results, results) if _is_float(x))
        if observe is not None:
            observe(node.name)

    def compare(node: Node, operands: Any, results: Any) -> None:
        for v, x in zip(node.results, results):
            if v.name in exact and _is_float(x) and isinstance(v.type, TensorType):
                rows.append(Narrowed(v.name, node.op.name, str(v.type.dtype), _error(x, exact[v.name]), reasons.get(node.name, "")))
        if observe is not None:
            observe(node.name)

    wide = _prepared(model, PREPARE, shapes, CompileReport())
    given = read_inputs(wide, inputs)
    interp.run(wide, given, hook=remember)
    interp.run(narrow, given, hook=compare)
    return rows


def _prepared(model: Any, passes: str, shapes: Mapping[str, int] | None, report: CompileReport) -> Module:
    options = Options("cuda", passes=passes, shapes=dict(shapes or {}))
    module = load(model, options)
    optimize(module, options, report)
    return module


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and (x.dtype.kind == "f" or x.dtype.name == "bfloat16")


def _error(x: np.ndarray, exact: np.ndarray) -> float:
    a, b = x.astype(np.float64), exact.astype(np.float64)
    with np.errstate(all="ignore"):
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, a - b)
        scale = np.sqrt(np.mean(np.square(b[np.isfinite(b)]))) if np.isfinite(b).any() else 0.0
        size = np.sqrt(np.mean(np.square(difference))) if a.size else 0.0
        return float(size / scale) if scale else float(size)
