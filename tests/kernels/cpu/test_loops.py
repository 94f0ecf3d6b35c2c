"""Elementwise kernels: every operator's examples, broadcasting of all kinds, fused regions, layouts, memory in place."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re

import graphmill.ir.ops
import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.symbols import symbol
from graphmill.ir.types import BF16, F16, F32, I32, TensorType
from graphmill.kernels.cpu.objects import kernel_assembly
from graphmill.kernels.cpu.target import select
from graphmill.kernels.cpu.tiling import architecture
from graphmill.kernels.spec import KernelSource, Refusal

from .harness import assert_close, check_native, make_node, reference, run_kernel
from .regions import apply, fused

for _module in pkgutil.iter_modules(graphmill.ir.ops.__path__):
    importlib.import_module(f"graphmill.ir.ops.{_module.name}")
ELEMENTWISE = [name for name in OPS if OPS[name].is_elementwise]
# Operators some of whose examples no kernel serves: strings and complex numbers.
PARTIAL = {"cast", "where", "equal"}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_examples(name):
    share = check_native(name)
    assert share.served or not OPS[name].examples
    assert name in PARTIAL or not share.refused, share


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(-2, 2, shape).astype(np.float32)


SHAPES = [((3, 5, 7), (7,)), ((3, 5, 7), (5, 1)), ((3, 5, 7), (3, 1, 1)), ((3, 1, 7), (1, 5, 1)), ((2, 1, 3, 1), (5, 1, 4)),
          ((4, 1), (1, 6)), ((), (3, 2)), ((1, 1), (1,)), ((0, 3), (3,)), ((3, 0), (3, 1)), ((0,), (1,)),
          ((2, 3, 1, 5), (2, 1, 4, 5)), ((20000, 3), (3,)), ((3, 20000), (3, 1)),
          ((100003,), (100003,)), ((129, 300), (1, 300))]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_broadcasting(a, b):
    for left, right in ((a, b), (b, a)):
        x, y = rand(*left), rand(*right, seed=1)
        (got,) = run_kernel(make_node("sub", [x, y]), [x, y])
        assert_close(got, x - y)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 4), (4, 1), (4, 4)])
def test_a_dim_that_turns_out_to_be_one(sizes):
    """Where types do not say whether a dim broadcasts, the run does."""
    n, m, k = symbol("n"), symbol("m"), symbol("k")
    for left, right in (((n, 5), (m, 5)), ((k, 3, n), (k, 3, m)), ((n,), (m,)), ((k, n, 6), (m, 6))):
        at = {"n": sizes[0], "m": sizes[1], "k": 3}
        shapes = [tuple(d if isinstance(d, int) else at[str(d)[1:]] for d in dims) for dims in (left, right)]
        x, y = rand(*shapes[0]), rand(*shapes[1], seed=1)
        node = make_node("sub", [x, y], types=[TensorType(F32, left), TensorType(F32, right)])
        want = x - y
        (got,) = run_kernel(node, [x, y], [want.shape])
        assert_close(got, want)


def test_one_kernel_serves_all_sizes():
    n = symbol("n")
    types = [TensorType(F32, (n, 8)), TensorType(F32, (8,))]
    texts = set()
    for size in (0, 1, 3, 5000):
        x, y = rand(size, 8), rand(8, seed=1)
        node = make_node("add", [x, y], types=types)
        texts.add(select(node).text)
        assert_close(run_kernel(node, [x, y], [x.shape])[0], x + y)
    assert len(texts) == 1


def test_equal_regions_have_equal_texts():
    a, b = rand(4, 6), rand(9, 2, 3)
    assert select(make_node("add", [a, a])).text == select(make_node("add", [b, b])).text


@pytest.mark.parametrize("other", [(3, 1, 1), (2, 3, 4, 5), (1,), (5,), (2, 1, 1, 1), (4, 1)])
def test_channels_last(other):
    layout = channels_last(4)
    x, y = rand(2, 3, 4, 5), rand(*other, seed=1)
    types = [TensorType(F32, x.shape, layout), TensorType(F32, other, layout if len(other) == 4 and other[2:] != (1, 1) else None)]
    node = make_node("sub", [x, y], types=types)
    node.results[0].type = TensorType(F32, x.shape, layout)
    assert_close(run_kernel(node, [x, y])[0], x - y)


def test_mixed_layouts_are_refused():
    x = rand(2, 3, 4, 5)
    node = make_node("add", [x, x], types=[TensorType(F32, x.shape, channels_last(4)), TensorType(F32, x.shape)])
    assert isinstance(select(node), Refusal)


def test_numbers_are_written_into_the_text():
    x = rand(3, 4)
    for value in (np.float32(0.1), np.full((1, 1), -np.inf, np.float32), np.float32(np.nan)):
        node = make_node("add", [x, value], constants=(1,))
        source = select(node)
        assert "param(p, 1)" not in source.text
        assert_close(run_kernel(node, [x, value])[0], x + value)


@pytest.mark.parametrize("exponent", [-1, 0.5, 1, 2, 3, 2.5, 0])
def test_small_powers(exponent):
    x = np.float32([0, -0.0, 1, -1, 2, 9, -3, np.inf, -np.inf, np.nan, 1e-40, 1e30])
    y = np.float32(exponent)
    with np.errstate(all="ignore"):
        want = np.power(x, np.full_like(x, y))  # a whole array: numpy takes the square root for a scalar 0.5, which differs at -inf
        assert_close(run_kernel(make_node("pow", [x, y], constants=(1,)), [x, y])[0], want)


def test_in_place():
    x, y = rand(1000), rand(1000, seed=1)
    node = make_node("sub", [x, y])
    assert select(node).in_place == {0, 1}
    for i in (0, 1):
        assert_close(run_kernel(node, [x, y], in_place=i)[0], x - y)
    row = make_node("sub", [rand(4, 6), rand(6)])
    assert select(row).in_place == {0}
    assert select(make_node("greater", [x, y])).in_place == frozenset()


# ---- regions ----------------------------------------------------------------------------------------------------


def test_a_region_with_two_results():
    x, y, b = rand(3, 5, 8), rand(3, 5, 8, seed=1), rand(8, seed=2)

    def build(g, inputs):
        total = apply(g, "add", inputs[0], inputs[1])
        return [total, apply(g, "tanh", apply(g, "mul", total, inputs[2]))]

    node = fused(build, x, y, b)
    assert select(node).in_place == frozenset()
    got = run_kernel(node, [x, y, b])
    assert_close(got[0], x + y)
    assert_close(got[1], np.tanh((x + y) * b))


def test_a_region_in_channels_last_with_constants():
    x, b, c = rand(2, 3, 4, 5), rand(3, 1, 1, seed=1), np.float32(0.5)
    layout = channels_last(4)
    node = fused(
        lambda g, i: [apply(g, "relu", apply(g, "add", apply(g, "mul", i[0], i[2]), i[1]))], x, b, c, layout=layout, constants=(2,)
    )
    assert node.results[0].tensor.layout == layout
    assert_close(run_kernel(node, [x, b, c])[0], np.maximum(x * c + b, 0))


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_halves_are_rounded_after_every_operator(dtype):
    """What a fused region gives is bit for bit what its operators give one by one."""
    x, y = (rand(500, seed=s).astype(dtype.np) for s in (0, 1))
    node = fused(lambda g, i: [apply(g, "sub", apply(g, "mul", apply(g, "add", *i), i[0]), i[1])], x, y)
    (got,) = run_kernel(node, [x, y])
    (a,) = run_kernel(make_node("add", [x, y]), [x, y])
    (m,) = run_kernel(make_node("mul", [a, x]), [a, x])
    (s,) = run_kernel(make_node("sub", [m, y]), [m, y])
    np.testing.assert_array_equal(got.astype(np.float32), s.astype(np.float32))
    np.testing.assert_array_equal(a, x + y)


def test_equal_subexpressions_are_computed_once():
    x = rand(10)
    node = fused(lambda g, i: [apply(g, "add", apply(g, "exp", i[0]), apply(g, "exp", i[0]))], x)
    assert select(node).text.count("exp(") == 1
    assert_close(run_kernel(node, [x])[0], 2 * np.exp(x))


def test_what_no_loop_computes_is_refused():
    x = rand(3, 4)
    assert isinstance(select(fused(lambda g, i: [apply(g, "softmax", i[0])], x)), Refusal)
    assert isinstance(select(make_node("where", [x > 0, x.astype(np.complex64), x.astype(np.complex64)])), Refusal)
    differ = fused(lambda g, i: [apply(g, "relu", i[0]), apply(g, "add", i[0], i[1])], x[:1], x)
    assert "differ in shape" in str(select(differ))


# ---- vectorisation ----------------------------------------------------------------------------------------------

_VECTOR = re.compile(
    {"x86_64": r"\t(v?\w+p[sd]|v?p(?!xor)\w+)\t.*%[xyz]mm", "aarch64": r"\t\w+\t.*\bv\d+\.(2d|4s|8h|16b)"}[architecture()]
)
_LIBM_CALL = {"x86_64": r"call\w*\t\w+f@?", "aarch64": r"\tbl\t\w+f\b|:abs_g0\w*:\w+f\b"}[architecture()]


def vector_instructions(source: KernelSource) -> int:
    """Packed instructions in a kernel's machine code."""
    return len(_VECTOR.findall(kernel_assembly(source.text)))


@pytest.mark.parametrize("name", ["add", "relu", "exp", "log", "tanh", "erf", "sin", "sigmoid", "gelu", "clip", "sqrt", "round"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_loops_are_vectorised(name, dtype):
    x = rand(64, 64).astype(dtype)
    operands = [x, x] if name == "add" else [x, x[0, 0], x[0, 1]] if name == "clip" else [x]
    text = kernel_assembly(select(make_node(name, operands)).text)
    assert vector_instructions(select(make_node(name, operands))) >= 2
    assert not re.search(_LIBM_CALL, text), "a call of the C library"


@pytest.mark.parametrize("shape", [(64,), (64, 1), (1, 64)])
def test_broadcast_loops_are_vectorised(shape):
    assert vector_instructions(select(make_node("add", [rand(64, 64), rand(*shape)]))) >= 2


def test_integer_loops_are_vectorised():
    for dtype, name in itertools.product((np.int8, np.int32), ("add", "mul", "max")):
        x = np.ones((64, 64), dtype)
        assert vector_instructions(select(make_node(name, [x, x]))) >= 2, (dtype, name)
    node = make_node("cast", [rand(64, 64)], {"to": I32})
    assert vector_instructions(select(node)) >= 2


def test_the_reference_is_what_the_harness_compares_with():
    """A wrong result is found: the harness can fail."""
    x = rand(3)
    with pytest.raises(AssertionError):
        assert_close(run_kernel(make_node("exp", [x]), [x])[0], reference(OPS["log"], [x], {})[0])
