"""What a GPU alone can show: the operators' examples on it, and how long models take there, beside PyTorch.

usage: python benchmarks/on_gpu.py examples [--device gpu|shim] [--part 1/4] [--only REGEX] [--jobs 8 [--pieces 4]] [--json OUT]
       python benchmarks/on_gpu.py latency [--precision fp16] [--batch 1] [--seconds 1] [--tune] [--rung libraries]
                                           [--torch eager,graph,max-autotune] [--folder DIR] [--json OUT] NAME ...
       python benchmarks/on_gpu.py table [--json OUT] [--markdown OUT]

`examples` runs every example of every operator as a model of one node and compares it with the operator's reference; under
compute-sanitizer (on_gpu.sh) it shows that kernels touch no memory but theirs. What random operators give is not compared. With
--jobs it goes on in processes: after an error of the device nothing of a process can be used. `latency` takes architectures of
`architectures.py` (needs torch), exports them, and measures the median time of a run, in groups between two synchronizations, on
inputs that lie on the device: graphmill's captured graph, PyTorch's eager mode, its CUDA graph and max-autotune, in turns. With
--precision int8 graphmill runs what ONNX Runtime's quantizer made of the model, calibrated on those inputs, and PyTorch f32. Each
command adds to OUT, so that parts which end within minutes make one file; `table` prints it. on_gpu.sh has the whole list.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from machine import made_by

ABOUT = """\
Microseconds of a run on inputs that lie on the device, medians of groups in turns with PyTorch's. `tuned`: `tune=True,
rung="libraries"`. `compile`: all of `compile`, tuning included. `graph`: PyTorch's CUDA graph, by
`torch.compile(backend="cudagraphs")` where a model makes tensors on the CPU (BERT). `error`: the greatest difference of the first
output from PyTorch's in f32, relative to the greatest number.
"""
ENGINES = ("graphmill", "eager", "graph", "reduce-overhead", "max-autotune")
TOLERANCE = {"float64": (1e-11, 1e-14), "float32": (2e-5, 2e-6), "float16": (4e-3, 1e-3), "bfloat16": (3e-2, 1e-2)}


# ---- the operators' examples ------------------------------------------------------------------------------------


RANDOM = ("random_normal", "random_normal_like", "random_uniform", "random_uniform_like", "bernoulli", "multinomial")


def examples(part: str, only: str | None, device: str) -> dict[str, Any]:
    """How many examples are right, and what is wrong or does not run natively; `broken` where the device can no more be used."""
    import graphmill.ir.ops  # noqa: F401  (fills the registry)
    from graphmill.ir.op import OPS

    number, parts = map(int, part.split("/"))
    names = [n for n in OPS if OPS[n].reference and OPS[n].examples and (not only or re.fullmatch(only, n))][number - 1 :: parts]
    told: dict[str, Any] = {"right": 0, "native": 0, "wrong": {}, "refused": {}}
    for name in names:
        for i, example in enumerate(OPS[name].examples()):
            if any(isinstance(x, (list, dict)) or np.asarray(x).dtype == object for x in example.operands if x is not None):
                continue
            try:
                _example(f"{name}[{i}]", OPS[name], example, device, told)
            except Exception as e:  # of CuPy or the driver
                told["wrong"][f"{name}[{i}]"] = f"{type(e).__name__}: {e}"[:300]
                told["broken"] = name
                return told
    return told


def in_processes(a: argparse.Namespace) -> dict[str, Any]:
    """`examples` of a part in so many processes at a time, each of which gets several `pieces` of it one after the other."""
    number, parts = map(int, a.part.split("/"))
    count = a.pieces * a.jobs
    pieces = [f"{number + parts * i}/{parts * count}" for i in range(count)]
    told: dict[str, Any] = {"right": 0, "native": 0, "wrong": {}, "refused": {}}
    with ThreadPoolExecutor(a.jobs) as pool:
        for found in pool.map(lambda piece: _in_process(a, piece), pieces):
            for key, value in found.items():
                told[key] = value if key not in told else told[key] + value if isinstance(value, int) else told[key] | value
    return told


def _in_process(a: argparse.Namespace, piece: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, __file__, "examples", "--device", a.device, "--part", piece, "--json", str(out)]
        done = subprocess.run(command + ["--only", a.only] * bool(a.only), capture_output=True, text=True)
        if done.returncode:
            return {"wrong": {f"part {piece}": done.stderr[-300:]}}
        return next(v for k, v in json.loads(out.read_text()).items() if k.startswith("examples"))


def _example(what: str, op: Any, example: Any, device: str, told: dict[str, Any]) -> None:
    import graphmill as gm

    attrs = {k: a.default for k, a in op.attrs.items()} | dict(example.attrs)
    with np.errstate(all="ignore"):
        out = op.reference(*example.operands, **attrs)
    made = (out if isinstance(out, tuple) else (out,))[: example.results]
    if any(isinstance(x, (list, dict)) for x in made):
        return
    want = [np.asarray(x) for x in made]
    problem = ""
    for constants in (frozenset(), frozenset(range(1, len(example.operands)))):
        try:
            exe = gm.compile(_module(op, example, constants), "cuda", device=device)
            given = {f"x{i}": x for i, x in enumerate(example.operands) if x is not None and i not in constants}
            got = list(exe.run(given).values())
        except gm.errors.GraphmillError as e:
            problem = f"{type(e).__name__}: {e}"[:300]
            continue
        for g, w in zip(got, want, strict=True):
            problem = "" if op.name in RANDOM else _difference(g, w, op.tolerance)
            if problem:
                told["wrong"][what] = problem
                return
        told["right"] += 1
        told["native"] += exe.report.fully_native
        return
    told["refused"][what] = problem


def _module(op: Any, example: Any, constants: frozenset[int]) -> Any:
    from graphmill.ir.core import Module
    from graphmill.ir.infer import infer_module
    from graphmill.ir.types import type_of

    module = Module()
    operands = []
    for i, x in enumerate(example.operands):
        if x is None:
            operands.append(None)
        elif i in constants:
            operands.append(module.add_const(f"c{i}", np.asarray(x), type_of(x)))
        else:
            operands.append(module.main.add_input(f"x{i}", type_of(x)))
    node = module.main.add(op, operands, dict(example.attrs), names=[f"y{i}" for i in range(example.results)],
                           types=[None] * example.results)  # fmt: skip
    module.main.set_outputs(node.results)
    infer_module(module)
    return module


def _difference(got: np.ndarray, want: np.ndarray, tolerance: tuple[float, float] | None) -> str:
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
    if want.dtype.name not in TOLERANCE:
        bits = got.tobytes() == want.tobytes() or np.array_equal(got, want)  # 8-bit floats may be NaN
        return "" if bits else f"{int((got != want).sum())} of {want.size} elements differ"
    rtol, atol = tolerance or TOLERANCE[want.dtype.name]
    a, b = got.astype(np.float64), want.astype(np.float64)
    if np.allclose(a, b, rtol, atol, equal_nan=True):
        return ""
    with np.errstate(all="ignore"):
        return f"differs by {np.nanmax(np.abs(a - b)):.3g} of {np.nanmax(np.abs(b)):.3g}"


# ---- latency ----------------------------------------------------------------------------------------------------


def latency(name: str, a: argparse.Namespace) -> dict[str, Any]:
    """Median microseconds of a run of each engine, and seconds that it took to be ready; how far graphmill's first output is from
    torch's in f32, relative to the greatest number."""
    import architectures
    import torch

    precision, batch, peers = a.precision, a.batch, [p for p in a.torch.split(",") if p]
    told: dict[str, Any] = {
        "precision": precision,
        "batch": batch,
        "gpu": torch.cuda.get_device_name(),
        "rung": a.rung,
        "tune": a.tune,
    }
    m = architectures.build(name, batch)
    runs: dict[str, Callable[[], None]] = {}
    ours = functools.partial(_graphmill, told=told, a=a)
    for engine, start in [("graphmill", ours)] + [(p, _torch(p)) for p in peers]:
        started = time.perf_counter()
        try:
            runs[engine] = start(m, name, precision, batch)
            runs[engine]()
            torch.cuda.synchronize()
        except Exception as e:
            told[engine] = {"error": f"{type(e).__name__}: {e}"[:300]}
            runs.pop(engine, None)
            continue
        told[engine] = {"ready_s": time.perf_counter() - started, "samples": []}
    ends = time.monotonic() + a.seconds * len(runs)
    while runs and (time.monotonic() < ends or min(len(told[e]["samples"]) for e in runs) < 5):
        for engine, run in runs.items():
            told[engine]["samples"].append(_group(run))
    for engine in runs:
        samples = sorted(told[engine].pop("samples"))
        told[engine] |= {"us": 1e6 * samples[len(samples) // 2], "low": 1e6 * samples[len(samples) // 10]}
    return told


def _group(run: Callable[[], None], count: int = 20) -> float:
    """Seconds of a run, in a group between two synchronizations."""
    import torch

    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


def _graphmill(m: Any, name: str, precision: str, batch: int, told: dict[str, Any], a: argparse.Namespace) -> Callable[[], None]:
    import export
    import graphmill as gm
    import torch

    variant = export.Variant(name, batch)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(a.folder or scratch) / f"{variant}.onnx"
        if not path.exists():
            export.export(variant, path.parent)
        if precision == "int8":
            path = _quantized(path, {k: v.numpy() for k, v in m.inputs.items()})
        started = time.perf_counter()
        exe = gm.compile(path, "cuda", precision="fp32" if precision == "int8" else precision, rung=a.rung, tune=a.tune)
        told["compile_s"] = time.perf_counter() - started
    fixed = exe.fixed({k: v.cpu().numpy() for k, v in m.inputs.items()})
    fixed.run()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        want = m.module.cuda()(*[x.cuda() for x in m.inputs.values()])
    m.module.cpu()
    while not isinstance(want, torch.Tensor):
        want = next(iter(want.values() if hasattr(want, "values") else want))
    want = want.double().cpu().numpy()
    told["error"] = float(np.abs(next(iter(fixed.outputs.values())).numpy() - want).max() / np.abs(want).max())
    return fixed.run


def _quantized(path: Path, inputs: dict[str, np.ndarray]) -> Path:
    """The model with products and convolutions of bytes (QLinearConv and the like), kept beside it; weights are i8, one scale a
    channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Once(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.given = iter([inputs])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.given, None)

    out = path.with_suffix(".int8.onnx")
    if not out.exists():
        quantize_static(str(path), str(out), Once(), quant_format=QuantFormat.QOperator, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    return out


def _torch(mode: str) -> Callable[..., Callable[[], None]]:
    def start(m: Any, name: str, precision: str, batch: int) -> Callable[[], None]:
        import copy

        import torch

        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        module = copy.deepcopy(m.module).cuda().to(dtype).eval()
        inputs = [x.cuda().to(dtype) if x.is_floating_point() else x.cuda() for x in m.inputs.values()]
        call: Any = torch.compile(module, mode=mode) if mode in ("max-autotune", "reduce-overhead") else module

        def run() -> None:
            with torch.inference_mode():
                call(*inputs)

        for _ in range(3):
            run()
        if mode != "graph":
            return run
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
        except RuntimeError:  # what makes tensors on the CPU cannot be captured as it is
            torch.cuda.synchronize()
            call = torch.compile(module, backend="cudagraphs")
            for _ in range(3):
                run()
            return run
        return graph.replay

    return start


# ---- one file of all parts --------------------------------------------------------------------------------------


def merge(path: str | None, key: str, told: dict[str, Any]) -> dict[str, Any]:
    """Adds a part to the file, by writing it anew beside it."""
    whole = json.loads(Path(path).read_text()) if path and Path(path).exists() else {}
    whole[key] = told
    if path:
        with tempfile.NamedTemporaryFile("w", dir=Path(path).absolute().parent, suffix=".tmp", delete=False) as f:
            json.dump(whole, f, indent=1)
        os.replace(f.name, path)
    return whole


def table(whole: dict[str, Any]) -> str:
    lines = []
    parts = [v for k, v in whole.items() if k.startswith("examples")]
    if parts:
        right, native = (sum(p[k] for p in parts) for k in ("right", "native"))
        wrong = {k: v for p in parts for k, v in p["wrong"].items()}
        lines += [f"{right} examples right, {native} of them with every node native, {len(wrong)} wrong.", ""]
        lines += [f"- {k}: {v}" for k, v in wrong.items()] + [""] * bool(wrong)
    timed = {k: v for k, v in whole.items() if k.startswith("latency")}
    if timed:
        heads = ["model", "precision", "batch", "GPU", *(f"{e}, us" for e in ENGINES), "compile, s", "error", "best / graphmill"]
        lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, t in timed.items():
        us = {e: t[e]["us"] for e in ENGINES if "us" in t.get(e, {})}
        others = [v for e, v in us.items() if e != "graphmill"]
        ratio = f"{min(others) / us['graphmill']:.2f}" if others and "graphmill" in us else ""
        shown = [f"{us[e]:.0f}" if e in us else t.get(e, {}).get("error", "")[:60] for e in ENGINES]
        how = ", tuned" if t["tune"] else f", {t['rung']}" if t["rung"] != "tensor" else ""
        about = [f"{t.get('compile_s', 0):.1f}", f"{t.get('error', 0):.1e}", ratio]
        cells = [key.split()[1], t["precision"] + how, t["batch"], t["gpu"], *shown, *about]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("what", choices=["examples", "latency", "table"])
    ap.add_argument("names", nargs="*")
    ap.add_argument("--device", default="gpu")
    ap.add_argument("--part", default="1/1")
    ap.add_argument("--only")
    ap.add_argument("--precision", default="fp16")
    ap.add_argument("--batch", type=int, default=1)
    ap.add_argument("--seconds", type=float, default=1.0)
    ap.add_argument("--torch", default="eager,graph")
    ap.add_argument("--rung", default="tensor")
    ap.add_argument("--tune", action="store_true")
    ap.add_argument("--jobs", type=int, default=1)
    ap.add_argument("--pieces", type=int, default=4)
    ap.add_argument("--folder", help="where exports are kept")
    ap.add_argument("--json")
    ap.add_argument("--markdown")
    a = ap.parse_intermixed_args()
    whole = (
        json.loads(Path(a.json).read_text())
        if a.what == "table"
        else merge(a.json, "machine", {"made_by": made_by("benchmarks/on_gpu.sh")})
    )
    if a.what == "examples":
        told = in_processes(a) if a.jobs > 1 else examples(a.part, a.only, a.device)
        whole = merge(a.json, f"examples {a.part} {a.device} {a.only or ''}".strip(), told)
    if a.what == "latency" and len(a.names) > 1:  # in a process each: what models import does not go together
        for name in a.names:
            subprocess.run([sys.executable, *[x for x in sys.argv if x not in a.names], name], check=False)
        return
    for name in a.names if a.what == "latency" else ():
        told = latency(name, a)
        whole = merge(a.json, f"latency {name} {a.precision} {a.batch} {a.rung} {a.tune}", told)
    print(table(whole))
    if a.markdown:
        Path(a.markdown).write_text(f"# On a GPU\n\n{whole['machine']['made_by']}\n{ABOUT}\n{table(whole)}\n")


if __name__ == "__main__":
    main()
