"""The short way: taken for a signature seen before, and for nothing else; answers, ownership and errors stay the same."""

from __future__ import annotations

import pickle
from typing import Any

import graphmill as gm
import numpy as np
import onnx
import pytest
from graphmill.engine import replay
from graphmill.engine.executor import MOST_REPLAYS
from onnx import parser as onnx_parser


def compiled(text: str, **options: Any) -> gm.Executable:
    return gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}'), **options)


TWO = "m (float[N, 2] x, float[2] b) => (float[N, 2] s, float[N, 2] p) { p = Mul (x, b)  e = Softmax (p)  s = Sub (e, b) }"


def two(x: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = x * b
    e = np.exp(p - p.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True) - b, p


def test_the_second_run_is_replayed() -> None:
    exe = compiled(TWO)
    b = np.array([1, 2], np.float32)
    for n in (3, 1, 3, 1, 0, 3):
        x = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
        out = exe.run({"b": b, "x": x})
        assert list(out) == ["s", "p"]
        if n:
            np.testing.assert_allclose(out["s"], two(x, b)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(out["p"], x * b)
    assert len(exe._replays) == 3


def test_results_are_the_callers_own() -> None:
    exe = compiled(TWO)
    x, b = np.ones((2, 2), np.float32), np.ones(2, np.float32)
    first, second, third = (exe.run({"x": x, "b": b}) for _ in range(3))
    second["p"][:] = 9
    assert (first["p"] == 1).all() and (third["p"] == 1).all() and (x == 1).all()


@pytest.mark.parametrize("strange", ["fortran", "strided", "unaligned", "list", "readonly"])
def test_arrays_that_lie_otherwise(strange: str) -> None:
    exe = compiled(TWO)
    b = np.array([1, 2], np.float32)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    want = exe.run({"x": x, "b": b})
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(3, 2)
    raw[:] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    given = {"fortran": np.asfortranarray(x), "strided": np.repeat(x, 2, 0)[::2], "unaligned": raw, "list": x.tolist(),
             "readonly": frozen}[strange]  # fmt: skip
    for _ in range(2):
        got = exe.run({"x": given, "b": b})
        assert all((got[k] == want[k]).all() for k in want)


def test_wrong_inputs_are_still_found() -> None:
    exe = compiled(TWO)
    x, b = np.ones((2, 2), np.float32), np.ones(2, np.float32)
    exe.run({"x": x, "b": b})
    for wrong in ({"x": x}, {"x": x, "c": b}, {"x": x, "b": b, "c": b}, {"x": x.astype(np.float64), "b": b}, {"x": x, "b": x},
                  {"x": np.ones((2, 3), np.float32), "b": b}):  # fmt: skip
        with pytest.raises(gm.errors.InputError):
            exe.run(wrong)


def test_few_signatures_are_kept() -> None:
    exe = compiled(TWO)
    b = np.ones(2, np.float32)
    for n in range(1, 2 * MOST_REPLAYS):
        exe.run({"x": np.ones((n, 2), np.float32), "b": b})
    assert len(exe._replays) == MOST_REPLAYS


@pytest.mark.parametrize("text", [
    "m (float[N] x) => (float[N] y, float[N] x2) { y = Exp (x)  x2 = Identity (x) }",  # returns an input
    "m (float[N] x) => (float[N] y, float[1, N] z) { s = Constant <value_ints = [1, -1]> ()  y = Exp (x)  z = Reshape (y, s) }",
    "m (float[N] x) => (float[N] y, int64[1] n) { y = Exp (x)  n = Shape (x) }",
    "m (float[N] x) => (float[N] y, float[2] c) { y = Exp (x)  c = Constant <value_floats = [1.0, 2.0]> () }",
    "m (float[N] x, string[1] s) => (float[N] y, string[1] t) { y = Exp (x)  t = Identity (s) }",
])  # fmt: skip
def test_other_results_are_looked_at_closely(text: str) -> None:
    exe = compiled(text)
    x = np.array([0.5, 1.5], np.float32)
    feeds: dict[str, Any] = {"x": x} | ({"s": np.array(["a"], object)} if "string" in text else {})
    for _ in range(3):
        out = exe.run(feeds)
        np.testing.assert_allclose(out["y"], np.exp(x), rtol=1e-6)
        out["y"][:] = 0
        last = list(out.values())[-1]
        assert last.flags.writeable and not np.shares_memory(last, x)
        last[...] = "b" if last.dtype == object else 7
    assert not any(isinstance(r, replay.Replay) for r in exe._replays)


def test_a_kernels_complaint() -> None:
    exe = compiled("m (float[4] x, int64[2] i) => (float[2] y) { y = Gather (x, i) }")
    x = np.arange(4, dtype=np.float32)
    assert exe(x, np.array([0, 3])).tolist() == [0, 3]
    assert exe._replays
    with pytest.raises(gm.errors.RunError, match="gather"):
        exe(x, np.array([0, 4]))
    assert exe(x, np.array([-1, 1])).tolist() == [3, 1]


def test_without_a_look_into_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numpy's arrays do not lie as expected there is no short way, and the answers are the same."""
    monkeypatch.setattr(replay, "ARRAYS_AS_EXPECTED", False)
    exe = compiled(TWO)
    x, b = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([1, 2], np.float32)
    for _ in range(2):
        assert (exe.run({"x": x, "b": b})["p"] == x * b).all()
    assert not exe._replays


def test_names_are_never_code() -> None:
    name = "x'); raise SystemExit #\\\n\""
    node = onnx.helper.make_node("Neg", [name], [name[::-1]])
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in (name, name[::-1])]
    exe = gm.compile(onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:]), ir_version=10))
    for _ in range(3):
        assert exe.run({name: np.float32([1, 2])})[name[::-1]].tolist() == [-1, -2]
    assert len(exe._replays) == 1


def test_one_way_for_a_signature() -> None:
    exe = compiled(TWO)
    x, b = np.ones((2, 2), np.float32), np.ones(2, np.float32)
    exe.run({"x": x, "b": b})
    for _ in range(3):
        with pytest.raises(gm.errors.InputError):
            exe.run({"x": x, "b": b}, out={"p": np.empty((3, 2), np.float32)})
    assert len(exe._replays) == 1


def test_arrays_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was pickled has a dtype that is equal and another object."""
    exe = compiled(TWO)
    x, b = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([1, 2], np.float32)
    exe.run({"x": x, "b": b})
    monkeypatch.setattr(exe, "_run_closely", lambda *a: pytest.fail("not the short way"))
    sent, place = pickle.loads(pickle.dumps(x)), pickle.loads(pickle.dumps(x))
    assert sent.dtype is not x.dtype
    assert (exe.run({"x": sent, "b": b})["p"] == x * b).all()
    assert exe.run({"x": sent, "b": b}, out={"p": place})["p"] is place and (place == x * b).all()
