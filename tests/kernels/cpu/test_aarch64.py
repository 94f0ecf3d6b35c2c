"""graphmill on an aarch64 Python, under user-mode emulation: native kernels in examples, artifacts from elsewhere, every family at edge sizes.

benchmarks/aarch64.sh sets such a Python up; GRAPHMILL_AARCH64 is its path. Emulation of aarch64 on x86 keeps x86's order of
memory accesses: what the atomics of launch.py ask for is held by test_targets.py, as text.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import graphmill as gm
import numpy as np
import onnx.parser
import pytest

from .test_widths import FAMILIES, ROOT

PYTHON = os.environ.get("GRAPHMILL_AARCH64", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason="GRAPHMILL_AARCH64 names no emulated Python")]


def emulated(*args: str | Path, path: Path, **extra: str) -> str:
    """What a run there prints, with `path` as PYTHONPATH."""
    env = {k: v for k, v in os.environ.items() if k not in ("GRAPHMILL_CPU", "GRAPHMILL_CPU_FEATURES", "GRAPHMILL_VECTOR_BITS")}
    env |= extra | {"PYTHONPATH": str(path)}
    done = subprocess.run([PYTHON, *args], env=env, cwd=ROOT, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(autouse=True, scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which this checkout is the package."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "graphmill").symlink_to(ROOT)
    return folder


def test_it_is_an_aarch64(package: Path) -> None:
    show = "import platform; from graphmill.kernels.cpu import tiling; print(platform.machine(), tiling.tiling(4), tiling.converts_half())"
    assert emulated("-c", show, path=package) == "aarch64 Tiling(lanes=4, rows=(0, 8, 8, 6)) True\n"


def test_digits_are_read(package: Path) -> None:
    out = emulated("examples/digits/run.py", path=package)
    assert "9 nodes: 9 native" in out and "test accuracy 99.4%" in out


def test_an_artifact_of_this_machine(package: Path, tmp_path: Path) -> None:
    """Its kernels and packed weights are made anew there, on two threads; acos of f64 is a call of its C library."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        m (float[N,512] x) => (double[N,512] y, float16[N,512] z) {
            a = MatMul(x, w) b = Softmax(a) c = Cast <to = 11> (b) y = Acos(c) z = Cast <to = 10> (a) }""")
    rng = np.random.default_rng(0)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal((512, 512)).astype("f4"), "w"))
    exe = gm.compile(model, threads=1)
    exe.save(tmp_path / "m.gmill")
    x = rng.standard_normal((300, 512)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    code = """
import sys, numpy as np, graphmill as gm
from graphmill.kernels.cpu import launch
folder = sys.argv[1]
exe = gm.load(folder + "/m.gmill", trust=True, threads=2)
out = exe.run({"x": np.load(folder + "/x.npy")})
np.savez(folder + "/out.npz", **out)
print(exe.report.compiled, launch._pool.workers)
"""
    compiled, workers = emulated("-c", code, str(tmp_path), path=package, GRAPHMILL_CACHE=str(tmp_path / "cache")).split()
    assert int(compiled) >= 3 and workers == "1"
    out, want = np.load(tmp_path / "out.npz"), exe.run({"x": x})
    for name, (rtol, atol) in {"y": (1e-5, 1e-5), "z": (1e-3, 1e-2)}.items():
        assert out[name].dtype == want[name].dtype
        np.testing.assert_allclose(out[name], want[name], rtol, atol)


def test_kernels_of_every_family(package: Path) -> None:
    files = [f"tests/kernels/cpu/test_{f}" for f in [*FAMILIES, "launch.py", "special_values.py", "quant.py"]]
    emulated("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, path=package)
