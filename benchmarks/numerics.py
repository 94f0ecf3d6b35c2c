"""The largest error of each kernel family against float64.

usage: python benchmarks/numerics.py [--quick] [--markdown docs/numerics.md] [--json OUT] [NAME ...]

Each case is a small ONNX model. It runs on graphmill's CPU kernels, as they are and with accuracy="strict", on ONNX Runtime where
that is installed, and in float64: functions of one number by numpy and the C library, the others by graphmill's references
(plain numpy) with every tensor a float64. Operands are float32 numbers, so what is measured is the kernels' error alone.

Functions of one number are swept over every exponent of float32 with random mantissas, and evenly where they bend. For the others
each kind of operand that a case names is tried and the worst result counts: `normal` (of deviation 1), `wide` (magnitudes from
1e-6 to 1e6), `cancel` (sums that cancel to a rest of 1e-6), `offset` (a mean of 1000 deviations), `extreme` (integers at
both ends of their range).

ULP: the error in units of the last place of the float64 result; huge where a formula cancels and the result is near zero, which the
share of the scale shows better. The scale is what the case names: `abs`: the same computation over absolute values (sum |a||b| for
products), `max`: the largest result, `arg`: the larger of the operand's and the result's magnitude; 2^-24 = 6e-8 of it is half a
unit. `exact`: results are integers, the figure is the share of results that differ at all (ONNX Runtime's sums of u8 x s8 products
saturate on machines without VNNI).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import graphmill as gm
import machine
import numpy as np
import onnx
import onnx.parser
import speed
from numerics_cases import UNARY, Arrays, Case, cases, sweep

# ---- operands ---------------------------------------------------------------------------------------------------


def operands(case: Case, kind: str, quick: bool) -> Arrays:
    """Seeded float32 (and integer) operands of one kind."""
    if case.name in UNARY:
        return {"x": sweep(*UNARY[case.name][2:], 20_000 if quick else 400_000)}
    r = np.random.default_rng(len(case.name))
    out = {}
    for i, (name, shape) in enumerate(case.shapes.items()):
        if name in case.ranges:
            out[name] = _bounded(r, case.ranges[name], shape, kind)
        else:
            x = _floats(r, kind if i == 0 or kind in ("wide", "powers") else "normal", shape)
            out[name] = (x * case.scaled.get(name, 1)).astype(np.float32)
    if kind == "cancel":
        _pair_weights(case, out)
    return out


def _bounded(r: np.random.Generator, bounds: tuple[str, int, int], shape: tuple[int, ...], kind: str) -> np.ndarray:
    dtype, low, high = bounds
    if dtype == "T":
        return r.uniform(low, high, shape).astype(np.float32)
    ends = np.where(r.random(shape) < 0.9, high, low) if kind == "extreme" else r.integers(low, high + 1, shape)
    return ends.astype(dtype)


def _floats(r: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    x = r.standard_normal(shape)
    if kind == "wide":
        return x * 10.0 ** r.uniform(-6, 6, shape)
    if kind == "powers":
        return np.abs(x) * 2.0 ** r.uniform(-10, 10, shape)
    if kind == "offset":
        return x + 1000
    if kind == "one":
        return 1 + x * 1e-3
    if kind == "extreme":
        return np.where(x < 0, -1e6, 3e38) * r.random(shape)
    if kind == "cancel":
        # Pairs of opposite numbers along the axes that are summed (whichever these are), but for a rest of 1e-6.
        half = x.reshape(-1)
        half[1::2] = -half[: half.size // 2 * 2 : 2] * (1 + 1e-6 * r.standard_normal(half.size // 2))
    return x


def _pair_weights(case: Case, arrays: Arrays) -> None:
    """Equal weights for the two numbers of a pair, where the operand is a product's and they stand side by side."""
    if "w" in arrays and case.family == "product" and case.body.startswith("y = MatMul"):
        w = arrays["w"]
        w[..., 1::2, :] = w[..., : w.shape[-2] // 2 * 2 : 2, :]


# ---- models -----------------------------------------------------------------------------------------------------

ONNX_TYPES = {"float32": "float", "float64": "double", "uint8": "uint8", "int8": "int8"}


def model_of(case: Case, arrays: Arrays) -> onnx.ModelProto:
    """The case's model, its constants stored in it, for the element types of the arrays."""
    wide = any(a.dtype == np.float64 for a in arrays.values())
    inputs = ", ".join(
        f"{ONNX_TYPES[str(a.dtype)]}[{','.join(map(str, a.shape))}] {n}" for n, a in arrays.items() if n not in case.constants
    )
    text = f"""<ir_version: 10, opset_import: ["" : {24 if "Swish" in case.body else 23}]>
        m ({inputs}) => ({case.outputs}) {{ {case.body} }}"""
    model = onnx.parser.parse_model(text.replace("(T y)", f"({'double' if wide else 'float'} y)"))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(arrays[n], n) for n in case.constants)
    return model


def feeds(case: Case, arrays: Arrays) -> Arrays:
    return {n: a for n, a in arrays.items() if n not in case.constants}


def result(outputs: Any) -> np.ndarray:
    return np.asarray(outputs["y"])


def kernels(exe: gm.Executable) -> list[str]:
    """The kernels that a compiled model runs."""
    return [s.source.variant or s.node.op.name for s in exe.plan.steps if hasattr(s, "source")]


def in_float64(case: Case, arrays: Arrays) -> np.ndarray:
    """The result in float64, or of the integers' references where the case is exact."""
    if case.exact is not None:
        with np.errstate(all="ignore"):
            return case.exact(*(a.astype(np.float64) for a in arrays.values()))
    if case.scale != "exact":
        arrays = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in arrays.items()}
    with np.errstate(all="ignore"):
        return result(gm.compile(model_of(case, arrays), target="reference").run(feeds(case, arrays)))


def onnxruntime(case: Case, arrays: Arrays) -> np.ndarray | None:
    """ONNX Runtime's result with all optimisations; None where it is not installed or does not know the operator."""
    try:
        import onnxruntime as ort
    except ImportError:
        return None
    o = ort.SessionOptions()
    o.intra_op_num_threads, o.log_severity_level = 1, 4
    try:
        session = ort.InferenceSession(model_of(case, arrays).SerializeToString(), o, providers=["CPUExecutionProvider"])
        return session.run(["y"], feeds(case, arrays))[0]
    except Exception:  # it has no kernel for the operator, and says so by errors of several kinds
        return None


# ---- errors -----------------------------------------------------------------------------------------------------


@dataclass
class Errors:
    """Of one engine: in units of the last place, and as a share of the scale (or of the results that differ)."""

    ulp: float
    scale: float

    def worse(self, other: Errors | None) -> Errors:
        return self if other is None else Errors(max(self.ulp, other.ulp), max(self.scale, other.scale))


def errors(got: np.ndarray, want: np.ndarray, scale: np.ndarray) -> Errors:
    """The largest errors where float32 can hold the result. Infinite where one is NaN or infinite and the other is not."""
    with np.errstate(all="ignore"):
        nearest = want.astype(np.float32)
        odd = (np.isnan(got) != np.isnan(want)) | (np.isinf(got) & (np.abs(want) < 3.40e38)) | (np.isinf(want) & (got != want))
        if odd.any():
            return Errors(math.inf, math.inf)
        fine = np.isfinite(nearest) & np.isfinite(got)
        error = np.abs(got[fine].astype(np.float64) - want[fine])
        share = np.divide(error, np.broadcast_to(scale, want.shape)[fine], out=np.zeros_like(error), where=error > 0)
        return Errors(float((error / np.spacing(np.abs(nearest[fine]))).max(initial=0)), float(share.max(initial=0)))


def scale_of(case: Case, arrays: Arrays, want: np.ndarray) -> np.ndarray:
    """What errors are compared with; at least the smallest normal number, below which all rounding is coarse."""
    if case.scale == "abs":
        scale = in_float64(case, {n: np.abs(a) for n, a in arrays.items()})
    elif case.scale == "arg":
        scale = np.maximum(np.abs(want), np.abs(arrays["x"].astype(np.float64)))
    else:
        scale = np.max(np.abs(want[np.abs(want) < np.finfo(np.float32).max]))
    return np.maximum(scale, np.finfo(np.float32).tiny)


@dataclass
class Row:
    """What was found for a case: errors of each engine, and the kernels that ran."""

    family: str
    name: str
    scale: str
    kernels: list[str]
    strict_kernels: list[str]
    found: dict[str, Errors]


def measure(case: Case, quick: bool = False, peers: bool = True) -> Row:
    """The worst errors of a case over its kinds of operands."""
    row = Row(case.family, case.name, case.scale, [], [], {})
    for kind in case.kinds:
        arrays = operands(case, kind, quick)
        want, model = in_float64(case, arrays), model_of(case, arrays)
        fast, strict = (gm.compile(model, threads=1, accuracy=a, strict_native=True) for a in ("fast", "strict"))
        row.kernels, row.strict_kernels = kernels(fast), kernels(strict)
        got = {"fast": result(fast.run(feeds(case, arrays))), "strict": result(strict.run(feeds(case, arrays)))}
        if peers and (theirs := onnxruntime(case, arrays)) is not None:
            got["onnxruntime"] = theirs
        if case.scale != "exact":
            scale = scale_of(case, arrays, want)
        for engine, y in got.items():
            here = Errors(0, float((y != want).mean())) if case.scale == "exact" else errors(y, want, scale)
            row.found[engine] = here.worse(row.found.get(engine))
    return row


# ---- the page ---------------------------------------------------------------------------------------------------

ENGINES = ("fast", "strict", "onnxruntime")


def table(rows: Sequence[Row]) -> str:
    heads = ("family", "case", "kernel", "scale", *(f"{e}, ULP" for e in ENGINES), *(f"{e}, of scale" for e in ENGINES))

    def shown(r: Row, engine: str, column: str) -> str:
        e = r.found.get(engine)
        if e is None or (column == "ulp" and r.scale in ("abs", "exact")):
            return ""
        if column == "scale":
            return f"{e.scale:.1e}" if e.scale else "0"
        return f"{e.ulp:.2f}" if e.ulp < 100 else f"{e.ulp:.0e}"

    cells = [
        (r.family, r.name, ", ".join(r.kernels), r.scale, *(shown(r, e, c) for c in ("ulp", "scale") for e in ENGINES))
        for r in rows
    ]
    return speed.markdown_table(heads, cells)


NOTES = """NaN, infinities, denormals and signed zeros give what onnx.reference or ONNX Runtime gives, element by element
(`tests/kernels/cpu/test_special_values.py`), and denormals are not flushed. One thing is decided otherwise: NaN is the largest of a
MaxPool, as of a ReduceMax, where both others pass over it. Errors above stay below twice these figures on every machine that runs
`tests/benchmarks/test_numerics.py`, which also holds accuracy="strict" to kernels without Winograd."""


def page(rows: Sequence[Row], command: str) -> str:
    paragraphs = [" ".join(p.split()) for p in (__doc__ or "").split("\n\n") if not p.startswith("usage")]
    return (
        "\n\n".join(
            ["# Numeric errors", machine.made_by(command).strip(), *paragraphs, table(rows).rstrip(), " ".join(NOTES.split())]
        )
        + "\n"
    )


def main(arguments: list[str] | None = None) -> int:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("names", nargs="*", help="cases or families (default: all)")
    ap.add_argument("--quick", action="store_true", help="sweep functions over fewer numbers")
    ap.add_argument("--markdown")
    ap.add_argument("--json")
    a = ap.parse_args(arguments)
    rows = []
    for case in cases():
        if a.names and not {case.name, case.family} & set(a.names):
            continue
        row = measure(case, a.quick)
        rows.append(row)
        figures = "  ".join(f"{e} {x.ulp:.3g} ULP, {x.scale:.2g}" for e, x in row.found.items())
        print(f"{row.family:14} {row.name:28} {figures}  {', '.join(row.kernels)}", flush=True)
    if a.json:
        Path(a.json).write_text(json.dumps({"machine": machine.machine(), "rows": [asdict(r) for r in rows]}, indent=1))
    if a.markdown:
        Path(a.markdown).write_text(page(rows, f"python benchmarks/numerics.py{' --quick' * a.quick} --markdown {a.markdown}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
