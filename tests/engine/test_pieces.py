"""Data movement that copies nothing: slices that are pieces of their operands, concatenations whose operands are computed in place."""

from __future__ import annotations

import graphmill as gm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser as onnx_parser

from .test_segments import bound_of, compiled

X = np.arange(24, dtype=np.float32).reshape(6, 4) - 9


def rows(exe: gm.Executable) -> list[str]:
    """The operators of the kernels in the segment that was bound last."""
    return [k.node.op.name for k in bound_of(exe)[-1].kernels]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_a_slice_of_rows_is_a_piece() -> None:
    exe = compiled("""m (float[6, 4] x) => (float[2, 4] y) <int64[1] b = {3}, int64[1] e = {5}, int64[1] z = {0}> {
        a = Softmax (x)  p = Slice (a, b, e, z)  y = Softmax (p) }""")
    np.testing.assert_allclose(exe(X), softmax(softmax(X)[3:5]), rtol=1e-6)
    assert rows(exe) == ["softmax", "softmax"]


@pytest.mark.parametrize(("axis", "step", "copies"), [(0, 1, 0), (1, 1, 1), (0, 2, 1), (0, -1, 1)])
def test_what_is_no_piece_is_copied(axis: int, step: int, copies: int) -> None:
    begin, end = (1, 4) if step > 0 else (4, 1)
    exe = compiled(f"""m (float[6, 4] x) => (y) <int64[1] b = {{{begin}}}, int64[1] e = {{{end}}}, int64[1] z = {{{axis}}}, int64[1] s = {{{step}}}> {{
        a = Softmax (x)  p = Slice (a, b, e, z, s)  y = Softmax (p) }}""")  # fmt: skip
    at = (slice(None),) * axis + (slice(begin, end, step),)
    np.testing.assert_allclose(exe(X), softmax(softmax(X)[at]), rtol=1e-6)
    assert rows(exe).count("slice") == copies


def test_a_piece_of_an_input() -> None:
    exe = compiled("""m (float[6, 4] x) => (float[2, 4] y, float[4, 4] z) <int64[2] n = {2, 4}> {
        p, q = Split <axis = 0> (x, n)  y = Softmax (p)  z = Softmax (q) }""")
    for x in (X, X + 1):  # the second one is a replay
        y, z = exe(x)
        np.testing.assert_allclose(np.concatenate([y, z]), softmax(x), rtol=1e-6)
    assert rows(exe) == ["softmax", "softmax"]


def test_outputs_are_no_pieces() -> None:
    """They belong to the caller, and hold on to no larger memory."""
    exe = compiled("""m (float[6, 4] x) => (float[2, 4] p, float[4, 4] q, float[16] r) <int64[2] n = {2, 4}, int64[1] flat = {16}> {
        a = Softmax (x)  p, q = Split <axis = 0> (a, n)  s, t = Split <axis = 0> (x, n)  r = Reshape (t, flat) }""")
    p, q, r = exe(X)
    np.testing.assert_allclose(np.concatenate([p, q]), softmax(X), rtol=1e-6)
    np.testing.assert_array_equal(r, X[2:].ravel())
    assert not any(np.may_share_memory(a, b) for a, b in [(p, q), (r, X)])
    assert [b.nbytes for b in bound_of(exe)[-1].outputs] == [32, 64, 64]


def test_operands_are_computed_in_the_concatenation() -> None:
    exe = compiled("""m (float[6, 4] x, float[1, 4] w) => (float[13, 4] y) {
        a = Softmax (x)  b = Sqrt (a)  c = Concat <axis = 0> (b, w, a)  y = Softmax (c) }""")
    w = np.ones((1, 4), np.float32)
    for _ in range(2):
        np.testing.assert_allclose(exe(X, w), softmax(np.concatenate([np.sqrt(softmax(X)), w, softmax(X)])), rtol=1e-6)
    assert "concat" in rows(exe)  # copies w alone
    exe = compiled("m (float[6, 4] x) => (float[12, 4] y) { a = Softmax (x)  b = Sqrt (a)  y = Concat <axis = 0> (b, a) }")
    out = np.empty((12, 4), np.float32)
    assert exe.run({"x": X}, out={"y": out})["y"] is out
    np.testing.assert_allclose(out, np.concatenate([np.sqrt(softmax(X)), softmax(X)]), rtol=1e-6)
    assert "concat" not in rows(exe) and len(bound_of(exe)[-1].outputs) == 1


def test_what_lies_in_a_concatenation_is_not_overwritten() -> None:
    """`b` could take over the memory of `a`, which the concatenation reads too; `d` that of the concatenation."""
    exe = compiled("""m (float[6, 4] x) => (float[12, 4] y, float[6, 4] z) <int64[1] s = {6}, int64[1] o = {0}, int64[1] e = {99}> {
        a = Softmax (x)  c = Concat <axis = 0> (a, a)  b = Softmax (a)  d = Softmax (c)
        p = Slice (c, s, e, o)  z = Add (p, b)  y = Sqrt (d) }""")  # fmt: skip
    y, z = exe(X)
    a = softmax(X)
    np.testing.assert_allclose(y, np.sqrt(softmax(np.concatenate([a, a]))), rtol=1e-6)
    np.testing.assert_allclose(z, a + softmax(a), rtol=1e-6)


def test_what_a_later_segment_reads_is_no_piece() -> None:
    """How many elements NonZero finds is known only when it has run: what comes after it is another segment."""
    exe = compiled("""m (float[6, 4] x) => (float[3, 4] y, int64[2, k] i) <int64[2] n = {3, 3}> {
        a = Softmax (x)  p, q = Split <axis = 0> (a, n)  c = Concat <axis = 0> (p, q, a)
        i = NonZero (c)  r = Cast <to = 1> (i)  m = ReduceMax <keepdims = 0> (r)  s = Mul (q, m)  y = Add (s, p) }""")
    y, i = exe(X)
    a = softmax(X)
    np.testing.assert_allclose(y, a[3:] * i.max() + a[:3], rtol=1e-6)
    np.testing.assert_array_equal(i, np.nonzero(np.concatenate([a, a])))
    assert all(p.at == 0 and p.buffer.within is None for b in bound_of(exe) for _, p in b.results if p.buffer is not None)


def test_a_reshaped_output_is_not_computed_elsewhere() -> None:
    """`u` is returned, and concatenated under another shape."""
    exe = compiled("""m (float[6, 4] x) => (float[6, 4] u, float[8, 4] y) <int64[2] wide = {3, 8}, int64[2] flat = {8, 4}> {
        u = Softmax (x)  v = Reshape (u, wide)  w = Slice (v, o, e, o)  c = Concat <axis = 0> (v, w)  s = Sqrt (c)  y = Reshape (s, flat) }
        """.replace("{8, 4}>", "{8, 4}, int64[1] o = {0}, int64[1] e = {1}>"))  # fmt: skip
    u, y = exe(X)
    np.testing.assert_allclose(u, softmax(X), rtol=1e-6)
    np.testing.assert_allclose(y, np.sqrt(np.concatenate([u, u[:2]])), rtol=1e-6)
    assert sorted(b.nbytes for b in bound_of(exe)[-1].outputs) == [96, 128]


def test_pieces_are_bound_again_for_other_sizes() -> None:
    exe = compiled("""m (float[N, 4] x) => (float[M, 4] y) <int64[1] b = {-2}, int64[1] e = {99}, int64[1] z = {0}> {
        a = Softmax (x)  p = Slice (a, b, e, z)  q = Sqrt (p)  c = Concat <axis = 0> (a, q)  y = Softmax (c) }""")
    for n in (6, 5, 3, 1, 0, 2, 6, 4):
        a = softmax(X[:n]) if n else X[:0]
        np.testing.assert_allclose(exe(X[:n]), softmax(np.concatenate([a, np.sqrt(a[-2:])])) if n else a, rtol=1e-6)
    assert rows(exe).count("slice") == rows(exe).count("concat") == 0


# ---- random graphs ----------------------------------------------------------------------------------------------

UNARY = ("Softmax", "Sqrt", "Relu", "Exp", "Neg", "LogSoftmax")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[str, int]:
    """A model of one input [N, 4] that moves and computes, and how many rows the input has."""
    n = draw(st.integers(2, 6))
    values, lines, constants = [("x", n)], [], {}

    def constant(k: int) -> str:
        constants[f"c{k}".replace("-", "m")] = k
        return f"c{k}".replace("-", "m")

    def new(rows_: int) -> str:
        values.append((f"v{len(values)}", rows_))
        return values[-1][0]

    for _ in range(draw(st.integers(3, 12))):
        x, size = draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["unary", "slice", "split", "concat", "add", "twist"]))
        if kind == "unary":
            lines.append(f"{new(size)} = {draw(st.sampled_from(UNARY))} ({x})")
        elif kind == "slice" and size:
            a = draw(st.integers(0, size - 1))
            b = draw(st.integers(a, size))
            lines.append(f"{new(b - a)} = Slice ({x}, {constant(a)}, {constant(b)}, {constant(0)})")
        elif kind == "split" and size:
            a = draw(st.integers(0, size))
            constants[f"s{a}_{size - a}"] = [a, size - a]
            lines.append(f"{new(a)}, {new(size - a)} = Split <axis = 0> ({x}, s{a}_{size - a})")
        elif kind == "concat":
            others = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
            if sum(r for _, r in others) + size <= 64:
                lines.append(
                    f"{new(sum(r for _, r in others) + size)} = Concat <axis = 0> ({', '.join([x, *(o for o, _ in others)])})"
                )
        elif kind == "add":
            y = draw(st.sampled_from([v for v, r in values if r == size]))
            lines.append(f"{new(size)} = Add ({x}, {y})")
        elif kind == "twist":  # through another shape
            constants["flat"] = [-1, 2]
            constants[f"w{size}"] = [size, 4]
            middle = f"t{len(values)}"
            lines.append(f"{middle} = Reshape ({x}, flat)  {new(size)} = Reshape ({middle}, w{size})")
    made = [v for v in values if v[0] != "x"] or values
    chosen = [*draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True)), made[-1]]
    outputs = list(dict.fromkeys(v for v, _ in chosen))
    if outputs == ["x"]:
        lines, outputs = ["v1 = Relu (x)"], ["v1"]
    listed = [f"int64[{len(v) if isinstance(v, list) else 1}] {k} = {{{', '.join(map(str, v)) if isinstance(v, list) else v}}}"
              for k, v in constants.items()]  # fmt: skip
    given_ = f"<{', '.join(listed)}>" if listed else ""
    return f"m (float[{n}, 4] x) => ({', '.join(outputs)}) {given_} {{ {'  '.join(lines)} }}", n


@settings(max_examples=120, deadline=None)
@given(graphs())
def test_random_graphs(graph: tuple[str, int]) -> None:
    text, n = graph
    model = onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    exe, oracle = gm.compile(model), gm.compile(model, "reference")
    x = np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32)
    kept = x.copy()
    for _ in range(2):
        for name, (got, want) in {k: (a, oracle.run({"x": x})[k]) for k, a in exe.run({"x": x}).items()}.items():
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(x, kept)
