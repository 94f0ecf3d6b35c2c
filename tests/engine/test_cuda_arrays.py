"""Arrays and streams of other libraries on the CUDA target: over memory of the host, by the shim, the null device and a CuPy that is none."""

from __future__ import annotations

import ctypes
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import graphmill as gm
import ml_dtypes
import numpy as np
import pytest
from graphmill.engine import fixed, fixed_runs
from graphmill.engine.cuda import CudaArray
from graphmill.engine.cuda_foreign import stream_number
from graphmill.engine.foreign import Pointed, capsule_of, pointed
from graphmill.ir.errors import InputError
from graphmill.kernels.cuda.driver import CudaMemoryError, Null, Shim
from onnx import parser as onnx_parser

from ..kernels.cuda.fake_cupy import Fake
from ..kernels.cuda.harness import needs_shim

CHAIN = """m (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {
    a = Exp (x)  b = Relu (a)  z = Mul (b, b)  c = Abs (z)  y = Sqrt (c) }"""
GATHER = "m (float[N, 4] x, int64[2] i) => (float[2, 4] y) { a = Exp (x)  y = Gather (a, i) }"


def compiled(text: str, **options: Any) -> gm.Executable:
    model = onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    return gm.compile(model, "cuda", **{"device": "shim"} | options)


class Tensor:
    """What PyTorch says of a tensor on a GPU, over memory of the host that begins `skip` bytes behind 256 times any."""

    def __init__(self, a: np.ndarray, skip: int = 0, **more: Any):
        raw = np.zeros(a.nbytes + skip + 512, np.uint8)
        start = -raw.ctypes.data % 256 + skip
        self.a = raw[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
        self.a[...] = a
        self.asked: list[Any] = []
        self.more = {"device": (2, 0)} | more

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.more["device"]  # type: ignore[no-any-return]

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None) -> Any:
        if max_version and "old" in self.more:
            raise TypeError("max_version")
        self.asked.append(stream)
        x = Pointed(self, self.a.ctypes.data, self.a.shape, None, self.a.dtype)
        return capsule_of(x, self.more["device"], **({"max_version": max_version} if max_version else {}))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn", "int64", "uint8", "bool"])
@pytest.mark.parametrize("version", [None, (1, 0)])
def test_capsules(dtype: str, version: Any) -> None:
    a = np.ones((2, 3), getattr(ml_dtypes, dtype, dtype))
    asked = {"max_version": version} if version else {}
    source = Tensor(a)
    address, kept = source.a.ctypes.data, weakref.ref(source)
    capsule = capsule_of(Pointed(source, address, a.shape, None, a.dtype), (2, 0), **asked)
    found = pointed(SimpleNamespace(__dlpack__=lambda **_: capsule), 7, "x")
    assert (found.address, found.shape, found.dtype) == (address, (2, 3), a.dtype)
    del source
    capsule = None
    gc.collect()
    assert kept() is not None  # by the capsule
    del found
    gc.collect()
    assert kept() is None


def test_what_is_no_tensor_of_this_device() -> None:
    exe = compiled(CHAIN, device="null")
    x = np.ones((3, 4), np.float32)
    with pytest.raises(InputError, match="lies on CUDA device 1, expected 0"):
        exe.run({"x": Tensor(x, device=(2, 1))})
    with pytest.raises(InputError, match="C-contiguous"):
        exe.run({"x": SimpleNamespace(__cuda_array_interface__={"shape": (3, 4), "typestr": "<f4", "data": (256, False),
                                                                "strides": (4, 12), "version": 3})})  # fmt: skip
    with pytest.raises(InputError, match="masked"):
        exe.run({"x": SimpleNamespace(__cuda_array_interface__={"shape": (3, 4), "typestr": "<f4", "data": (256, False),
                                                                "mask": x, "version": 3})})  # fmt: skip
    with pytest.raises(InputError, match=r"memory of a device \(ROCm"):
        exe.run({"x": Tensor(x, device=(10, 0))})
    with pytest.raises(InputError, match="the target has no streams"):
        gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {CHAIN}')).run({"x": x}, stream=1)


@needs_shim
@pytest.mark.parametrize("skip", [0, 4])
def test_tensors_are_read_where_they_lie(skip: int) -> None:
    """At first, when their addresses come again, and when they lie elsewhere each time."""
    exe, rng = compiled(CHAIN), np.random.default_rng(0)
    tensors = [Tensor(rng.standard_normal((3, 4)).astype(np.float32), skip) for _ in range(3)]
    kept = []
    for x in [tensors[0]] * 5 + tensors * 4:
        got = exe.run({"x": x}, on_device=True)
        want = np.maximum(np.exp(x.a), 0)
        np.testing.assert_allclose(got["y"].numpy(), want, rtol=2e-6)
        np.testing.assert_allclose(got["z"].numpy(), want**2, rtol=4e-6)
        np.testing.assert_allclose(exe.run({"x": x})["y"], want, rtol=2e-6)
        np.testing.assert_allclose(exe.run({"x": x.a})["y"], want, rtol=2e-6)
        kept.append((got["z"], want**2))
    for z, want in kept:  # nothing was written to afterwards
        np.testing.assert_allclose(z.numpy(), want, rtol=4e-6)
    old = Tensor(tensors[0].a, old=True)
    np.testing.assert_allclose(exe.run({"x": old})["y"], np.maximum(np.exp(old.a), 0), rtol=2e-6)


@needs_shim
def test_much_memory_is_not_pinned(monkeypatch: Any) -> None:
    monkeypatch.setattr(fixed, "MOST_PINNED", 0)
    monkeypatch.setattr(Shim, "pinned", lambda self, nbytes: pytest.fail("memory was pinned") if nbytes else np.empty(0, np.uint8))
    exe, rng = compiled(CHAIN), np.random.default_rng(0)
    for _ in range(5):
        x = rng.standard_normal((3, 4)).astype(np.float32)
        np.testing.assert_allclose(exe.run({"x": x})["y"], np.maximum(np.exp(x), 0), rtol=2e-6)


@needs_shim
def test_arrays_of_another_executable() -> None:
    first, second = compiled(CHAIN), compiled(CHAIN)
    x = np.full((3, 4), 0.25, np.float32)
    for _ in range(4):
        y = first.run({"x": x}, on_device=True)["y"]
        np.testing.assert_allclose(second.run({"x": y}, on_device=True)["z"].numpy(), np.exp(2 * np.exp(x)), rtol=4e-6)


@needs_shim
def test_wrong_contents_on_the_device() -> None:
    exe, x = compiled(GATHER), Tensor(np.zeros((3, 4), np.float32))
    for _ in range(3):
        for _ in range(3):
            np.testing.assert_array_equal(exe.run({"x": x, "i": np.array([2, -3])}, on_device=True)["y"].numpy(), np.ones((2, 4)))
        for given in ({"x": x, "i": np.array([0, 3])}, {"x": x.a, "i": np.array([0, 3])}):
            with pytest.raises(gm.errors.GraphmillError, match=r"[Gg]ather"):
                exe.run(given, on_device=given["x"] is x)


@needs_shim
def test_outputs_go_to_places_on_the_device() -> None:
    exe, rng = compiled(CHAIN), np.random.default_rng(0)
    place, host = Tensor(np.zeros((3, 4), np.float32), 4), np.empty((3, 4), np.float32)
    for i in range(5):
        x = Tensor(rng.standard_normal((3, 4)).astype(np.float32))
        y = np.maximum(np.exp(x.a), 0)
        got = exe.run({"x": x}, out={"z": place})
        assert got["z"] is place and list(got) == ["y", "z"]
        np.testing.assert_allclose(place.a, y**2, rtol=4e-6)
        np.testing.assert_allclose(got["y"], y, rtol=2e-6)
        got = exe.run({"x": x.a + 1 if i % 2 else Tensor(x.a + 1)}, out={"z": place}, on_device=True, stream=7)
        np.testing.assert_allclose(got["y"].numpy(), np.exp(x.a + 1), rtol=2e-6)
        got = exe.run({"x": x}, out={"y": host, "z": place})
        assert got["y"] is host and got["z"] is place
        np.testing.assert_allclose(host, y, rtol=2e-6)
        assert exe.run({"x": x}, out={"y": host}, on_device=True)["y"] is host
        exe.run({"x": x}, out={"z": x})  # which is the input
        np.testing.assert_allclose(x.a, y**2, rtol=4e-6)
    for wrong, match in (
        ({"z": Tensor(np.zeros((3, 4), np.int32))}, "element type int32"),
        ({"z": Tensor(np.zeros((2, 4), np.float32))}, r"has shape \[2, 4\], expected \[3, 4\]"),
        ({"z": Tensor(np.zeros(12, np.float32))}, r"has shape \[12\]"),
        ({"q": place}, "no output is named"),
        ({"y": place, "z": place}, "share memory"),
        ({"y": SimpleNamespace(__cuda_array_interface__={"shape": (3, 4), "typestr": "<f4", "data": (256, True), "version": 3})},
         "is read-only"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=match):
            exe.run({"x": place}, out=wrong)


@needs_shim
def test_places_of_the_callers() -> None:
    exe, rng = compiled(CHAIN), np.random.default_rng(0)
    x, z = (Tensor(rng.standard_normal((3, 4)).astype(np.float32)) for _ in range(2))
    places = exe.fixed({"x": x}, bind={"x": x, "z": z})
    assert places.inputs["x"].address == x.a.ctypes.data and places.outputs["z"].address == z.a.ctypes.data
    np.testing.assert_allclose(z.a, np.maximum(np.exp(x.a), 0) ** 2, rtol=4e-6)
    x.a[...] = rng.standard_normal((3, 4))
    places.run()
    np.testing.assert_allclose(z.a, np.exp(x.a) ** 2, rtol=4e-6)
    np.testing.assert_allclose(places.outputs["y"].numpy(), np.exp(x.a), rtol=2e-6)
    for wrong, match in (
        ({"z": Tensor(z.a, 4)}, "multiple of 16 bytes"), ({"z": z.a}, "on the device"), ({"z": Tensor(z.a[:2])}, "float32"),
        ({"x": Tensor(np.zeros((3, 4), np.int32))}, "is no place for it"), ({"x": x, "y": x}, "shares memory"), ({"q": x}, "nothing is named q"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=match):
            exe.fixed({"x": x}, bind=wrong)
    twice = compiled("m (float[3, 4] x) => (float[3, 4] y, float[12] z) <int64[1] s = {12}> { y = Exp (x)  z = Reshape (y, s) }")
    with pytest.raises(InputError, match="another output lies in the same place"):
        twice.fixed({"x": x}, bind={"z": Tensor(np.zeros(12, np.float32))})


@needs_shim
def test_outputs_by_dlpack() -> None:
    """The shim's memory is the host's, and so numpy reads it in place."""
    exe, x = compiled(CHAIN), np.ones((3, 4), np.float32)
    y = exe.run({"x": x}, on_device=True)["y"]
    a = np.from_dlpack(y)
    assert a.ctypes.data == y.address
    address, driver = y.address, exe.device.driver  # type: ignore[attr-defined]
    del y
    gc.collect()
    driver.check(address, 48, "kept")
    np.testing.assert_allclose(a, np.exp(x), rtol=2e-6)
    del a
    gc.collect()
    with pytest.raises(CudaMemoryError):
        driver.check(address, 48, "kept")


def test_outputs_by_dlpack_on_a_device() -> None:
    exe = compiled(CHAIN, device="null")
    y = exe.run({"x": np.ones((3, 4), np.float32)}, on_device=True)["y"]
    assert isinstance(y, CudaArray) and y.__dlpack_device__() == (2, 0)
    found = pointed(y, 1, "y")
    assert (found.address, found.shape, found.dtype) == (y.address, (3, 4), np.float32)
    for asked in ({"dl_device": (1, 0)}, {"copy": True}):
        with pytest.raises(BufferError, match="is not copied"):
            y.__dlpack__(**asked)


@needs_shim
def test_streams(monkeypatch: Any) -> None:
    fake = Fake()
    fake.install(monkeypatch)
    exe, x = compiled(CHAIN, device="gpu"), Tensor(np.ones((3, 4), np.float32))
    for i in range(6):
        fake.calls.clear()
        got = exe.run({"x": x}, on_device=True, stream=SimpleNamespace(cuda_stream=77))
        assert fake.calls[0] == "ours waits for 77" and fake.calls[-1] == "77 waits for ours"
        assert "synchronize" not in fake.calls or i == 1  # when the short way is made
    assert "graph" in fake.calls and "launch" not in fake.calls and set(x.asked) == {-1}
    fake.calls.clear()
    np.testing.assert_allclose(exe.run({"x": x}, stream=77)["y"], np.exp(x.a), rtol=2e-6)
    assert fake.calls[0] == "ours waits for 77" and fake.calls[-1] == "77 waits for ours" and "synchronize" in fake.calls
    fake.calls.clear()
    exe.run({"x": x}, on_device=True)  # nobody says when the caller may write to x: it is waited for
    assert fake.calls[-1] == "synchronize" and x.asked[-1] == exe.device.driver.stream  # type: ignore[attr-defined]
    fake.calls.clear()
    got["y"].__dlpack__(stream=5)
    got["y"].__dlpack__()
    got["y"].__dlpack__(stream=-1)
    assert fake.calls == ["5 waits for ours", "1 waits for ours"]
    fake.calls.clear()
    exe.run({"x": x.a}, on_device=True)  # whose outputs may lie where the default stream still reads
    assert fake.calls[:2] == ["write", "ours waits for 1"]
    fake.calls.clear()
    exe.run({"x": x.a})
    assert fake.calls == ["captured 4", "graph", "synchronize"]
    places = exe.fixed({"x": x})
    places.run()
    fake.calls.clear()
    places.run(stream=77)
    assert fake.calls == ["ours waits for 77", "graph", "77 waits for ours"]
    places.set("x", Tensor(np.zeros((3, 4), np.float32)))
    assert fake.calls[-2:] == ["copy", "synchronize"]
    places.run()
    np.testing.assert_array_equal(places.outputs["y"].numpy(), np.ones((3, 4)))


def test_handles_of_streams() -> None:
    class New:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 6

    assert [stream_number(s) for s in (5, 0, New(), SimpleNamespace(ptr=7), SimpleNamespace(cuda_stream=0),
                                       SimpleNamespace(handle=ctypes.c_void_p(9)))] == [5, 1, 6, 7, 1, 9]  # fmt: skip
    with pytest.raises(InputError, match="stream is a str"):
        stream_number("x")


def test_many_small_signatures_all_have_places() -> None:
    exe = compiled(CHAIN, device="null")
    for _ in range(2):
        for n in range(1, 31):
            exe.run({"x": np.zeros((n, 4), np.float32)})
    log = exe.device.driver.log  # type: ignore[attr-defined]
    log.clear()
    for n in range(1, 31):
        exe.run({"x": np.zeros((n, 4), np.float32)})
        exe.run({"x": np.zeros((n, 4), np.float32)})
    kinds = [entry[0] for entry in log]
    assert kinds.count("read") == kinds.count("write") == 60 and kinds.count("capture") == 30


def test_many_signatures_have_bounded_memory_and_use_graphs_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(fixed_runs, "MOST_BYTES", 0)
    exe, rng = compiled(CHAIN, device="null"), np.random.default_rng(0)
    driver = exe.device.driver  # type: ignore[attr-defined]
    assert isinstance(driver, Null)
    sizes = [int(n) for n in rng.integers(1, 21, 400)]
    live, captured = [], []
    for n in sizes:
        exe.run({"x": np.zeros((n, 4), np.float32)})
        live.append(sum(driver.live.values()))
        captured.append(sum(entry[0] == "capture" for entry in driver.log))
    assert max(live[200:]) <= 1.25 * max(live[:200])
    assert captured[399] - captured[199] <= 20  # what came in the first half has graphs, mostly for the same addresses
    for n in [30] * 3 + [31, 32, 33] * 40:  # another use of the model: in the end its signatures have the short ways
        exe.run({"x": np.zeros((n, 4), np.float32)})
    driver.log.clear()
    for n in (30, 31, 32, 33):
        exe.run({"x": np.zeros((n, 4), np.float32)})
    assert [entry[0] for entry in driver.log].count("read") == 5  # of one block of outputs each, but of one signature two
