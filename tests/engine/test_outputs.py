"""run(..., out=): the caller's arrays are what is returned, whichever way the model takes; what cannot hold an output is refused."""

from __future__ import annotations

import threading
from typing import Any

import graphmill as gm
import ml_dtypes
import numpy as np
import pytest
from onnx import parser as onnx_parser

TWO = "m (float[N, 2] x, float[2] b) => (float[N, 2] s, float[N, 2] p) { p = Mul (x, b)  e = Softmax (p)  s = Sub (e, b) }"
# Two segments with a kernel between them that finds its result's size by running.
PARTS = """m (float[N] x) => (float[N] y, float[M] z, float[M] w)
    { y = Exp (x)  i = NonZero (x)  ax = Constant <value_ints = [0]> ()  j = Squeeze (i, ax)  z = Gather (y, j)  w = Neg (z) }"""


def compiled(text: str, **options: Any) -> gm.Executable:
    return gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}'), **options)


@pytest.fixture(scope="module")
def two() -> gm.Executable:
    return compiled(TWO, threads=1)


@pytest.fixture(scope="module")
def feeds() -> dict[str, np.ndarray]:
    return {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "b": np.array([1, 2], np.float32)}


def hole(shape: tuple[int, ...] = (3, 2), dtype: Any = np.float32) -> np.ndarray:
    return np.full(shape, -77, dtype)


def test_results_are_the_callers_arrays(feeds: dict[str, np.ndarray]) -> None:
    exe = compiled(TWO)
    want = compiled(TWO).run(feeds)
    for _ in range(3):  # the first run, and the short way
        s, p = hole(), hole()
        out = exe.run(feeds, out={"p": p, "s": s})
        assert list(out) == ["s", "p"] and out["s"] is s and out["p"] is p
        assert all((out[k] == want[k]).all() for k in want)
    only = hole()
    out = exe.run(feeds, out={"p": only})
    assert out["p"] is only and out["s"] is not s and (out["s"] == want["s"]).all() and (only == want["p"]).all()
    assert exe.run(feeds, out={})["p"].base is None


def test_kernels_write_into_them(two: gm.Executable, feeds: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied: where copying is not to be had, the answer is there all the same."""
    want = two.run(feeds)
    other = compiled(TWO)
    monkeypatch.setattr(np, "copyto", lambda *a: pytest.fail("copied"))
    for exe in (two, other, other):
        s, p = hole(), hole()
        exe.run(feeds, out={"s": s, "p": p})
        assert (s == want["s"]).all() and (p == want["p"]).all()


@pytest.mark.parametrize("form", ["fortran", "strided", "reversed", "unaligned", "column", "memmap", "subclass"])
def test_arrays_that_lie_otherwise(two: gm.Executable, feeds: dict[str, np.ndarray], form: str, tmp_path: Any) -> None:
    whole = np.full((6, 8), -77, np.float32)
    raw = np.zeros(25, np.uint8)[1:].view(np.float32).reshape(3, 2)
    given = {"fortran": np.asfortranarray(hole()), "strided": whole[::2, 1:6:4], "reversed": hole()[::-1, ::-1], "unaligned": raw,
             "column": whole[:3, 2:4], "subclass": hole().view(np.matrix),
             "memmap": np.memmap(tmp_path / "m", np.float32, "w+", shape=(3, 2))}[form]  # fmt: skip
    want = two.run(feeds)
    out = two.run(feeds, out={"p": given})
    assert out["p"] is given and (np.asarray(given) == want["p"]).all() and (out["s"] == want["s"]).all()
    untouched = whole.copy()
    untouched[::2, 1:6:4] = untouched[:3, 2:4] = -77
    assert (untouched == -77).all()


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ({"q": hole()}, r"no output is named \['q'\]; the model has s, p"),
        ({"p": hole((2, 2))}, r"out: the array of p has shape \[2, 2\], expected \[3, 2\] \(f32"),
        ({"p": hole((3, 2, 1))}, r"out: the array of p has shape \[3, 2, 1\], expected f32"),
        ({"p": hole((3, 5))}, r"out: the array of p has shape \[3, 5\], expected f32"),
        ({"p": hole(dtype=np.float64)}, "out: the array of p has element type float64, expected float32"),
        ({"p": hole(dtype=">f4")}, "out: the array of p has element type >f4, expected float32"),
        ({"p": np.broadcast_to(hole(), (3, 2))}, "the array of p is read-only"),
        ({"p": np.lib.stride_tricks.as_strided(hole(), (3, 2), (4, 4))}, "may lie in the same place"),
        ({"p": [[0.0, 0.0]] * 3}, "what is given for p is a list, expected an array"),
        ({"p": bytes(24)}, "read-only|element type"),
        ([hole()], "out is a list, expected a mapping"),
    ],
)
def test_what_cannot_hold_an_output(two: gm.Executable, feeds: dict[str, np.ndarray], out: Any, says: str) -> None:
    for exe in (two, compiled(TWO)):  # the short way and the first run
        with pytest.raises(gm.errors.InputError, match=says):
            exe.run(feeds, out=out)
    for a in out.values() if isinstance(out, dict) else out:
        if isinstance(a, np.ndarray):
            assert (a == -77).all()
    assert (two.run(feeds)["p"] == feeds["x"] * feeds["b"]).all()


def test_outputs_must_not_share_memory(two: gm.Executable, feeds: dict[str, np.ndarray]) -> None:
    whole = hole((7, 2))
    with pytest.raises(gm.errors.InputError, match=r"the arrays of (s and p|p and s) share memory"):
        two.run(feeds, out={"s": whole[:3], "p": whole[2:5]})
    both = hole((3, 4))
    out = two.run(feeds, out={"s": both[:, ::2], "p": both[:, 1::2]})  # side by side: no element is shared
    assert (out["p"] == feeds["x"] * feeds["b"]).all() and (out["s"] == two.run(feeds)["s"]).all()


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_an_array_that_overlaps_an_input(two: gm.Executable, shift: int) -> None:
    """The model reads its input to the end before any of it is written over."""
    whole = np.arange(20, dtype=np.float32)
    x, place, b = whole[4:16].reshape(6, 2), whole[4 + shift : 16 + shift].reshape(6, 2), np.array([1, 2], np.float32)
    want = two.run({"x": x.copy(), "b": b})
    out = two.run({"x": x, "b": b}, out={"s": place})
    assert (place == want["s"]).all() and (out["p"] == want["p"]).all()


def test_an_output_that_is_an_input() -> None:
    exe = compiled("m (float[4] x) => (float[4] same, float[4] y, float[2,2] v) "
                   "{ same = Identity (x)  s = Constant <value_ints = [2, 2]> ()  y = Neg (x)  v = Reshape (x, s) }")  # fmt: skip
    x = np.arange(4, dtype=np.float32)
    out = exe.run({"x": x}, out={"y": x})  # y takes the input's place; what were views of the input keep what it held
    assert out["y"] is x and x.tolist() == [0, -1, -2, -3] and out["same"].tolist() == [0, 1, 2, 3]
    assert out["v"].ravel().tolist() == [0, 1, 2, 3]
    x, place = np.arange(4, dtype=np.float32), hole((2, 2))
    out = exe.run({"x": x}, out={"y": x, "v": place, "same": hole((4,))})
    assert place.ravel().tolist() == out["same"].tolist() == [0, 1, 2, 3]


def test_models_of_several_parts() -> None:
    exe = compiled(PARTS)
    x = np.array([0, 1, 0, 2], np.float32)
    for _ in range(2):
        y, z, w = hole((4,)), hole((2,)), hole((2,))
        out = exe.run({"x": x}, out={"y": y, "z": z, "w": w})
        assert out["y"] is y and out["z"] is z and out["w"] is w
        np.testing.assert_allclose(y, np.exp(x), rtol=1e-6)
        np.testing.assert_allclose(w, -np.exp(x[[1, 3]]), rtol=1e-6)
        assert (z == -w).all()
    with pytest.raises(gm.errors.InputError, match=r"the array of z has shape \[3\], expected \[2\]"):
        exe.run({"x": x}, out={"z": hole((3,))})


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_other_kinds_of_output(target: str) -> None:
    exe = compiled("""m (string[N] t, float[M] a) => (string[N] u, seq(float[M]) q, float[] f, float[0] e, float[2] c)
        { u = Identity (t)  q = SequenceConstruct (a, a)  f = ReduceMax <keepdims = 0> (a)  k = Constant <value_floats = [1.0, 2.0]> ()
          c = Identity (k)  z = Constant <value_ints = [0]> ()  e = ConstantOfShape (z) }""", target=target)  # fmt: skip
    given = {"t": np.array(["a", "b"], object), "a": np.float32([1, 5])}
    u, f, e, c = np.empty(2, object), hole(()), hole((0,)), hole((2,))
    out = exe.run(given, out={"u": u, "f": f, "e": e, "c": c})
    assert u.tolist() == ["a", "b"] and f == 5 and out["e"] is e and c.tolist() == [1, 2]
    c[:] = 0
    assert exe.run(given)["c"].tolist() == [1, 2]
    with pytest.raises(gm.errors.InputError, match=r"the output q is seq<.*only tensors"):
        exe.run(given, out={"q": hole()})


def test_bfloat16_and_buffers() -> None:
    exe = compiled("m (bfloat16[N] x) => (bfloat16[N] y) { y = Neg (x) }")
    x, y = np.array([1, 2], ml_dtypes.bfloat16), np.zeros(2, ml_dtypes.bfloat16)
    assert exe.run({"x": x}, out={"y": y})["y"] is y and y.tolist() == [-1, -2]
    exe = compiled("m (uint8[N] x) => (uint8[N] y) { o = Constant <value = uint8[1] {1}> ()  y = Add (x, o) }")
    place = bytearray(3)
    assert exe.run({"x": b"abc"}, out={"y": place})["y"] is place and place == b"bcd"


def test_an_error_leaves_the_executable_usable() -> None:
    exe = compiled("m (float[4] x, int64[2] i) => (float[2] y) { y = Gather (x, i) }")
    x, y = np.arange(4, dtype=np.float32), hole((2,))
    for _ in range(2):
        with pytest.raises(gm.errors.RunError, match="gather"):
            exe.run({"x": x, "i": np.array([0, 9])}, out={"y": y})
        assert exe.run({"x": x, "i": np.array([0, 3])}, out={"y": y})["y"].tolist() == [0, 3]


def test_many_threads_write_into_arrays_of_their_own(two: gm.Executable) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng, b = np.random.default_rng(seed), np.array([1, 2], np.float32)
        for n in range(1, 60):
            x, p = rng.normal(size=(1 + n % 7, 2)).astype(np.float32), hole((1 + n % 7, 2))
            if two.run({"x": x, "b": b}, out={"p": p})["p"] is not p or (p != x * b).any():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong and not any(t.is_alive() for t in threads)


@pytest.mark.parametrize("named", ["y", "z", "w"])
def test_what_is_not_given_shares_nothing_with_what_is(named: str) -> None:
    """Views of one value, and a value returned under two names, in any order."""
    exe = compiled("m (float[4] x) => (float[2,2] z, float[4] y, float[4] w) "
                   "{ y = Neg (x)  s = Constant <value_ints = [2, 2]> ()  z = Reshape (y, s)  w = Identity (y) }")  # fmt: skip
    x = np.arange(4, dtype=np.float32)
    place = hole((2, 2) if named == "z" else (4,))
    for _ in range(2):
        out = exe.run({"x": x}, out={named: place})
        assert out[named] is place and list(out) == ["z", "y", "w"]
        assert all(a.ravel().tolist() == [0, -1, -2, -3] for a in out.values())
        assert not any(np.shares_memory(out[a], out[b]) for a in out for b in out if a != b)


def test_an_array_that_overlaps_an_element_of_a_list() -> None:
    exe = compiled(
        "m (seq(float[N]) q) => (float[M] y, float[M] z) { c = ConcatFromSequence <axis = 0> (q)  y = Neg (c)  z = Exp (c) }"
    )
    for shift in (0, 1):
        whole = np.arange(6, dtype=np.float32)
        parts, place = [whole[:2], whole[2:4]], whole[shift : shift + 4]
        want = -whole[:4]
        out = exe.run({"q": parts}, out={"y": place})
        assert (place == want).all()
        np.testing.assert_allclose(out["z"], np.exp(-want), rtol=1e-6)


def test_a_dtype_that_is_another_object(two: gm.Executable, feeds: dict[str, np.ndarray]) -> None:
    kept = list(two._replays)
    place = hole().view(np.dtype("f4", metadata={"unit": "m"}))
    assert two.run(feeds, out={"p": place})["p"] is place and (place == feeds["x"] * feeds["b"]).all() and two._replays == kept
