"""Softmax, its relatives and the normalizations against their references."""

from __future__ import annotations

import graphmill.ir.ops.norm
import graphmill.ir.ops.softmax  # noqa: F401
import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.symbols import symbol
from graphmill.ir.types import BF16, F32, TensorType
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Refusal

from .harness import assert_close, check_native, make_node, reference, run_kernel


def rand(*shape: int, seed: int = 0, scale: float = 3) -> np.ndarray:
    return (np.random.default_rng((seed, *shape)).standard_normal(shape) * scale).astype(np.float32)


# Operators and how many of their examples no kernel serves (broadcast parameters, training).
OPERATORS = {
    "softmax": 0,
    "log_softmax": 0,
    "lp_norm": 0,
    "layer_norm": 1,
    "rms_norm": 1,
    "instance_norm": 0,
    "group_norm": 0,
    "batch_norm": 1,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_examples(name):
    share = check_native(name)
    assert share.served and len(share.refused) == OPERATORS[name], share


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 40, 33), (1, 1000, 3), (9, 1, 1)])
def test_softmax_along_any_axis(name, axis, shape):
    x = rand(*shape)
    assert_close(run_kernel(make_node(name, [x], {"axis": axis}), [x])[0], reference(OPS[name], [x], {"axis": axis})[0], 4e-6, 1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_of_what_is_not_finite(axis):
    x = np.float32(
        [[1, np.inf, 2, 0], [-np.inf, 0, 1, -np.inf], [np.nan, 0, 0, -np.inf], [-np.inf] * 4, [1e30, 1e30, -1e30, -np.inf]]
    )
    for name in ("softmax", "log_softmax"):
        assert_close(run_kernel(make_node(name, [x], {"axis": axis}), [x])[0], reference(OPS[name], [x], {"axis": axis})[0])


@pytest.mark.parametrize("flatten", [0, 1])
def test_softmax_over_flattened_axes(flatten):
    x, attrs = rand(2, 3, 4, 5), {"axis": 1, "flatten": flatten}
    assert_close(run_kernel(make_node("softmax", [x], attrs), [x])[0], reference(OPS["softmax"], [x], attrs)[0], 4e-6, 1e-7)


@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_of_halves_keeps_its_sums_in_f32(axis):
    x = rand(50, 3000).astype(BF16.np)
    want = reference(OPS["softmax"], [x], {"axis": axis})[0]
    assert_close(run_kernel(make_node("softmax", [x], {"axis": axis}), [x])[0], want, 8e-3, 1e-6)


def test_one_kernel_serves_all_sizes():
    n, texts = symbol("n"), set()
    for size in (0, 1, 13, 2000):
        x = rand(3, size)
        node = make_node("softmax", [x], types=[TensorType(F32, (3, n))])
        texts.add(select(node).text)
        assert_close(run_kernel(node, [x], [x.shape])[0], reference(OPS["softmax"], [x], {})[0], 4e-6, 1e-7)
    assert len(texts) == 1


@pytest.mark.parametrize("n", [1, 7, 8, 31, 32, 33, 768])
def test_layer_norm_of_any_length(n):
    x, s, b = rand(5, n) + 100, rand(n, seed=1), rand(n, seed=2)
    want = reference(OPS["layer_norm"], [x.astype(np.float64), s.astype(np.float64), b.astype(np.float64)], {}, 1)[0]
    assert_close(run_kernel(make_node("layer_norm", [x, s, b]), [x, s, b])[0], want.astype(np.float32), 1e-4, 1e-3)


def test_variance_is_taken_about_the_mean():
    """A large mean would drown the variance in E[x²] - E[x]²."""
    x = np.float32([[4096, 4097, 4098, 4099]])
    s = np.ones(4, np.float32)
    assert_close(run_kernel(make_node("layer_norm", [x, s]), [x, s])[0], np.float32([[-1.34164, -0.44721, 0.44721, 1.34164]]), 1e-4)


def test_parameters_broadcast_within_a_row_are_refused():
    x, s = rand(2, 3, 4), rand(1, 1)
    assert isinstance(select(make_node("layer_norm", [x, s])), Refusal)


@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (1, 4, 1), (3, 4, 100)])
def test_group_norm(shape):
    x, s, b = rand(*shape), rand(4, seed=1), rand(4, seed=2)
    for groups in (1, 2, 4):
        want = reference(OPS["group_norm"], [x, s, b], {"num_groups": groups})[0]
        assert_close(run_kernel(make_node("group_norm", [x, s, b], {"num_groups": groups}), [x, s, b])[0], want, 2e-5, 1e-5)


def test_batch_norm_in_channels_last():
    x = rand(2, 3, 4, 5)
    params = [rand(3, seed=i) for i in (1, 2, 3)] + [np.abs(rand(3, seed=4)) + 0.5]
    t = TensorType(F32, x.shape, channels_last(4))
    node = make_node("batch_norm", [x, *params], types=[t, *(TensorType(F32, (3,)) for _ in params)])
    assert_close(run_kernel(node, [x, *params])[0], reference(OPS["batch_norm"], [x, *params], {})[0], 1e-5, 1e-6)


def test_training_is_refused():
    x, p = rand(2, 3, 4), [np.ones(3, np.float32)] * 4
    assert "training" in str(select(make_node("batch_norm", [x, *p], {"training_mode": 1}, 3)))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("axis", [1, 2])
def test_in_place(name, axis):
    """The result may take the memory of operand 0, unless a parameter is the same value."""
    x, c = rand(3, 4, 37), np.abs(rand(4, seed=1)) + 1
    row = np.ascontiguousarray(x[0, 0] if axis == 2 else x[0])
    parameters = {"layer_norm": [row, row + 1], "rms_norm": [row], "instance_norm": [c, c + 1], "group_norm": [c, c + 1],
                  "batch_norm": [c, c, c, c]}.get(name, [])  # fmt: skip
    attrs = ({"axis": axis} if "axis" in OPS[name].attrs else {}) | ({"num_groups": 2} if name == "group_norm" else {})
    node = make_node(name, [x, *parameters], attrs)
    assert select(node).in_place == {0}
    want = reference(OPS[name], [x, *parameters], attrs)[0]
    assert_close(run_kernel(node, [x, *parameters], in_place=0)[0], want, 1e-5, 1e-5)


def test_a_row_that_is_its_own_scale_stays():
    x = rand(8)
    node = make_node("rms_norm", [x, x])
    node.set_operand(1, node.operands[0])
    assert select(node).in_place == frozenset()
