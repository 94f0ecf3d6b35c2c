"""If, Loop, Scan and SequenceMap: types of results, iterations, limits."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import InferenceError, LimitError
from graphmill.ir.limits import Budget, Limits
from graphmill.ir.symbols import Dim
from graphmill.ir.types import SequenceType
from inferring import M, N, infer, run, t

ints = np.array
COND = t(dtype="bool")


def region(fn, *types):
    """A callable as the interpreter makes them."""

    def call(*args):
        out = fn(*args)
        return out if isinstance(out, tuple) else (out,)

    call.types = types
    return call


def budget(**limits) -> Budget:
    return Budget(Limits(**limits))


def test_if_types() -> None:
    then, other = [t(N, 3), t(2)], [t(N, 4), t(2, 2)]
    first, second = infer("if", COND, regions=[then, other])
    assert first.shape[0] == N and isinstance(first.shape[1], Dim) and second.shape is None
    assert infer("if", ints(True), regions=[then, other]) == then
    assert infer("if", COND, regions=[[SequenceType(t(2))], [SequenceType(t(3))]])[0].elem.rank == 1
    for bad in ([[t(2)], [t(2, dtype="i64")]], [[t(2)], []]):
        with pytest.raises(InferenceError):
            infer("if", COND, regions=bad)
    with pytest.raises(ValueError, match="one"):
        run("if", ints([True, False]), then_branch=region(lambda: 1), else_branch=region(lambda: 2), budget=budget())


def test_loop_types() -> None:
    outs = [COND, t(N), t(M, 2), t(N, 5)]
    state, grown, scanned = infer("loop", t(dtype="i64"), None, t(N), t(1, 2), regions=[outs], results=3)
    assert state == t(N) and isinstance(grown.shape[0], Dim) and grown.shape[1] == 2
    assert len(scanned.shape) == 3 and scanned.shape[1:] == (N, 5)
    never = infer("loop", ints(0), None, t(N), t(1, 2), regions=[outs], results=3)
    assert never[1] == t(1, 2) and never[2].shape[0] == 0
    with pytest.raises(InferenceError, match="carried"):
        infer("loop", None, COND, t(2), regions=[[COND]], results=1)


def test_loop_runs() -> None:
    body = region(lambda i, c, x: (ints(x < 20), x * 2, x), COND, t(dtype="i64"), t(dtype="i64"))
    last, seen = run("loop", None, ints(True), ints(3), body=body, budget=budget())
    assert last == 48 and seen.tolist() == [3, 6, 12, 24]
    assert run("loop", ints(2), None, ints(3), body=body, budget=budget())[1].tolist() == [3, 6]
    last, seen = run("loop", ints(0), ints(True), ints(3), body=body, budget=budget())
    assert last == 3 and seen.shape == (0,) and seen.dtype == np.int64
    unknown = region(body, COND, t(dtype="i64"), t(None))
    with pytest.raises(ValueError, match="rank"):
        run("loop", ints(0), None, ints(3), body=unknown, budget=budget())


def test_endless_loops_end() -> None:
    body = region(lambda i, c: (ints(True),), COND)
    with pytest.raises(LimitError, match="iterations"):
        run("loop", None, None, body=body, budget=budget(loop_iterations=50))
    with pytest.raises(LimitError, match="have passed"):
        run("loop", None, None, body=body, budget=budget(seconds=0.02))
    grow = region(lambda i, c: (ints(True), np.zeros(1000)), COND, t(1000, dtype="f64"))
    with pytest.raises(LimitError, match="bytes"):
        run("loop", None, None, body=grow, budget=budget(tensor_bytes=100_000))


SUM = region(lambda s, x: (s + x, s + x), t(2), t(2))


def test_scan() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    zero = np.zeros(2, np.float32)
    _, sums = run("scan", zero, x, body=SUM, budget=budget(), num_scan_inputs=1)
    np.testing.assert_array_equal(sums, np.cumsum(x, 0))
    kw = {"scan_input_axes": (-1,), "scan_input_directions": (1,), "scan_output_axes": (1,), "scan_output_directions": (1,)}
    back = run("scan", zero, x.T, body=SUM, budget=budget(), num_scan_inputs=1, **kw)[1]
    np.testing.assert_array_equal(back, np.cumsum(x[::-1], 0)[::-1].T)
    assert run("scan", zero, x[:0], body=SUM, budget=budget(), num_scan_inputs=1)[1].shape == (0, 2)
    state, out = infer("scan", t(2), t(N, 2), regions=[[t(2), t(2)]], num_scan_inputs=1, results=2)
    assert state == t(2) and out.shape == (N, 2)
    with pytest.raises(ValueError, match="equal"):
        pair = region(lambda a, b: a, t(2))
        run("scan", x, x[:2], body=pair, budget=budget(), num_scan_inputs=2)


def test_scan_of_opset_8() -> None:
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    zero = np.zeros((2, 2), np.float32)
    last, sums = run("scan", ints([2, 3]), zero, x, body=SUM, budget=budget(), num_scan_inputs=1, batched=1)
    np.testing.assert_array_equal(last, [x[0, :2].sum(0), x[1].sum(0)])
    np.testing.assert_array_equal(sums[0], [x[0, 0], x[0, 0] + x[0, 1], [0, 0]])
    state, out = infer("scan", None, t(N, 2), t(N, M, 2), regions=[[t(2), t(2)]], num_scan_inputs=1, batched=1, results=2)
    assert state.shape == (N, 2) and out.shape == (N, M, 2)


def test_sequence_map() -> None:
    body = region(lambda x, y: (x + y, x), t(None), t(None))
    a, b = run("sequence_map", [ints([1]), ints([2, 3])], ints(10), body=body, budget=budget())
    assert [v.tolist() for v in a] == [[11], [12, 13]] and len(b) == 2
    assert run("sequence_map", [], ints(10), body=body, budget=budget()) == ([], [])
