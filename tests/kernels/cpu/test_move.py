"""Data movement against the references: every item size, layouts, empty and scalar tensors, all modes."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.layout import Layout
from graphmill.ir.ops.examples import rand
from graphmill.kernels import boxes
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from .cases import check_case
from .harness import check_native, make_node, run_kernel

OPS = [
    "transpose",
    "concat",
    "split",
    "slice",
    "pad",
    "depth_to_space",
    "space_to_depth",
    "reverse_sequence",
    "trilu",
    "center_crop_pad",
    "expand",
    "tile",
    "range",
    "constant_of_shape",
    "eye_like",
    "to_layout",
]
DTYPES = [np.uint8, np.float16, np.float32, np.int64, np.complex128, np.bool_, ml_dtypes.int4, ml_dtypes.float8_e4m3fn]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def numbered(shape: tuple[int, ...], dtype: object = np.float32) -> np.ndarray:
    """An array whose elements are easily told apart."""
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("name", OPS)
def test_examples(name):
    share = check_native(name)
    assert share.served and all("str" in r for r in share.refused), share


@pytest.mark.parametrize("name", ["slice", "pad", "split", "tile", "expand", "center_crop_pad"])
def test_examples_with_constants(name):
    from graphmill.ir.op import OPS as all_ops

    for e in all_ops[name].examples():
        if not any(x is not None and x.dtype == object for x in e.operands):
            check_case(name, e.operands, dict(e.attrs), e.results, constants=range(1, len(e.operands)))


shapes = st.lists(st.integers(0, 9), max_size=5).map(tuple)


@settings(max_examples=150, deadline=None)
@given(shapes, st.randoms(use_true_random=False), st.sampled_from(DTYPES))
def test_transposes(shape, random, dtype):
    perm = list(range(len(shape)))
    random.shuffle(perm)
    check_case("transpose", [numbered(shape, dtype)], {"perm": tuple(perm)})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(70, 130), (3, 67, 33), (1000, 3), (3, 1000), (300, 300)])
def test_large_transposes(shape, dtype):
    r = np.random.default_rng(0)
    x = r.integers(0, 256, math.prod(shape) * np.dtype(dtype).itemsize, np.uint8).view(dtype).reshape(shape)
    node = make_node("transpose", [x], {"perm": (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)})
    (got,) = run_kernel(node, [x])
    assert got.tobytes() == np.ascontiguousarray(x.swapaxes(-1, -2)).tobytes()


def test_one_text_serves_all_of_a_size():
    """Texts depend on the item size and on how many operands there are, on nothing else."""
    first = check_case("transpose", [rand(2, 3, 4)], {"perm": (2, 0, 1)})
    assert first.text == check_case("transpose", [rand(5, 6, dtype=np.int32)]).text
    assert first.text == check_case("depth_to_space", [rand(1, 8, 2, 3)], {"blocksize": 2}).text
    assert first.text != check_case("transpose", [rand(5, 6, dtype=np.float64)]).text


@pytest.mark.parametrize("perm", [(0, 2, 3, 1), (3, 1, 0, 2)])
def test_layouts(perm):
    layout, x = Layout.of(perm), rand(2, 3, 4, 5)
    check_case("transpose", [x], {"perm": (1, 0, 3, 2)}, layouts=[layout])
    check_case("to_layout", [x], {"layout": str(layout)}, result_layout=layout)
    check_case("to_layout", [x], {}, layouts=[layout])
    check_case("concat", [x, x[:, :1], x], {"axis": 1}, layouts=[layout, None, layout], result_layout=layout)
    pads = ints(0, 0, 1, 2, 0, 0, 3, 1)
    check_case("pad", [x, pads], {"mode": "reflect"}, constants=(1,), layouts=[layout], result_layout=layout)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_slices(data):
    shape = tuple(data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=4)))
    bounds = st.one_of(st.integers(-9, 9), st.sampled_from([-(2**63), 2**63 - 1]))
    n = len(shape)
    starts, ends = (data.draw(st.lists(bounds, min_size=n, max_size=n)) for _ in range(2))
    steps = data.draw(st.lists(st.sampled_from([-3, -2, -1, 1, 2, 3]), min_size=n, max_size=n))
    axes = [a - n if data.draw(st.booleans()) else a for a in data.draw(st.permutations(range(n)))]
    check_case("slice", [numbered(shape), ints(*starts), ints(*ends), ints(*axes), ints(*steps)])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pads(data):
    mode = data.draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    shape = tuple(data.draw(st.lists(st.integers(1, 6), max_size=4)))
    pads = [data.draw(st.integers(-(n // 2), 2 * n)) for _ in range(2) for n in shape]
    if mode != "constant" and any(n + min(b, 0) + min(e, 0) < 1 for n, b, e in zip(shape, pads, pads[len(shape) :])):
        return  # nothing is left to pad with
    dtype = data.draw(st.sampled_from([np.uint8, np.float32, np.complex128]))
    value = np.asarray(7, dtype) if mode == "constant" and data.draw(st.booleans()) else None
    check_case("pad", [numbered(shape, dtype), ints(*pads), value], {"mode": mode})


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.float64])
def test_fills(dtype):
    check_case("constant_of_shape", [ints(3, 0, 2)], {"value": np.array([5], dtype)})
    check_case("constant_of_shape", [ints(300, 500)], {"value": np.array([-5], dtype)})
    for k in (-7, -2, 0, 1, 3, 9):
        check_case("eye_like", [np.zeros((5, 7), dtype)], {"k": k})


def test_a_complex_fill():
    check_case("constant_of_shape", [ints(3, 5)], {"value": np.array([1 + 2j])})


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -(2**63), -3, 0, 2, 2**63 - 1])
def test_trilu(upper, k):
    for shape in ((3, 5), (2, 0, 4), (2, 6, 3)):
        check_case("trilu", [numbered(shape) + 1, None if k is None else np.int64(k)], {"upper": upper})


def test_many_tiles():
    check_case("concat", [rand(7, 5000), rand(7, 20000), rand(7, 0), rand(7, 33)], {"axis": 1})
    check_case("tile", [rand(3, 1, 50), ints(5, 40, 30)])
    check_case("trilu", [rand(4, 200, 300)])


def test_a_reversed_length_out_of_range_is_reported():
    x = rand(4, 3)
    node = make_node("reverse_sequence", [x, ints(1, 9, 2)])
    with pytest.raises(Exception, match="reverse_sequence: a length lies outside"):
        run_kernel(node, [x, ints(1, 9, 2)])


def test_strings_are_refused():
    answer = select(make_node("transpose", [np.array([["a"]], object)]))
    assert isinstance(answer, Refusal) and "strings" in str(answer)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-1, 6), max_size=12))
def test_runs_spell_their_index(index):
    spelled: list[int] = []
    for at, n, start, step in boxes.runs(index):
        assert at == len(spelled) and step in (-1, 0, 1)
        spelled += [-1] * n if start < 0 else [start + k * step for k in range(n)]
    assert spelled == index
