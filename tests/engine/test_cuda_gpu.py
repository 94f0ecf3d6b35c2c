"""Arrays and streams of CuPy and PyTorch on a GPU, where there is one: values, places, and the order of streams."""

from __future__ import annotations

import threading
from typing import Any

import graphmill as gm
import numpy as np
import pytest
from graphmill.kernels.cuda import nvrtc
from onnx import parser as onnx_parser

CHAIN = """m (float[N, 64] x) => (float[N, 64] y, float[N, 64] z) {
    a = Exp (x)  b = Relu (a)  z = Mul (b, b)  c = Abs (z)  y = Sqrt (c) }"""
X = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def exe() -> Any:
    try:
        with gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {CHAIN}'), "cuda") as made:
            yield made
    except nvrtc.CudaUnavailable as e:
        pytest.skip(str(e))


def close(found: Any, x: np.ndarray = X) -> None:
    np.testing.assert_allclose(found, np.exp(x), rtol=1e-5)


def test_numpy(exe: gm.Executable) -> None:
    kept = [(exe.run({"x": X * i})["y"], X * i) for i in range(6)]
    for y, x in kept:
        close(y, x)


def test_cupy(exe: gm.Executable) -> None:
    import cupy

    x = cupy.asarray(X)
    for _ in range(5):
        out = exe.run({"x": x}, on_device=True)
        for y in (cupy.from_dlpack(out["y"]), cupy.asarray(out["y"])):
            assert y.data.ptr == out["y"].address
            close(y.get())
    spin = cupy.RawKernel('extern "C" __global__ void k() { long long a = clock64(); while (clock64() - a < 100000000LL); }', "k")
    stream, z = cupy.cuda.Stream(non_blocking=True), cupy.empty_like(x)
    cupy.cuda.Device().synchronize()
    with stream:
        for _ in range(3):
            spin((1,), (1,), ())
            x.fill(1)
            exe.run({"x": x}, out={"z": z}, on_device=True, stream=stream)
            x.fill(0)
            np.testing.assert_allclose(z.get(stream), np.exp(2), rtol=1e-5)


def test_torch(exe: gm.Executable) -> None:
    torch = pytest.importorskip("torch")
    source = torch.from_numpy(X).cuda()
    x, s, other = torch.zeros_like(source), torch.cuda.Stream(), torch.cuda.Stream()
    for _ in range(5):
        out = exe.run({"x": source}, on_device=True)
        y = torch.from_dlpack(out["y"])
        assert y.data_ptr() == out["y"].address
        close(y.cpu())
    torch.cuda.synchronize()
    for told in (s, s.cuda_stream, None):  # None: DLPack brings the streams in order
        with torch.cuda.stream(s):
            x.zero_()
            torch.cuda._sleep(50_000_000)
            x.copy_(source)
            out = exe.run({"x": x}, on_device=True, stream=told)
            assert told is None or not s.query(), "the run waited for the stream"
            x.zero_()
        with torch.cuda.stream(other):
            y = torch.from_dlpack(out["y"]).clone()
        other.synchronize()
        close(y.cpu())


def test_fixed_places(exe: gm.Executable) -> None:
    torch = pytest.importorskip("torch")
    source, s = torch.from_numpy(X).cuda(), torch.cuda.Stream()
    x, y = torch.zeros_like(source), torch.zeros_like(source)
    torch.cuda.synchronize()
    places = exe.fixed({"x": x}, bind={"x": x, "y": y})
    with torch.cuda.stream(s):
        torch.cuda._sleep(50_000_000)
        x.copy_(source)
        places.run(stream=s)
        found = y.clone()
    s.synchronize()
    close(found.cpu())


def test_threads(exe: gm.Executable) -> None:
    failures: list[Any] = []

    def work(seed: int) -> None:
        for i in range(40):
            n = (seed + i) % 8 + 1
            y = exe.run({"x": X[:n]}, on_device=bool(i % 2))["y"]
            if not np.allclose(y.numpy() if i % 2 else y, np.exp(X[:n]), rtol=1e-5):
                failures.append((seed, i))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_memory_is_given_back(exe: gm.Executable) -> None:
    second = gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {CHAIN}'), "cuda")
    for _ in range(4):
        second.run({"x": X})
    kept = second.run({"x": X}, on_device=True)["y"]
    second.close()
    close(kept.numpy())
    del kept
    pool = second.device.driver._pool  # type: ignore[attr-defined]
    pool.free_all_blocks()
    assert pool.total_bytes() == 0
