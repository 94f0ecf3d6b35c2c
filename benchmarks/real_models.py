"""Runs the real models on graphmill and on ONNX Runtime and compares their answers.

usage: python benchmarks/real_models.py [--min-mb 0] [--max-mb 10] [--target cpu|cuda|reference] [--device gpu|shim]
                                        [--markdown OUT.md] [--json OUT.json] [NAME ...]

The oracle is ONNX Runtime, unoptimised and on one thread. What int8 models answer depends on more than the model: sums saturate on
hosts without VNNI, a hidden state that is quantized anew in each step turns one rounding into another number, and a batch cut for
two threads is quantized in two parts. There graphmill must stay within three times the difference between the oracle and ONNX
Runtime optimised on two threads, on the same model with its weights shifted to unsigned bytes (whose sums do not saturate), or on
inputs one rounding away.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import realset
from machine import made_by


@dataclass
class Result:
    """What became of one model."""

    model: str
    mb: float
    ok: bool = True
    worst: float = 0.0
    variants: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    native: int = 0
    reference: int = 0
    by_reference: list[str] = field(default_factory=list)
    compile_s: float = 0.0
    kernels: int = 0
    compiled: int = 0


def session(path: Path | bytes, optimised: bool = False) -> Any:
    import onnxruntime as ort

    o = ort.SessionOptions()
    o.intra_op_num_threads, o.log_severity_level = 1 + optimised, 4
    level = ort.GraphOptimizationLevel
    o.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return ort.InferenceSession(path if isinstance(path, bytes) else str(path), o, providers=["CPUExecutionProvider"])


def nudged(x: np.ndarray) -> np.ndarray:
    """Each number of a float array moved to its neighbour."""
    return np.nextafter(x, x.dtype.type(np.inf)) if x.dtype.kind == "f" else x


# The weights of dynamically quantized operators, and their zero points, by the number of the input.
SHIFTED = {"DynamicQuantizeLSTM": ((1, 9), (2, 11)), "MatMulInteger": ((1, 3),), "ConvInteger": ((1, 3),)}


def unsigned(path: Path) -> bytes:
    """The model with constant weights of i8 and their zero points moved up by 128 to u8, which means the same."""
    import onnx
    from onnx import numpy_helper

    m = onnx.load(path)
    constants = {t.name: t for t in m.graph.initializer}
    for node in m.graph.node:
        for w, zero_point in SHIFTED.get(node.op_type, ()):
            names = [node.input[i] if i < len(node.input) else "" for i in (w, zero_point)]
            for t in [constants[n] for n in names if n in constants] if all(n in constants for n in names) else []:
                if t.data_type == onnx.TensorProto.INT8:
                    t.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(t).view(np.uint8) + np.uint8(128)), t.name))
    return m.SerializeToString()


def accepts(s: Any) -> Any:
    def run(feeds: realset.Feeds) -> bool:
        try:
            s.run(None, feeds)
        except Exception:  # whatever the oracle raises means that it cannot run these inputs
            return False
        return True

    return run


QUANTIZED = {
    "MatMulInteger",
    "ConvInteger",
    "DynamicQuantizeLSTM",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "DynamicQuantizeLinear",
}


def quantized(entry: dict) -> bool:
    return any(op.split("::")[-1] in QUANTIZED for op in entry["ops"])


def check(entry: dict, folder: Path, target: str, device: str = "gpu") -> Result:
    """Compiles the model once and compares all its variants."""
    import graphmill as gm

    r = Result(entry["file"][:-5], entry["mb"])
    path = realset.fetch(entry, folder)
    oracle = session(path)
    others = [session(path, True), session(unsigned(path))] if quantized(entry) else []
    started = time.perf_counter()
    exe = gm.compile(path, target, device=device)
    r.compile_s = time.perf_counter() - started
    r.kernels, r.compiled = exe.report.kernels, exe.report.compiled
    counts = exe.report.counts()
    r.native, r.reference = counts.get("native", 0) + counts.get("host", 0), counts.get("reference", 0)
    r.by_reference = sorted({s.op for s in exe.report.not_native()})
    for name, feeds in realset.variants(entry, accepts(oracle)):
        r.variants.append(name)
        try:
            ours = exe.run(feeds)
        except gm.errors.GraphmillError as e:
            r.problems.append(f"{name}: {type(e).__name__}: {e}")
            continue
        theirs = dict(zip((o.name for o in oracle.get_outputs()), oracle.run(None, feeds)))
        spread = [dict(zip(theirs, s.run(None, feeds))) for s in others]
        if others:
            spread.append(dict(zip(theirs, oracle.run(None, {k: nudged(v) for k, v in feeds.items()}))))
        for out in theirs:
            share, text = compare(ours[out], theirs[out], [s[out] for s in spread])
            r.worst = max(r.worst, share)
            if share > 1:
                r.problems.append(f"{name}: {out}: {text}")
    r.ok = not r.problems
    return r


def compare(ours: Any, theirs: Any, others: list) -> tuple[float, str]:
    a, b = realset.as_array(ours), realset.as_array(theirs)
    share, text = realset.difference(a, b)
    if share > 1 and others and a.shape == b.shape and a.dtype == b.dtype and a.dtype.kind == "f":
        spread = max(float(np.max(np.abs(realset.as_array(o) - b), initial=0)) for o in others)
        apart = float(np.max(np.abs(a - b), initial=0))
        if spread > 0 and apart <= 3 * spread:
            return apart / (3 * spread), f"{apart / (3 * spread):.3g} of three times ONNX Runtime's own spread"
        text += f"; {apart:.3g} apart, ONNX Runtime's own spread is {spread:.3g}"
    return share, text


def markdown(results: list[Result]) -> str:
    rows = [
        "| model | MB | answers | worst share of the tolerance | variants | native nodes | by reference |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        answers = "right" if r.ok else "WRONG"
        rows.append(f"| {r.model} | {r.mb} | {answers} | {r.worst:.2g} | {', '.join(r.variants)} | {r.native} | "
                    f"{r.reference}{': ' + ', '.join(r.by_reference) if r.by_reference else ''} |")  # fmt: skip
    good = sum(r.ok for r in results)
    head = f"# Real models\n\n{made_by('python benchmarks/real_models.py --markdown docs/models.md')}\n"
    return f"{head}{good} of {len(results)} models give ONNX Runtime's answers.\n\n" + "\n".join(rows) + "\n"


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("names", nargs="*")
    ap.add_argument("--min-mb", type=float, default=0)
    ap.add_argument("--max-mb", type=float, default=float("inf"))
    ap.add_argument("--target", default="cpu")
    ap.add_argument("--device", default="gpu")
    ap.add_argument("--markdown")
    ap.add_argument("--json")
    a = ap.parse_args()
    results = []
    for entry in realset.entries(tuple(a.names), a.max_mb):
        if entry["mb"] < a.min_mb:
            continue
        started = time.perf_counter()
        try:
            r = check(entry, realset.folder(), a.target, a.device)
        except Exception as e:
            r = Result(entry["file"][:-5], entry["mb"], False, float("inf"), problems=[f"{type(e).__name__}: {e}"])
        results.append(r)
        print(f"{'ok   ' if r.ok else 'WRONG'} {r.model}  worst {r.worst:.2g}  native {r.native} reference {r.reference} "
              f"{r.by_reference or ''}  compile {r.compile_s:.1f} s, "
              f"all {time.perf_counter() - started:.1f} s", flush=True)  # fmt: skip
        for p in r.problems:
            print("     ", p[:600], flush=True)
    print(f"{sum(r.ok for r in results)} of {len(results)} models give ONNX Runtime's answers.")
    if a.markdown:
        Path(a.markdown).write_text(markdown(results))
    if a.json:
        Path(a.json).write_text(json.dumps([asdict(r) for r in results], indent=1))


if __name__ == "__main__":
    main()
