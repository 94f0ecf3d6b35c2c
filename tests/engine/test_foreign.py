"""Inputs of other libraries, read where they lie: DLPack (also of types that numpy refuses), array interface, buffers, scalars."""

from __future__ import annotations

import array
import ctypes
import gc
from typing import Any

import graphmill as gm
import ml_dtypes
import numpy as np
import pytest
from graphmill.engine.foreign import as_numpy
from onnx import parser as onnx_parser

PASSED = "m ({0}[N, 2] x) => ({0}[N, 2] y) {{ y = Identity (x) }}"


def compiled(text: str) -> gm.Executable:
    return gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}'))


@pytest.fixture(scope="module")
def negate() -> gm.Executable:
    return compiled("m (float[N, 2] x) => (float[N, 2] y) { y = Neg (x) }")


x = np.arange(6, dtype=np.float32).reshape(3, 2)


class Tensor:
    """A tensor of some other library."""

    def __init__(self, a: Any, device: tuple[int, int] = (1, 0), old: bool = False):
        self.a, self.device, self.old = gm.as_dlpack(a), device, old

    def __dlpack__(self, **asked: Any) -> Any:
        if self.old and asked:
            raise TypeError("__dlpack__() got an unexpected keyword argument")
        return self.a.__dlpack__(**asked)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class Interface:
    def __init__(self, a: np.ndarray):
        self.a = a

    @property
    def __array_interface__(self) -> dict:
        return self.a.__array_interface__


@pytest.mark.parametrize("given", [
    Tensor(x), Tensor(x, old=True), Tensor(x, device=(3, 0)), Interface(x), memoryview(x), x.astype(">f4"), x.view(np.matrix), np.ma.array(x), x.tolist(),
    Tensor(np.asfortranarray(x)), Interface(x[::1]), (ctypes.c_float * 2 * 3)((0, 1), (2, 3), (4, 5)),
], ids=lambda v: type(v).__name__)  # fmt: skip
def test_what_is_read(negate: gm.Executable, given: Any) -> None:
    for _ in range(3):
        assert (negate.run({"x": given})["y"] == -x).all()


def test_nothing_is_copied() -> None:
    frozen = x.copy()
    frozen.flags.writeable = False
    floats = array.array("f", [1, 2])
    for given, data in (
        (Tensor(x), x),
        (Interface(x), x),
        (memoryview(x), x),
        (frozen, frozen),
        (x[1:], x[1:]),
        (floats, np.frombuffer(floats, "f")),
    ):
        a = as_numpy(given, "x")
        assert a is not None and a.ctypes.data == data.ctypes.data and a.shape == data.shape
    assert as_numpy([1, 2], "x") is None and as_numpy(3.0, "x") is None and as_numpy("text", "x") is None


def test_the_short_way_serves_them(negate: gm.Executable) -> None:
    negate.run({"x": x})
    kept = list(negate._replays)
    for given in (Tensor(x), x.T.copy().T, x.tolist(), memoryview(x), np.lib.stride_tricks.as_strided(x, x.shape, x.strides)):
        negate.run({"x": given})
    assert negate._replays == kept


@pytest.mark.parametrize(
    "name", ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]
)
def test_types_that_numpy_has_not(name: str) -> None:
    a = np.array([[1, 2], [4, 0.5]], getattr(ml_dtypes, name))
    with pytest.raises((BufferError, TypeError)):
        a.__dlpack__()
    seen = as_numpy(Tensor(a), "x")
    assert seen is not None and seen.dtype == a.dtype and seen.tobytes() == a.tobytes() and seen.ctypes.data == a.ctypes.data
    strided = as_numpy(Tensor(a.T), "x")
    assert strided is not None and strided.strides == a.T.strides and strided.tobytes() == a.T.tobytes()
    assert gm.as_dlpack(a).__dlpack_device__() == (1, 0)
    del a
    gc.collect()
    assert seen.astype(np.float32).tolist() == [[1, 2], [4, 0.5]]


def test_bfloat16_runs() -> None:
    exe = compiled("m (bfloat16[N] x) => (bfloat16[N] y) { y = Neg (x) }")
    a, place = np.array([1, 2], ml_dtypes.bfloat16), Tensor(np.zeros(2, ml_dtypes.bfloat16))
    assert exe(Tensor(a)).tolist() == [-1, -2]
    assert exe.run({"x": a}, out={"y": place})["y"] is place and as_numpy(place, "y").tolist() == [-1, -2]  # type: ignore[union-attr]
    with pytest.raises(
        gm.errors.InputError, match=r"has element type uint16, expected bfloat16 .* bits of such numbers, with \.view"
    ):
        exe(np.zeros(2, np.uint16))


def test_scalars() -> None:
    exe = compiled("m (float a, int64 b) => (float y) { c = Cast <to = 1> (b)  y = Add (a, c) }")
    for a, b in ((1.5, 2), (np.float32(1.5), np.int64(2)), (np.array(1.5, np.float32), Tensor(np.array(2)))):
        out = exe(a, b)
        assert out == 3.5 and out.shape == ()


@pytest.mark.parametrize(("given", "says"), [
    (Tensor(x, device=(2, 1)), r"input x lies in memory of a device \(CUDA, 1\), expected the CPU's; copy it there"),
    (Tensor(x, device=(99, 0)), r"of DLPack's kind 99"),
    (Tensor(x.astype(np.float64)), "input x has element type float64"),
    (np.ma.array(x, mask=x > 3), "input x has masked elements"),
    (object(), "input x is a object, expected f32"), (None, r"input x is None, expected f32\["), ("text", "expected f32"), ([[1, "a"]], "expected f32"),
    (bytes(24), "input x has element type uint8"),
])  # fmt: skip
def test_what_is_refused(negate: gm.Executable, given: Any, says: str) -> None:
    with pytest.raises(gm.errors.InputError, match=says):
        negate.run({"x": given})


def test_an_owner_that_does_not_export(negate: gm.Executable) -> None:
    class Refuses(Tensor):
        def __dlpack__(self, **asked: Any) -> Any:
            raise BufferError("it requires grad")

    with pytest.raises(gm.errors.InputError, match="input x is a Refuses that cannot be read by DLPack: it requires grad"):
        negate.run({"x": Refuses(x)})


def test_torch(negate: gm.Executable) -> None:
    torch = pytest.importorskip("torch")
    t = torch.arange(6, dtype=torch.float32).reshape(3, 2)
    place = torch.zeros(3, 2)
    assert negate.run({"x": t}, out={"y": place})["y"] is place and (place == -t).all()
    assert (torch.from_dlpack(negate.run({"x": t.T.contiguous().T})["y"]) == -t).all()
    with pytest.raises(gm.errors.InputError, match=r"requires? grad"):
        negate.run({"x": t.requires_grad_()})
    half = torch.ones(2, 2, dtype=torch.bfloat16)
    y = compiled("m (bfloat16[2, 2] x) => (bfloat16[2, 2] y) { y = Neg (x) }")(half)
    assert (torch.from_dlpack(gm.as_dlpack(y)) == -half).all()
