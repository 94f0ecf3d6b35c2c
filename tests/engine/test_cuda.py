"""Models on the CUDA target without a GPU: run through the shim, and planned on the null device."""

from __future__ import annotations

import gc
import math
import threading
from pathlib import Path
from typing import Any

import graphmill as gm
import ml_dtypes
import numpy as np
import pytest
from graphmill.engine.cuda import Cuda, CudaArray
from graphmill.ir.errors import GraphmillError, InputError, IRError
from graphmill.kernels.cuda import nvrtc
from graphmill.kernels.cuda.driver import CudaMemoryError, Null, Shim
from onnx import parser as onnx_parser

from ..kernels.cuda.harness import needs_shim


def compiled(text: str, **options: Any) -> gm.Executable:
    model = onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    return gm.compile(model, "cuda", **{"device": "shim"} | options)


CHAIN = """m (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {
    a = Exp (x)  b = Relu (a)  z = Mul (b, b)  c = Abs (z)  y = Sqrt (c) }"""


def chain(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(np.exp(x), 0), np.maximum(np.exp(x), 0) ** 2


@needs_shim
def test_sizes_change_and_nothing_is_compiled() -> None:
    exe, rng = compiled(CHAIN), np.random.default_rng(0)
    for n in (3, 5, 3, 0, 257, 0, 5, 0, 5, 1):
        x = rng.standard_normal((n, 4)).astype(np.float32)
        y, z = chain(x)
        got = exe.run({"x": x})
        np.testing.assert_allclose(got["y"], y, rtol=2e-6)
        np.testing.assert_allclose(got["z"], z, rtol=2e-6)
    assert exe.report.fully_native


@needs_shim
def test_outputs_belong_to_the_caller() -> None:
    exe, x = compiled(CHAIN), np.ones((2, 4), np.float32)
    first = exe.run({"x": x})
    kept = {k: v.copy() for k, v in first.items()}
    exe.run({"x": x + 1})
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])
        value[...] = 0


@needs_shim
def test_outputs_go_where_the_caller_wants_them() -> None:
    exe, x = compiled(CHAIN), np.ones((2, 4), np.float32)
    y = np.empty((2, 4), np.float32)
    got = exe.run({"x": x}, out={"y": y})
    assert got["y"] is y
    np.testing.assert_allclose(y, chain(x)[0], rtol=2e-6)


CONTROL = """m (float[2] x, bool c, int64 n) => (float[2] y, float[2] w) {
    y = If (c) <
        then_branch = t () => (float[2] a) { a = Neg (x) },
        else_branch = e () => (float[2] b) { b = Add (x, x) }>
    keep = Constant <value = bool {1}> ()
    w = Loop (n, keep, y) <body = l (int64 i, bool k, float[2] v) => (bool k2, float[2] u) { k2 = Identity (k)  u = Add (v, x) }>
}"""


@needs_shim
@pytest.mark.parametrize("n", [0, 1, 3])
def test_control_flow(n: int) -> None:
    exe, x = compiled(CONTROL), np.array([1, -2], np.float32)
    for c in (True, False, True):
        y = -x if c else x + x
        got = exe.run({"x": x, "c": np.array(c), "n": np.array(n)})
        np.testing.assert_array_equal(got["y"], y)
        np.testing.assert_array_equal(got["w"], y + n * x)


RECURRENT = """m (float[2, 3] x, float[5, 2, 3] s, int64 n, bool c) => (float[2, 3] y, float[K, 2, 3] h, float[2, 3] z, float[5, 2, 3] o) {
    keep = Constant <value = bool {1}> ()
    y, h = Loop (n, keep, x) <body = l (int64 i, bool k, float[2, 3] v) => (bool k2, float[2, 3] u, float[2, 3] t) {
        k2 = Identity (k)  f = Cast <to = 1> (i)  a = Add (v, f)  u = Tanh (a)  t = Neg (u) }>
    z, o = Scan (y, s) <num_scan_inputs = 1, body = b (float[2, 3] p, float[2, 3] q) => (float[2, 3] r, float[2, 3] w) {
        m = Mul (p, q)  r = If (c) <then_branch = t () => (float[2, 3] d) { d = Sin (m) }, else_branch = e () => (float[2, 3] g) { g = Cos (p) }>
        w = Abs (r) }>
}"""


@needs_shim
@pytest.mark.parametrize("n", [0, 1, 4])
@pytest.mark.parametrize("c", [True, False])
def test_carried_values(n: int, c: bool) -> None:
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((2, 3)).astype(np.float32), "s": rng.standard_normal((5, 2, 3)).astype(np.float32),
             "n": np.array(n), "c": np.array(c)}  # fmt: skip
    want = gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {RECURRENT}'), "reference").run(feeds)
    exe = compiled(RECURRENT)
    for on_device in (False, True, False):
        got = exe.run(feeds, on_device=on_device)
        for name, w in want.items():
            np.testing.assert_allclose(got[name].numpy() if on_device else got[name], w, rtol=2e-6, atol=1e-6, err_msg=name)


def test_carried_values_stay_on_the_device() -> None:
    text = """m (float[2, 3] x, int64 n) => (float[2, 3] y) { keep = Constant <value = bool {1}> ()
        y = Loop (n, keep, x) <body = l (int64 i, bool k, float[2, 3] v) => (bool k2, float[2, 3] u) { k2 = Identity (k)  u = Tanh (v) }> }"""
    exe = compiled(text, device="null")
    assert isinstance(exe.device, Cuda) and isinstance(exe.device.driver, Null)
    log = exe.device.driver.log
    for n in (3, 30):
        log.clear()
        exe.run({"x": np.zeros((2, 3), np.float32), "n": np.array(n)})
        kinds = [entry[0] for entry in log]
        assert kinds.count("launch") == n and kinds.count("read") == kinds.count("write") == 1


SELECTING = """m (float[N] x) => (int64[M] y, float[M] z) {
    p = Relu (x)  i = NonZero (p)  y = Squeeze (i)  z = Gather (x, y) }"""


@needs_shim
def test_sizes_that_only_running_tells() -> None:
    exe = compiled(SELECTING)
    for x in ([1, 0, -2, 3], [0, 0], [5, 6, 7]):
        a = np.array(x, np.float32)
        got = exe.run({"x": a})
        np.testing.assert_array_equal(got["y"], np.nonzero(a > 0)[0])
        np.testing.assert_array_equal(got["z"], a[a > 0])


@needs_shim
def test_wrong_contents_are_errors() -> None:
    exe = compiled("m (float[3] x, int64[2] i) => (float[2] y) { y = Gather (x, i) }")
    x = np.arange(3, dtype=np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(exe.run({"x": x, "i": np.array([2, -3])})["y"], [2, 0])
        with pytest.raises(GraphmillError, match=r"[Gg]ather"):
            exe.run({"x": x, "i": np.array([0, 3])})


@needs_shim
def test_many_threads_run_one_executable() -> None:
    exe, failures = compiled(CHAIN), []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(10):
            x = rng.standard_normal((int(rng.integers(1, 9)), 4)).astype(np.float32)
            got = exe.run({"x": x})
            if not np.allclose(got["z"], chain(x)[1], rtol=1e-5):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


@needs_shim
def test_saved_and_loaded(tmp_path: Path) -> None:
    exe, x = compiled(CHAIN), np.ones((2, 4), np.float32)
    exe.save(tmp_path / "m.gmill")
    again = gm.load(tmp_path / "m.gmill")
    assert again.options.target == "cuda" and again.options.device == "shim"
    for name, value in exe.run({"x": x}).items():
        np.testing.assert_array_equal(again.run({"x": x})[name], value)


def test_the_null_device_keeps_account() -> None:
    exe = compiled(CHAIN, device="null")
    x = np.ones((3, 4), np.float32)
    for _ in range(3):
        out = exe.run({"x": x})
        assert out["y"].shape == (3, 4) and not out["y"].any()
    assert isinstance(exe.device, Cuda) and isinstance(exe.device.driver, Null)
    log = [entry[0] for entry in exe.device.driver.log]
    once = log[: log.index("read")]
    assert once[0] == "write" and set(once[1:]) == {"launch"}
    reads = ["read", "read"]
    # What comes for the second time at the same addresses is captured; a signature that came twice gets places of its own, where
    # one graph copies the inputs, computes and copies the outputs, which lie in one block.
    assert log == [*once, *reads, "write", "capture", *once[1:], *reads, "write", "capture", *once, "read"]


def test_memory_is_freed() -> None:
    exe = compiled(CHAIN, device="null")
    assert isinstance(exe.device, Cuda) and isinstance(exe.device.driver, Null)
    live = exe.device.driver.live
    counts = []
    for _ in range(4):
        exe.run({"x": np.ones((3, 4), np.float32)})
        counts.append(len(live))
    assert counts[1] == counts[2] == counts[3]


def test_addresses_outside_of_memory_are_found() -> None:
    for driver in (Shim(), Null()):
        block = driver.alloc(16)
        driver.write(block.address, np.zeros(2, np.int64))
        with pytest.raises(CudaMemoryError, match="no memory that lives"):
            driver.write(block.address, np.zeros(3, np.int64))
        address = block.address
        del block
        with pytest.raises(CudaMemoryError, match="no memory that lives"):
            driver.read(np.zeros(1, np.int64), address)


def test_arrays_of_a_device() -> None:
    driver = Shim()
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    (x,) = Cuda(driver).bring([a])
    assert isinstance(x, CudaArray) and x.shape == a.shape and x.nbytes == a.nbytes
    np.testing.assert_array_equal(x.numpy(), a)
    np.testing.assert_array_equal(x.transpose((2, 0, 1)).numpy(), a.transpose(2, 0, 1))
    np.testing.assert_array_equal(x.reshape((6, 4)).numpy(), a.reshape(6, 4))
    np.testing.assert_array_equal(x.reshape((24,))[:5].numpy(), a.ravel()[:5])
    for axis in range(3):
        np.testing.assert_array_equal(Cuda(driver).trim(x, axis, 1).numpy(), a.take([0], axis))


def test_precision_is_checked() -> None:
    with pytest.raises(InputError, match="expected one of fp32, tf32, fp16, bf16"):
        compiled(CHAIN, precision="int3")
    with pytest.raises(InputError, match="offered by target = 'cuda'"):
        gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {CHAIN}'), precision="fp16")
    for precision in ("fp32", "tf32", "fp16"):
        with pytest.raises(IRError, match="there is no node named nothing"):
            compiled(CHAIN, device="null", precision=precision, keep_fp32=["nothing"])
    with pytest.raises(InputError, match="expected one of gpu, shim, null"):
        compiled(CHAIN, device="tpu")


def test_no_gpu_is_one_line() -> None:
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount():
            pytest.skip("there is a GPU")
    except Exception:
        pass
    with pytest.raises(nvrtc.CudaUnavailable) as e:
        compiled(CHAIN, device="gpu")
    assert "\n" not in str(e.value)


@needs_shim
def test_arrays_stay_on_the_device() -> None:
    exe, x = compiled(CHAIN), np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    first = exe.run({"x": x}, on_device=True)
    second = exe.run({"x": first["y"]}, on_device=True)
    assert isinstance(second["z"], CudaArray) and isinstance(first["y"], CudaArray)
    np.testing.assert_allclose(second["z"].numpy(), chain(chain(x)[0])[1], rtol=2e-6)
    np.testing.assert_allclose(exe.run({"x": first["y"]})["z"], second["z"].numpy(), rtol=0)
    with pytest.raises(InputError, match="element type int32, expected float32"):
        exe.run({"x": first["y"].reshape((12,)).view(np.dtype(np.int32)).reshape((3, 4))})
    with pytest.raises(InputError, match="expected rank 2"):
        exe.run({"x": first["y"].reshape((12,))})
    with pytest.raises(InputError, match="on_device"):
        gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {CHAIN}')).run({"x": x}, on_device=True)


@needs_shim
def test_outputs_on_the_device_are_no_inputs() -> None:
    exe = compiled("m (float[N] x) => (float[N] y, float[N] z, float[2] w) { y = Identity (x)  z = Identity (x)"
                   "  w = Constant <value = float[2] {1, 2}> () }")  # fmt: skip
    x = compiled("m (float[N] x) => (float[N] y) { y = Neg (x) }").run({"x": np.ones(3, np.float32)}, on_device=True)["y"]
    for given in (np.ones(3, np.float32), x):
        got = exe.run({"x": given}, on_device=True)
        places = {got["y"].address, got["z"].address, getattr(given, "address", 0)}
        assert len(places) == 3
        np.testing.assert_array_equal(got["w"].numpy(), [1, 2])


def test_arrays_of_other_libraries() -> None:
    """What CuPy and PyTorch say of their arrays, over memory of the host."""

    class Other:
        def __init__(self, a: np.ndarray, **more: Any):
            self.a = a
            self.__cuda_array_interface__ = {"shape": a.shape, "typestr": a.dtype.str, "data": (a.ctypes.data, False),
                                             "strides": a.strides, "version": 3} | more  # fmt: skip

    device, a = Cuda(Shim()), np.arange(6, dtype=np.float32).reshape(2, 3)
    for x in (Other(a), Other(a, strides=None), Other(a, stream=1), Other(a[:, :0]), Other(a[:1])):
        found = device.adopt(x, "x", ordered=False)
        assert (found.shape, found.dtype, found.address) == (x.a.shape, x.a.dtype, x.a.ctypes.data)
    with pytest.raises(InputError, match="C-contiguous"):
        device.adopt(Other(a.T), "x", ordered=False)


@needs_shim
def test_fixed_places() -> None:
    exe, x = compiled(CHAIN), np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    fixed = exe.fixed({"x": x})
    np.testing.assert_allclose(fixed.outputs["z"].numpy(), chain(x)[1], rtol=2e-6)
    fixed.set("x", x + 1)
    fixed.run()
    fixed.check()
    np.testing.assert_allclose(fixed.outputs["y"].numpy(), chain(x + 1)[0], rtol=2e-6)
    with pytest.raises(InputError, match="expected one of x: float32"):
        fixed.set("x", x[:2])


@needs_shim
def test_fixed_places_check_contents() -> None:
    exe = compiled("m (float[3] x, int64[2] i) => (float[2] y) { y = Gather (x, i) }")
    fixed = exe.fixed({"x": np.arange(3, dtype=np.float32), "i": np.array([2, -3])})
    fixed.set("i", np.array([1, 3]))
    fixed.run()
    with pytest.raises(GraphmillError, match=r"[Gg]ather"):
        fixed.check()


def test_what_has_no_fixed_places() -> None:
    with pytest.raises(InputError, match="more than one segment"):
        compiled(CONTROL, device="null").fixed({"x": np.zeros(2, np.float32), "c": np.array(True), "n": np.array(1)})
    with pytest.raises(InputError, match="is an input or a constant"):
        compiled("m (float[2] x) => (float[2] y, float[2] z) { y = Identity (x)  z = Neg (x) }", device="null").fixed(
            {"x": np.zeros(2, np.float32)}
        )


def test_closing_gives_memory_back() -> None:
    text = """m (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { a = Add (x, w)  b = Exp (a)  y = Add (b, w) }"""
    with compiled(text, device="null") as exe:
        assert isinstance(exe.device, Cuda) and isinstance(exe.device.driver, Null)
        gc.disable()  # nothing waits for it
        for n in (3, 5, 3, 5, 3):
            exe.run({"x": np.ones((n, 4), np.float32)})
        kept = exe.run({"x": np.ones((3, 4), np.float32)}, on_device=True)["y"]
        fixed = exe.fixed({"x": np.ones((3, 4), np.float32)})
        assert len(exe.device.driver.live) > 1
        exe.close()
        with pytest.raises(InputError, match="closed"):  # the constants that its graph reads are gone
            fixed.run()
        del fixed
    with pytest.raises(InputError, match="closed"):
        exe.fixed({"x": np.ones((3, 4), np.float32)})
    assert list(exe.device.driver.live) == [kept.address]
    gc.enable()
    with pytest.raises(InputError, match="closed"):
        exe.run({"x": np.ones((3, 4), np.float32)})


PRODUCT = """m (float[64, 48] x) => (float[64, 32] y) <float[48, 32] w = {%s}> { y = MatMul (x, w) }"""


@needs_shim
@pytest.mark.parametrize(
    ("precision", "low", "high"), [("fp32", 0, 1e-6), ("tf32", 1e-5, 1e-3), ("fp16", 1e-5, 1e-3), ("bf16", 1e-4, 1e-2)]
)
def test_precision(precision: str, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((64, 48)).astype(np.float32), rng.standard_normal((48, 32)).astype(np.float32)
    text, want = PRODUCT % ", ".join(map(repr, map(float, w.ravel()))), x.astype(np.float64) @ w

    def error(exe: gm.Executable) -> float:
        return float(np.sqrt(np.mean(np.square(exe.run({"x": x})["y"] - want)) / np.mean(np.square(want))))

    assert low <= error(compiled(text, precision=precision)) <= high
    assert error(compiled(text, precision=precision, keep_fp32=["y"])) <= 1e-6


@needs_shim
@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_widens_joins_a_product(target: str, dtype: str) -> None:
    """gelu of 16-bit floats is computed in f32: in a product's epilogue it is rounded once."""
    text = f"""m ({dtype}[40, 16] x, {dtype}[16, 24] w) => ({dtype}[40, 24] y) {{ a = MatMul (x, w)  y = Gelu (a) }}"""
    model = onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    exe = gm.compile(model, target, device="shim")
    assert len(list(exe.plan.kernels())) == 1
    rng, kind = np.random.default_rng(0), np.dtype(dtype)
    x, w = rng.standard_normal((40, 16)).astype(kind), rng.standard_normal((16, 24)).astype(kind)
    a = x.astype(np.float64) @ w.astype(np.float64)
    want = a * 0.5 * (1 + np.vectorize(math.erf)(a / math.sqrt(2)))
    unit = float(ml_dtypes.finfo(kind).eps)
    np.testing.assert_allclose(exe.run({"x": x, "w": w})["y"].astype(np.float64), want, rtol=unit, atol=unit * 1e-2)
