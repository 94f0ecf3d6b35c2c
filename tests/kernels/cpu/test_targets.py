"""Kernels of every family for machines that this one is not: emitted, not run.

Each target has a process of its own, since the width of vectors is the process's. What runs the tables (`launch.py`) is emitted as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import graphmill as gm
import numpy as np
import onnx.parser
import pytest
from graphmill.kernels.cpu import launch, objects

ROOT = Path(gm.__file__).parent

EMIT = """
import json, platform, re, sys
import llvmlite.binding as llvm

features, triple, names = frozenset(sys.argv[1].split(",")), sys.argv[2], json.loads(sys.argv[3])
if triple:
    platform.machine = lambda: triple.partition("-")[0]

import numerics
from graphmill.engine import compiler
from graphmill.engine.options import Options
from graphmill.engine.report import CompileReport
from graphmill.kernels.cpu import launch, objects, vector

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()


class Texts(Exception):
    pass


def texts(case):
    options, report = Options(), CompileReport()
    module = compiler.load(numerics.model_of(case, numerics.operands(case, case.kinds[0], True)), options)
    compiler.optimize(module, options, report)

    def stop(found):
        raise Texts(found)

    try:
        compiler.build(module, options, report, 0, prepare=stop)
    except Texts as e:
        return e.args[0]


if triple:
    foreign = llvm.Target.from_triple(triple).create_target_machine(
        features="+m,+a,+f,+d" if "riscv" in triple else "", opt=3, reloc="pic", codemodel="default")
    objects._machine = lambda: foreign


def emit(text):
    module, machine = objects._module(text, "gm_kernel")
    code = str(module)
    data, assembly = machine.emit_object(module), machine.emit_assembly(module)
    objects.check_object(data)  # refers to nothing but the C library
    return {"elf": data[:4] == b"\\x7fELF", "machine": int.from_bytes(data[18:20], "little"), "undefined": sorted(objects.undefined_symbols(data)),
            "intrinsics": re.findall(r"llvm[.](?:x86|aarch64)[\\w.]+", code), "assembler": "asm " in code,
            "isb": len(re.findall(r"\\tisb\\b", assembly)),
            "atomics": sorted(set(re.findall(r"\\t(ld\\w*xr|st\\w*xr|ldar|stlr|ldapr)\\t", assembly))),
            "registers": sorted(set(re.findall(r"\\b[xyz]mm(?=\\d)|\\bv(?=\\d+[.]4s)", assembly)))}


cases = {c.name: c for c in numerics.cases()}
found = {name: [emit(t) for t in texts(cases[name])] for name in names}
found["launch"] = [emit(t) for t in launch.own_texts()]
print(json.dumps({"lanes": vector.LANES, "kernels": found}))
"""

FAMILIES = ["gelu", "matmul", "matmul, batched", "3x3, 64 channels", "3x3, stride 2", "7x7 of 3 channels", "5x5 to 1 channel",
            "depthwise 3x3", "Sum, last axis", "MaxPool", "softmax", "softmax, first axis", "layer_norm", "attention", "LSTM",
            "resize linear", "MatMulInteger", "MatMulInteger, small weights", "QLinearConv", "CumSum"]  # fmt: skip
AVX512 = "avx512f,avx512vl,avx512bw,avx512dq,avx512cd,avx2,avx,fma,f16c,bmi,bmi2,sse4.2,popcnt"
ELF_X86_64, ELF_AARCH64 = 62, 183


def emitted(cpu: str, features: str, families: list[str], triple: str = "") -> dict:
    path = os.pathsep.join([str(ROOT / "benchmarks"), *(p for p in sys.path if p)])
    env = os.environ | {
        "PYTHONPATH": path,
        "GRAPHMILL_CPU": cpu,
        "GRAPHMILL_CPU_FEATURES": ",".join(f"+{f}" for f in features.split(",")),
    }
    command = [sys.executable, "-c", EMIT, features, triple, json.dumps(families)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def parts(found: dict) -> list[dict]:
    assert all(found["kernels"].values())
    return [k for kernels in found["kernels"].values() for k in kernels]


@pytest.mark.slow
def test_aarch64() -> None:
    """Vectors of 128 bits, nothing of x86 left, and the C library alone is needed."""
    found = emitted("generic", "neon", FAMILIES, "aarch64-unknown-linux-gnu")
    assert found["lanes"] == 4
    for k in parts(found):
        assert k["elf"] and k["machine"] == ELF_AARCH64
        assert not k["assembler"] and set(k["undefined"]) <= objects.ALLOWED
    for name in ("matmul", "3x3, stride 2", "depthwise 3x3", "gelu", "softmax"):
        assert any(k["registers"] == ["v"] for k in found["kernels"][name]), name
    assert not any(k["intrinsics"] for name in FAMILIES for k in found["kernels"][name])
    run, work = found["kernels"]["launch"]
    for k in run, work:  # every access of a shared word is an acquire, every change a release too
        assert k["atomics"] == ["ldar", "ldaxr", "stlxr"] and set(k["intrinsics"]) == {"llvm.aarch64.isb"}
    assert work["isb"] == run["isb"] + 1  # a worker's core has not seen the kernel's code before
    assert "syscall" in run["undefined"] and "syscall" in work["undefined"]


def test_a_machine_without_a_known_futex() -> None:
    """What runs the tables needs no system call there; no workers are started, which a test below shows."""
    found = emitted("x86-64", "sse2", ["gelu"], "riscv64-unknown-linux-gnu")
    assert not any("syscall" in k["undefined"] for k in found["kernels"]["launch"])


@pytest.mark.slow
def test_avx512() -> None:
    found = emitted("x86-64-v4", AVX512, FAMILIES)
    assert found["lanes"] == 16
    assert all(k["elf"] and k["machine"] == ELF_X86_64 and set(k["undefined"]) <= objects.ALLOWED for k in parts(found))
    for name in ("matmul", "matmul, batched", "3x3, 64 channels", "3x3, stride 2", "depthwise 3x3"):
        assert any("zmm" in k["registers"] for k in found["kernels"][name]), name


@pytest.mark.slow
def test_an_old_x86() -> None:
    """x86-64-v2: SSE registers alone."""
    found = emitted("x86-64-v2", "sse4.2,sse4.1,ssse3,sse3,sse2,popcnt", FAMILIES)
    assert found["lanes"] == 4
    for k in parts(found):
        assert k["machine"] == ELF_X86_64 and not {"ymm", "zmm"} & set(k["registers"]) and set(k["undefined"]) <= objects.ALLOWED


def test_without_a_futex_the_caller_runs_all_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits, and no thread is started."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        m (float[300,512] x) => (float[300,512] y) { a = MatMul(x, w) y = Softmax(a) }""")
    x = np.random.default_rng(0).standard_normal((300, 512)).astype("f4")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(512, dtype="f4"), "w"))
    want = gm.compile(model, threads=1).run({"x": x})["y"]
    monkeypatch.setattr(launch, "_HAS_FUTEX", False)
    monkeypatch.setattr(launch, "_pool", launch.Pool())
    np.testing.assert_array_equal(gm.compile(model, threads=2).run({"x": x})["y"], want)
    assert launch._pool.workers == 0
