"""Softmax, its relatives and the normalizations on CUDA: all examples, held lines and long ones, along and across, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.recording import Tape
from graphmill.ir.symbols import symbol
from graphmill.ir.types import BF16, F32, TensorType, dtype_of
from graphmill.kernels.cuda import shim
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import Call, Refusal

from ..cpu.harness import aligned, assert_close, make_node, reference
from ..cpu.regions import apply, by_references, fused
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, launch, needs_nvrtc, needs_shim

ALONG = ["softmax", "log_softmax", "lp_norm"]
NORMS = ["layer_norm", "rms_norm", "instance_norm", "group_norm", "batch_norm"]


def rand(*shape: int, seed: int = 0, scale: float = 3) -> np.ndarray:
    return (np.random.default_rng((seed, *shape)).standard_normal(shape) * scale).astype(np.float32)


def case(name: str, operands: Sequence[np.ndarray], attrs: dict[str, Any] | None = None, rtol: float = 1e-5, atol: float = 1e-6,
         symbolic: bool = False, results: int = 1) -> Case:  # fmt: skip
    x, attrs = operands[0], attrs or {}
    shape = tuple(symbol(f"d{i}", 0) for i in range(x.ndim)) if symbolic else x.shape
    rows = shape[-1:] if name.endswith(("layer_norm", "rms_norm")) else None
    types = [TensorType(dtype_of(x), shape), *(TensorType(dtype_of(v), rows or v.shape) for v in operands[1:])]
    node = make_node(name, operands, attrs, results, types=types)
    source = select(node)
    assert not isinstance(source, Refusal), source
    what = f"{name} {x.dtype}{list(x.shape)} {attrs}"
    return Case(what, node, source, operands, reference(OPS[name], operands, attrs, results), rtol, atol)


def passes(c: Case) -> int:
    return len(c.source.bind(Call([x.shape for x in c.operands], [w.shape for w in c.want])).passes)


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(ALONG + NORMS)
    assert len(cases) > 50
    assert len([r for r in refused if "broadcast within the row" in r]) == 2
    assert len([r for r in refused if "training" in r]) == 1
    assert len(refused) == 3, refused
    check(cases)


@needs_shim
def test_softmax_along_any_axis() -> None:
    shapes = ((3, 5, 7), (2, 40, 33), (1, 1000, 3), (9, 1, 1), (2, 300, 40), (1, 1100, 65), (0, 3, 2), (2, 0, 3), (1, 20, 9000))
    cases = [
        case(n, [rand(*s)], {"axis": a}, 6e-6, 4e-6, v) for n in ALONG for s in shapes for a in (0, 1, 2) for v in (False, True)
    ]
    assert len({passes(c) for c in cases}) > 1
    check(cases)


@needs_shim
def test_long_lines() -> None:
    """Lines that one block reads again, and lines that several share."""
    shapes = ((2, 8192), (2, 8193), (600, 8200), (3, 30001), (1, 100000))
    cases = [case(n, [rand(*s)], {"axis": 1}, 1e-5, 1e-7) for n in ALONG for s in shapes]
    assert {passes(c) for c in cases} == {1, 2, 3}
    check(cases)


@needs_shim
def test_softmax_of_what_is_not_finite() -> None:
    inf, nan = np.inf, np.nan
    x = np.float32([[1, inf, 2, 0], [-inf, 0, 1, -inf], [nan, 0, 0, -inf], [-inf] * 4, [1e30, 1e30, -1e30, -inf]])
    check([case(n, [x], {"axis": axis}) for n in ("softmax", "log_softmax") for axis in (0, 1)])


@needs_shim
def test_types() -> None:
    x = rand(50, 3000)
    halves = [x.astype(np.float16), x.astype(BF16.np)]
    cases = [case("softmax", [h], {"axis": axis}, 8e-3, 1e-5) for h in halves for axis in (0, 1)]
    cases += [case("log_softmax", [x.astype(np.float64)], {"axis": axis}, 1e-12, 1e-12) for axis in (0, 1)]
    for d in (np.float16, np.float64):
        x, s, b = (v.astype(d) for v in (rand(5, 777), rand(777, seed=1), rand(777, seed=2)))
        cases.append(case("layer_norm", [x, s, b], {}, 1e-2 if d is np.float16 else 1e-11, 1e-2 if d is np.float16 else 1e-11))
    check(cases)


@needs_shim
def test_norms_of_any_length() -> None:
    cases = []
    for n in (1, 7, 8, 31, 32, 33, 768, 5000, 9001):
        x, s, b = rand(5, n) + 100, rand(n, seed=1), rand(n, seed=2)
        cases += [case("layer_norm", [x, s, b], {}, 1e-4, 1e-3, v, 3) for v in (False, True)]
        cases += [case("layer_norm", [x, s], {}, 1e-4, 1e-3), case("rms_norm", [x, s], {}, 1e-4, 1e-3)]
    check(cases)


@needs_shim
def test_variance_is_taken_about_the_mean() -> None:
    c = case("layer_norm", [np.float32([[4096, 4097, 4098, 4099]]), np.ones(4, np.float32)])
    c.want = [np.float32([[-1.34164, -0.44721, 0.44721, 1.34164]])]
    check([Case(c.what, c.node, c.source, c.operands, c.want, 1e-4)])


@needs_shim
def test_groups_of_channels() -> None:
    cases = []
    for shape in ((2, 4, 3, 5), (1, 4, 1), (3, 4, 100), (2, 4, 60, 90), (1, 4, 250, 250), (0, 4, 2)):
        x, s, b = rand(*shape), rand(4, seed=1), rand(4, seed=2)
        cases += [case("group_norm", [x, s, b], {"num_groups": g}, 2e-5, 2e-5) for g in (1, 2, 4)]
        cases.append(case("instance_norm", [x, s, b], {}, 2e-5, 2e-5))
    assert {passes(c) for c in cases} == {1, 3}
    check(cases)


@needs_shim
def test_groups_of_channels_that_lie_last() -> None:
    cases = []
    for shape in ((2, 8, 3, 5), (1, 12, 7), (2, 48, 20, 30), (1, 4, 130, 170)):
        for dtype in (np.float32, np.float16):
            x, s, b = (v.astype(dtype) for v in (rand(*shape), rand(shape[1], seed=1), rand(shape[1], seed=2)))
            layout, rtol = channels_last(x.ndim), 2e-5 if dtype is np.float32 else 1e-2
            for name, attrs in (("group_norm", {"num_groups": 2}), ("group_norm", {"num_groups": 4}), ("instance_norm", {})):
                types = [TensorType(dtype_of(x), x.shape, layout), *(TensorType(dtype_of(x), v.shape) for v in (s, b))]
                node = make_node(name, [x, s, b], attrs, types=types)
                node.results[0].type = node.results[0].tensor.with_(layout=layout)
                source = select(node)
                assert not isinstance(source, Refusal), source
                assert source.variant == "rows.last"
                cases.append(Case(f"{name} {shape}", node, source, [x, s, b], reference(OPS[name], [x, s, b], attrs), rtol, rtol))
    assert {passes(c) for c in cases} == {1, 3}
    check(cases)


@needs_shim
def test_batch_norm() -> None:
    x = rand(2, 3, 4, 5)
    params = [rand(3, seed=i) for i in (1, 2, 3)] + [np.abs(rand(3, seed=4)) + 0.5]
    t = TensorType(F32, x.shape, channels_last(4))
    node = make_node("batch_norm", [x, *params], types=[t, *(TensorType(F32, (3,)) for _ in params)])
    source = select(node)
    assert not isinstance(source, Refusal)
    want = reference(OPS["batch_norm"], [x, *params], {})
    check([Case("nhwc", node, source, [x, *params], want, 1e-5, 1e-6), case("batch_norm", [x, *params], symbolic=True)])


@needs_shim
def test_in_place() -> None:
    """The result may take the memory of operand 0: held lines, lines that are read again, and elements by themselves."""
    for n in (37, 9001, 60000):
        x, c, row = rand(2, 4, n), np.abs(rand(4, seed=1)) + 1, rand(n, seed=2)
        given = {"layer_norm": [row, row], "rms_norm": [row], "instance_norm": [c, c], "batch_norm": [c, c, c, c]}
        cases = [case(name, [x, *given.get(name, [])]) for name in [*ALONG, *given]]
        cases.append(case("softmax", [x], {"axis": 0}))
        kernels = shim.load([c.source.text for c in cases])
        for c in cases:
            assert c.source.in_place == {0}
            operands = [aligned(v) for v in c.operands]
            call = Call([v.shape for v in c.operands], [w.shape for w in c.want])
            launch(c.source, call, operands, [operands[0]], kernels[c.source.text])
            assert_close(operands[0], c.want[0], 1e-4, 1e-4, c.what)


def test_recorded_sizes() -> None:
    """What `bind` answers for another length follows from what it did for one."""
    cases = [case("softmax", [rand(3, 1000)], {"axis": axis}, symbolic=True) for axis in (0, 1)]
    for c in cases:
        tape = Tape()
        sizes = tuple(tape.size(f"sizes[{i}]", n) for i, n in enumerate((3, 1000)))
        found = c.source.bind(Call([sizes], [sizes]))
        again = tape.function("sizes", (*found.ints, *found.passes, found.scratch))
        plain = c.source.bind(Call([(3, 1001)], [(3, 1001)]))
        assert again((3, 1001)) == (*plain.ints, *plain.passes, plain.scratch)


def region(build: Any, *arrays: np.ndarray, rtol: float = 2e-5, atol: float = 2e-5) -> Case:
    node = fused(build, *arrays, kernel="rows")
    source = select(node)
    assert not isinstance(source, Refusal), source
    return Case(f"region of {list(arrays[0].shape)}", node, source, arrays, by_references(node, arrays), rtol, atol)


def masked(dtype: Any, name: str) -> Any:
    def build(g: Any, i: Any) -> list[Any]:
        scores = apply(g, "add", apply(g, "mul", i[0], i[2]), i[1])
        return [apply(g, name, apply(g, "where", i[3], scores, g.module.add_const("low", np.array(-100, dtype))), axis=-1)]

    return build


def residual(name: str) -> Any:
    def build(g: Any, i: Any) -> list[Any]:
        total = apply(g, "add", apply(g, "add", i[0], i[2]), i[1])
        norm = apply(g, name, *((total, i[3], i[4]) if name == "layer_norm" else (total, i[3])))
        return [total, apply(g, "add", apply(g, "mul", norm, i[5]), total)]

    return build


def region_cases() -> list[Case]:
    cases = []
    for n in (1, 3, 16, 70, 768, 9001):
        seen = rand(4, n, seed=3) > -1
        for d in (np.float32, np.float16, np.float64):
            x, mask, scale = (v.astype(d) for v in (rand(2, 3, 4, n), rand(2, 1, 1, n, seed=1), rand(3, 1, 1, seed=2)))
            tolerance = (6e-3, 1e-5) if d is np.float16 else (2e-5, 1e-6)
            cases += [region(masked(d, name), x, mask, scale, seen, rtol=tolerance[0], atol=tolerance[1]) for name in ("softmax",)]
        x, more, gate, (bias, scale, shift) = (
            rand(2, 5, n),
            rand(2, 5, n, seed=1),
            rand(2, 1, 1),
            (rand(n, seed=k) for k in (2, 3, 4)),
        )
        cases += [region(residual(name), x, more, bias, scale, shift, gate) for name in ("layer_norm", "rms_norm")]
    return cases


@needs_shim
def test_regions() -> None:
    """Masked scores; a residual sum beside its normalization, which is read again behind it."""

    def two_axes(g: Any, i: Any) -> list[Any]:
        return [apply(g, "tanh", apply(g, "layer_norm", apply(g, "neg", i[0]), i[1], axis=1))]

    check([*region_cases(), *(region(two_axes, rand(n, 4, 5), rand(4, 5)) for n in (3, 0))])


def test_refused() -> None:
    assert "broadcast within the row" in str(select(make_node("layer_norm", [rand(2, 3, 4), rand(1, 1)])))
    assert "training" in str(
        select(make_node("batch_norm", [rand(2, 3, 4), *[np.ones(3, np.float32)] * 4], {"training_mode": 1}, 3))
    )


@pytest.mark.parametrize("name", ALONG + NORMS)
def test_one_text_a_mode(name: str) -> None:
    """A known length is either held or not; where it is not known, one kernel does both."""
    if name in ALONG:
        texts = [case(name, [rand(2, n)], {"axis": 1}, symbolic=v).source.text for n, v in ((5, False), (9000, False), (5, True))]
        assert [("held)" in t, "c[" in t) for t in texts] == [(False, True), (False, False), (True, True)]


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    cases = cases_of(ALONG + NORMS)[0]
    cases += [
        case(n, [rand(2, 3, 4).astype(d)], {"axis": a}, symbolic=True)
        for n in ALONG
        for d in (np.float16, np.float64)
        for a in (1, 2)
    ]
    check_compiles([c.source.text for c in [*cases, *region_cases()]], arch)
