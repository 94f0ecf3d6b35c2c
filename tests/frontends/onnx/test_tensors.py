"""Tensors of every element type and in every form of storage, and those whose parts do not fit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphmill.frontends.onnx.tensors import EAGER, read_sparse, read_tensor
from graphmill.ir.errors import HostileModelError, LimitError
from graphmill.ir.limits import DEFAULT_LIMITS, Limits
from graphmill.ir.types import ONNX_DTYPES, STR, TensorType
from onnx import TensorProto, helper, numpy_helper

NUMBERS = [code for code, d in ONNX_DTYPES.items() if d is not STR]


def values(code: int, shape: tuple[int, ...]) -> np.ndarray:
    d, n = ONNX_DTYPES[code], int(np.prod(shape))
    if d.kind == "bool":
        return (np.arange(n) % 3 == 0).reshape(shape)
    if d.kind == "complex":
        return (np.arange(n) - 1j * np.arange(n)).astype(d.np).reshape(shape)
    if d.kind == "uint":
        return (np.arange(n) % min(1 << d.bits, 200)).astype(d.np).reshape(shape)
    if d.kind == "int":
        half = min(1 << (d.bits - 1), 100)
        return (np.arange(n) % (2 * half) - half).astype(d.np).reshape(shape)
    return np.array([1.0, -2.0, 0.5, 4.0, -1.0] * n)[:n].astype(np.float32).__abs__().astype(d.np).reshape(shape)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 3), (41, 101)], ids=str)
@pytest.mark.parametrize("code", NUMBERS, ids=lambda c: ONNX_DTYPES[c].name)
def test_raw_data_of_every_type(code, shape):
    want = values(code, shape)
    constant, type_ = read_tensor(numpy_helper.from_array(want), DEFAULT_LIMITS)
    got = constant.array
    assert type_ == TensorType(ONNX_DTYPES[code], shape) and got.dtype == want.dtype and got.shape == shape
    assert got.tobytes() == want.tobytes() and got.flags.aligned


@pytest.mark.parametrize("code", NUMBERS, ids=lambda c: ONNX_DTYPES[c].name)
def test_typed_fields_of_every_type(code):
    want = values(code, (3, 5))
    proto = helper.make_tensor("t", code, (3, 5), want.ravel().tolist() if ONNX_DTYPES[code].bits >= 6 else want.ravel())
    assert not proto.HasField("raw_data")
    got = read_tensor(proto, DEFAULT_LIMITS)[0].array
    assert got.dtype == want.dtype and got.tobytes() == want.tobytes()


def test_raw_data_left_out_of_the_protobuf_at_an_odd_address():
    want = np.arange(2000, dtype=np.float32)
    proto = TensorProto(data_type=1, dims=[2000])
    got = read_tensor(proto, DEFAULT_LIMITS, raw=memoryview(b"x" + want.tobytes())[1:])[0].array
    assert np.array_equal(got, want) and got.flags.aligned


def test_a_large_tensor_is_decoded_when_asked_for_and_a_change_of_the_proto_does_not_reach_it():
    want = np.arange(EAGER, dtype=np.float32)
    proto = numpy_helper.from_array(want)
    constant, _ = read_tensor(proto, DEFAULT_LIMITS)
    proto.raw_data = bytes(len(proto.raw_data))
    assert np.array_equal(constant.array, want)


def test_bools_are_zero_or_one():
    proto = TensorProto(data_type=TensorProto.BOOL, dims=[3], raw_data=b"\x00\x02\xff")
    got = read_tensor(proto, DEFAULT_LIMITS)[0].array
    assert got.view(np.uint8).tolist() == [0, 1, 1]


def test_strings_are_str_and_keep_bytes_that_are_no_text():
    proto = TensorProto(data_type=TensorProto.STRING, dims=[2, 1], string_data=["gr\u00fcn".encode(), b"\xff\x00"])
    got = read_tensor(proto, DEFAULT_LIMITS)[0].array
    assert got.dtype == object and got.shape == (2, 1) and got[0, 0] == "gr\u00fcn"
    assert got[1, 0].encode("utf-8", "surrogateescape") == b"\xff\x00"


def tensor(**kw) -> TensorProto:
    return TensorProto(**({"data_type": 1, "dims": [2]} | kw))


@pytest.mark.parametrize("proto, words", [
    (tensor(raw_data=b"1234567"), "7 bytes, expected 8"),
    (tensor(raw_data=b"123456789"), "9 bytes, expected 8"),
    (tensor(raw_data=b""), "0 bytes, expected 8"),
    (tensor(), "0 numbers, expected 2"),
    (tensor(float_data=[1.0] * 3), "3 numbers, expected 2"),
    (tensor(dims=[-1], float_data=[]), "negative"),
    (tensor(dims=[-1, -2], raw_data=b"12345678"), "negative"),
    (tensor(dims=[1 << 40, 1 << 40]), "overflow"),
    (tensor(dims=[1 << 62, 4, 0]), "overflow"),
    (tensor(dims=[(1 << 63) - 1] * 2), "overflow"),
    (tensor(dims=[1] * 65), "overflow"),
    (tensor(data_type=0), "element type 0"),
    (tensor(data_type=77), "element type 77"),
    (tensor(raw_data=b"12345678", float_data=[1.0]), "twice"),
    (tensor(int32_data=[1, 2]), "expected float_data"),
    (tensor(segment=TensorProto.Segment(begin=0, end=1)), "segments"),
    (tensor(data_type=TensorProto.STRING, raw_data=b"ab"), "strings"),
    (tensor(data_type=TensorProto.STRING, data_location=1), "strings"),
    (tensor(data_type=TensorProto.UINT8, int32_data=[1, 256]), "outside"),
    (tensor(data_type=TensorProto.INT8, int32_data=[1, -129]), "outside"),
    (tensor(data_type=TensorProto.FLOAT16, int32_data=[1, -1]), "outside"),
    (tensor(data_type=TensorProto.UINT32, uint64_data=[1, 1 << 32]), "outside"),
    (tensor(data_type=TensorProto.INT4, dims=[3], int32_data=[1]), "1 numbers, expected 2"),
    (tensor(data_type=TensorProto.COMPLEX64, float_data=[1.0, 2.0]), "2 numbers, expected 4"),
])  # fmt: skip
def test_parts_that_do_not_fit(proto, words):
    with pytest.raises(HostileModelError, match=words):
        read_tensor(proto, DEFAULT_LIMITS)


def test_the_limit_on_bytes():
    with pytest.raises(LimitError, match=r"Limits\.tensor_bytes"):
        read_tensor(tensor(dims=[1 << 40]), DEFAULT_LIMITS)
    with pytest.raises(LimitError):
        read_tensor(tensor(float_data=[1.0, 2.0]), Limits(tensor_bytes=7))
    read_tensor(tensor(float_data=[1.0, 2.0]), Limits(tensor_bytes=8))


def sparse(data, at, dims, dtype=np.float32) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(
        dims=dims, values=numpy_helper.from_array(np.array(data, dtype)), indices=numpy_helper.from_array(np.array(at, np.int64))
    )


@pytest.mark.parametrize("at", [[1, 5], [[0, 1], [1, 2]]], ids=["linear", "coordinates"])
def test_sparse_tensors_become_dense(at):
    constant, type_ = read_sparse(sparse([1, 2], at, [2, 3]), DEFAULT_LIMITS)
    assert constant.array.tolist() == [[0, 1, 0], [0, 0, 2]] and type_.shape == (2, 3)


def test_sparse_tensors_without_elements():
    assert read_sparse(sparse([], np.zeros((0, 2)), [2, 3]), DEFAULT_LIMITS)[0].array.tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("proto, error, words", [
    (sparse([1], [6], [2, 3]), HostileModelError, "outside"),
    (sparse([1], [-1], [2, 3]), HostileModelError, "outside"),
    (sparse([1], [[2, 0]], [2, 3]), HostileModelError, "outside"),
    (sparse([1, 2], [1, 1], [2, 3]), HostileModelError, "twice"),
    (sparse([1, 2], [1], [2, 3]), HostileModelError, "expected values"),
    (sparse([[1]], [1], [2, 3]), HostileModelError, "expected values"),
    (sparse([1], [1], [-1, 3]), HostileModelError, "negative"),
    (sparse([1], [1], [1 << 30, 1]), LimitError, "fold_bytes"),
])  # fmt: skip
def test_sparse_tensors_that_do_not_fit(proto, error, words):
    with pytest.raises(error, match=words):
        read_sparse(proto, DEFAULT_LIMITS)
