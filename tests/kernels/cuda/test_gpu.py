"""gpu.py without a GPU, over a CuPy that is not one (fake_cupy.py), and on one where there is one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import graphmill as gm
import numpy as np
import pytest
from graphmill.ir.errors import GraphmillError
from graphmill.kernels.cuda import nvrtc
from graphmill.kernels.cuda.driver import Command
from onnx import parser as onnx_parser

from .fake_cupy import Fake
from .harness import needs_shim

MODEL = onnx_parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
    m (float[N, 4] x, int64[2] i) => (float[N, 4] y, float[2, 4] z) { a = Exp (x)  y = Sqrt (a)  z = Gather (y, i) }""")


def run(exe: gm.Executable, n: int) -> None:
    x = np.linspace(-1, 1, 4 * n, dtype=np.float32).reshape(n, 4)
    got = exe.run({"x": x, "i": np.array([n - 1, 0])})
    np.testing.assert_allclose(got["y"], np.exp(x / 2), rtol=1e-6)
    np.testing.assert_allclose(got["z"], np.exp(x[[n - 1, 0]] / 2), rtol=1e-6)


@needs_shim
def test_calls(monkeypatch: Any) -> None:
    fake = Fake()
    fake.install(monkeypatch)
    exe = gm.compile(MODEL, "cuda")
    for n in (3, 3, 3, 5, 3):
        run(exe, n)
    assert "launch" in fake.calls and "memset" in fake.calls
    fake.calls.clear()
    run(exe, 3)  # a signature that came before: copies in and out through pinned memory are in the graph
    assert fake.calls == ["graph", "synchronize"]
    with pytest.raises(GraphmillError, match=r"[Gg]ather"):
        exe.run({"x": np.zeros((3, 4), np.float32), "i": np.array([0, 3])})
    run(exe, 3)
    first = exe.run({"x": np.zeros((3, 4), np.float32), "i": np.array([0, 2])}, on_device=True)
    about = first["y"].__cuda_array_interface__ | {"stream": 7}
    exe.run({"x": SimpleNamespace(__cuda_array_interface__=about), "i": np.array([0, 2])})
    assert fake.calls.count("ours waits for 7") == 1
    # Version 2 says nothing of streams: what is under way on the default one is waited for.
    old = {k: v for k, v in about.items() if k != "stream"} | {"version": 2}
    exe.run({"x": SimpleNamespace(__cuda_array_interface__=old), "i": np.array([0, 2])})
    assert fake.calls.count("ours waits for 1") == 1


@needs_shim
def test_kernels_are_timed_in_graphs(monkeypatch: Any) -> None:
    fake = Fake()
    fake.install(monkeypatch)
    exe = gm.compile(MODEL, "cuda")
    p = gm.profile(exe, {"x": np.zeros((3, 4), np.float32), "i": np.array([0, 2])}, seconds=0)
    assert p.rows and all(r.seconds == 2e-3 / 20 for r in p.rows)
    assert {"captured 20", "captured 40"} <= set(fake.calls)  # in the second, flags are cleared too
    run(exe, 3)


@needs_shim
def test_a_captured_graph_does_what_was_run(monkeypatch: Any) -> None:
    from graphmill.kernels.cuda.gpu import Gpu

    fake = Fake()
    fake.install(monkeypatch)
    gpu = Gpu()
    text = "KERNEL(32, 2) { ((i64*)p[0])[threadIdx.x] += p[1]; }\n"
    (kernel,) = gpu.load([text])
    other = text.replace("+=", "-=")
    assert gpu.load([other, text, other]) == [kernel + 1, kernel, kernel + 1] and len(fake.compiled) == 2
    memory, out = gpu.alloc(256), np.zeros(32, np.int64)
    gpu.clear(memory.address, 256)
    commands = [Command(kernel, np.array([memory.address, n], np.int64), blocks, 1) for n, blocks in ((1, 1), (5, 0), (2, 1))]
    gpu.run(commands)
    again = gpu.capture(commands)
    commands[0].words[1] = 100
    again()
    gpu.read(out, memory.address)
    assert (out == 6).all()
    assert fake.calls[-3:] == ["graph", "read", "synchronize"] and "captured 2" in fake.calls


def test_on_a_gpu() -> None:
    try:
        exe = gm.compile(MODEL, "cuda")
    except nvrtc.CudaUnavailable as e:
        pytest.skip(str(e))
    for n in (3, 3, 3, 5, 3):
        run(exe, n)
