"""Scalar kernels of the CPU as CUDA kernels: every example of the operators that have them, against the reference."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import graphmill.ir.ops  # noqa: F401  # registers the operators
import numpy as np
import pytest
from graphmill.ir.errors import GraphmillError, RunError
from graphmill.ir.op import OPS
from graphmill.kernels.cpu import target as cpu
from graphmill.kernels.cuda import shim
from graphmill.kernels.cuda.portable import MOST_SLICES, portable
from graphmill.kernels.cuda.source import shape_of
from graphmill.kernels.spec import Call, KernelSource, Launch, Refusal

from ..cpu.harness import aligned, make_node, reference
from .harness import ARCHITECTURES, Case, check, check_compiles, launch, needs_nvrtc, needs_shim, run_kernel

# Operators whose texts are scalar in every case.
SERVED = """array_feature_extractor batch_norm cast_like compress cum_prod cum_sum dequantize_linear gather gather_elements gather_nd
grid_sample hardmax non_max_suppression non_zero one_hot quantize_linear range resize reverse_sequence rotary_embedding scatter_elements
scatter_nd tensor_scatter topk tree_ensemble tree_ensemble_classifier tree_ensemble_regressor trilu
erf mod where""".split()  # noqa: SIM905


def case(name: str, operands: Sequence[Any], attrs: dict[str, Any], results: int, constants: Sequence[int]) -> Case | Refusal:
    """A node by the CPU's kernel, translated."""
    node = make_node(name, operands, attrs, results, constants=constants)
    kernel = cpu.select(node)
    if isinstance(kernel, Refusal):
        return kernel
    translated = portable(kernel, node)
    assert isinstance(translated, KernelSource), f"{name}: {translated}"
    want = reference(OPS[name], operands, attrs, results)
    return Case(name, node, translated, operands, want, *(OPS[name].tolerance or (None, None)))


def cases_of(name: str) -> list[Case]:
    out = []
    for e in OPS[name].examples():
        for constants in ((), tuple(range(1, len(e.operands)))):
            if not any(isinstance(x, (list, dict)) for x in e.operands):
                try:
                    found = case(name, e.operands, dict(e.attrs), e.results, constants)
                except GraphmillError:  # an operand must be known
                    continue
                if isinstance(found, Case):
                    out.append(found)
                    break
    return out


@functools.cache
def cases() -> dict[str, list[Case]]:
    """All cases, their texts compiled in one program."""
    out = {name: cases_of(name) for name in SERVED}
    shim.load(c.source.text for each in out.values() for c in each)
    return out


@needs_shim
@pytest.mark.parametrize("name", SERVED)
def test_examples(name: str) -> None:
    assert cases()[name]
    check(cases()[name])


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiled_for_gpus_nothing_is_spilled(arch: str) -> None:
    texts = list(dict.fromkeys(c.source.text for each in cases().values() for c in each))
    check_compiles(texts, arch)


# ---- more tiles than one block has threads ------------------------------------------------------------------------

RNG = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def boxes(batch: int, n: int) -> np.ndarray:
    corner = RNG.random((batch, n, 2)) * 10
    return np.concatenate([corner, corner + RNG.random((batch, n, 2)) * 3 + 0.1], -1).astype(np.float32)


def large() -> list[Case]:
    i64 = np.int64
    given: list[tuple[str, list[Any], dict[str, Any], int, tuple[int, ...]]] = [
        ("gather", [f32(40, 3), RNG.integers(-40, 40, (30, 11))], {"axis": 0}, 1, ()),
        ("gather_elements", [f32(30, 20), RNG.integers(-30, 30, (300, 20))], {"axis": 0}, 1, ()),
        ("gather_nd", [f32(7, 5, 9), RNG.integers(-5, 5, (400, 2))], {}, 1, ()),
        ("scatter_elements", [f32(40, 50), RNG.integers(0, 40, (300, 50)), f32(300, 50)], {"axis": 0, "reduction": "add"}, 1, ()),
        ("scatter_elements", [f32(40, 50), RNG.integers(0, 40, (300, 50)), f32(300, 50)], {"axis": 0, "reduction": "none"}, 1, ()),
        ("scatter_nd", [f32(40, 5), RNG.integers(0, 40, (300, 1)), f32(300, 5)], {"reduction": "none"}, 1, ()),
        ("one_hot", [RNG.integers(-9, 9, (300, 4)), np.array(9, i64), f32(2)], {}, 1, (1,)),
        ("topk", [f32(3, 30, 70), np.array([11], i64)], {"axis": 1}, 2, (1,)),
        ("hardmax", [RNG.integers(0, 9, (200, 30)).astype(np.float32)], {"axis": 1}, 1, ()),
        ("cum_sum", [f32(3, 40, 90), np.array(1, i64)], {"reverse": 1}, 1, (1,)),
        ("trilu", [f32(2, 170, 9)], {}, 1, ()),
        ("range", [np.float32(1), np.float32(200), np.float32(0.5)], {}, 1, (0, 1, 2)),
        ("reverse_sequence", [f32(20, 30, 2), RNG.integers(0, 20, 30)], {}, 1, ()),
        ("resize", [f32(2, 3, 40, 30), None, None, np.array([2, 3, 70, 45])], {"mode": "linear"}, 1, (3,)),
        ("resize", [f32(2, 3, 40, 30), None, None, np.array([2, 3, 70, 45])], {"mode": "cubic", "antialias": 1}, 1, (3,)),
        ("resize", [f32(2, 3, 40, 30), None, np.float32([1, 1, 3, 2.5])], {"mode": "nearest"}, 1, (2,)),
        ("grid_sample", [f32(2, 3, 19, 17), (f32(2, 120, 140, 2) * 0.6)], {"mode": "linear"}, 1, ()),
        ("non_zero", [RNG.integers(0, 2, (30, 20)).astype(np.float32)], {}, 1, ()),
        ("compress", [f32(50, 4), RNG.integers(0, 2, 50).astype(bool)], {"axis": 0}, 1, ()),
        ("non_max_suppression", [boxes(2, 600), RNG.random((2, 3, 600)).astype(np.float32), np.array([400], i64), np.float32([0.5])],
         {}, 1, (2,)),
        ("dequantize_linear", [RNG.integers(0, 255, (150, 70), np.uint8), np.float32(0.1), np.uint8(3)], {}, 1, ()),
        ("quantize_linear", [f32(150, 70) * 50, f32(70) ** 2 + 0.1, RNG.integers(0, 255, 70, np.uint8)], {"axis": 1}, 1, (1, 2)),
        ("batch_norm", [f32(20, 30, 7), *(f32(30) ** 2 + 0.5 for _ in range(4))], {}, 1, (1, 2, 3, 4)),
    ]  # fmt: skip
    for name in ("tree_ensemble_regressor", "tree_ensemble_classifier", "rotary_embedding"):
        e = cases_of(name)[0]  # with many rows
        operands = [np.concatenate([np.asarray(x)] * 200) if i == 0 else x for i, x in enumerate(e.operands)]
        if name == "rotary_embedding":
            operands[3:] = [np.concatenate([np.asarray(x)] * 200) for x in operands[3:]]
        given.append((name, operands, dict(e.node.attrs), len(e.want), ()))
    found = []
    for name, operands, attrs, results, constants in given:
        c = case(name, [None if x is None else np.asarray(x) for x in operands], attrs, results, constants)
        assert isinstance(c, Case), f"{name}: {c}"
        found.append(c)
    return found


@needs_shim
def test_more_than_a_block() -> None:
    check(large())


# ---- launches -----------------------------------------------------------------------------------------------------


def kernel_of(
    name: str, operands: Sequence[Any], attrs: dict[str, Any], constants: Sequence[int] = ()
) -> tuple[KernelSource, Call]:
    c = case(name, operands, attrs, 1, constants)
    assert isinstance(c, Case)
    return c.source, Call([np.shape(x) for x in operands], [w.shape for w in c.want])


def test_a_thread_for_each_unit() -> None:
    kernel, call = kernel_of("gather", [f32(40, 3), np.zeros((30, 11), np.int64)], {"axis": 0})
    launch = kernel.bind(call)
    assert launch.tiles == 3 and launch.ints[-1] == 330
    assert len(launch.ints) == shape_of(kernel.text).words - 4


def test_scratch_memory_of_each_tile() -> None:
    kernel, call = kernel_of("grid_sample", [f32(2, 1, 9, 9), f32(2, 60, 60, 2)], {})
    launch = kernel.bind(call)
    assert launch.ints[-1] == 2 * 15
    assert launch.scratch == 2 * 15 * 4 * 256 * 16
    call = replace(call, operands=[(9000, 1, 9, 9), (9000, 60, 60, 2)], results=[(9000, 1, 60, 60)])
    launch = kernel.bind(call)
    assert launch.ints[-1] == MOST_SLICES // (4 * 256 * 16) and launch.scratch <= MOST_SLICES


def test_integers_of_any_number_lie_in_a_table() -> None:
    kernel, call = kernel_of("resize", [f32(1, 1, 9, 9), None, None, np.array([1, 1, 900, 700])], {"mode": "linear"}, (3,))
    launch = kernel.bind(call)
    (table,) = launch.tables
    assert len(launch.ints) == 1 and table.dtype == np.int64 and table.size > 900 + 700


@needs_shim
def test_an_index_that_lies_outside_is_reported() -> None:
    c = case("gather", [f32(40, 3), np.array([3, 40])[:1]], {"axis": 0}, 1, ())
    assert isinstance(c, Case)
    wrong = replace(c, operands=[c.operands[0], np.array([40])])
    with pytest.raises(RunError, match="lies outside of the axis 0"):
        run_kernel(wrong, shim.load([c.source.text]))


@needs_shim
def test_in_place() -> None:
    """The first result may take over the operand's memory: nothing is copied then."""
    data, indices, updates = f32(9, 4), np.array([[0, 8, 0, 3]]), f32(1, 4)
    c = case("scatter_elements", [data, indices, updates], {"axis": 0}, 1, ())
    assert isinstance(c, Case) and c.source.in_place == {0}
    memory = aligned(data)
    launch(c.source, Call([data.shape, indices.shape, updates.shape], [data.shape]), [memory, aligned(indices), aligned(updates)],
           [memory], shim.load([c.source.text])[c.source.text])  # fmt: skip
    np.testing.assert_array_equal(memory, c.want[0])


def test_what_works_on_vectors_is_refused() -> None:
    for name in ("arg_max", "concat", "conv", "gemm", "layer_norm", "lstm", "reduce_sum", "softmax", "transpose"):
        e = next(iter(OPS[name].examples()))
        node = make_node(name, e.operands, dict(e.attrs), e.results, constants=tuple(range(1, len(e.operands))))
        kernel = cpu.select(node)
        assert isinstance(kernel, KernelSource)
        refusal = portable(kernel, node)
        assert isinstance(refusal, Refusal) and "works on vectors" in str(refusal), f"{name}: {refusal}"


def test_what_cannot_be_bound() -> None:
    c = case("gather", [f32(4), np.array([1])], {"axis": 0}, 1, ())
    assert isinstance(c, Case)
    text = "def kernel(p, tile, ntiles):\n    st_i64(param(p, 2), 0, param(p, tile + 4))\n"
    for bound, message in ((Launch((0,) * 49), "49 integers"), (Launch((), 1, 0, (1, 2)), "2 passes")):
        kernel = portable(KernelSource(text, lambda call, bound=bound: bound), c.node)
        assert isinstance(kernel, KernelSource)
        with pytest.raises(ValueError, match=message):
            kernel.bind(Call([], []))
