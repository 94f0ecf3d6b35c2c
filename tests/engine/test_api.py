"""compile and run as users call them: every kind of model, wrong inputs, who owns what is returned, threads, limits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import graphmill as gm
import numpy as np
import onnx
import pytest
from graphmill.kernels.cpu import objects
from graphmill.kernels.cpu.cpus import granted_cpus

DIGITS = Path(gm.__file__).parent / "examples" / "digits" / "digits.onnx"


def model(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {body}')


AFFINE = model("(float[N,3] x, float[M,3] w, float b) => (float[N,3] y, float[N] z) { a = Add(x, w) y = Mul(a, b) "
               "i = Constant<value_ints = [1]>() z = ReduceSum<keepdims = 0>(y, i) }")  # fmt: skip


@pytest.fixture(scope="module")
def affine() -> gm.Executable:
    return gm.compile(AFFINE, threads=1)


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "w": np.ones((1, 3), np.float32), "b": np.float32(2)}


# ---- what compile takes -----------------------------------------------------------------------------------------


def test_every_kind_of_model_gives_the_same_answer(tmp_path: Path) -> None:
    proto = model("(float[N] x) => (float[N] y) { a = Exp(x) y = Neg(a) }")
    onnx.save(proto, tmp_path / "m.onnx")
    gm.write_text(gm.read_onnx(proto), tmp_path / "m.gir")
    sources = [
        tmp_path / "m.onnx",
        str(tmp_path / "m.onnx"),
        proto.SerializeToString(),
        proto,
        gm.read_onnx(proto),
        tmp_path / "m.gir",
    ]
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    answers = [gm.compile(s)(x) for s in sources]
    for a in answers:
        np.testing.assert_array_equal(a, answers[0])
    np.testing.assert_allclose(answers[0], -np.exp(x), rtol=1e-6)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"expected a path, bytes or an onnx\.ModelProto, not a int"):
        gm.compile(3)
    with pytest.raises(FileNotFoundError):
        gm.compile(tmp_path / "missing.onnx")
    with pytest.raises(gm.errors.HostileModelError):
        gm.compile(b"no protobuf")
    with pytest.raises(gm.errors.UnsupportedError, match="no target 'abacus'; expected one of cpu, cuda, reference"):
        gm.compile(AFFINE, "abacus")
    with pytest.raises(gm.errors.IRError, match="no pass named 'nothing'"):
        gm.compile(AFFINE, passes="infer,nothing")
    with pytest.raises(gm.errors.InputError, match="threads = 0"):
        gm.compile(AFFINE, threads=0)


def test_all_problems_in_one_error() -> None:
    bad = model("(float[N] x) => (float[N] y) { a = Nothing(x) y = Nowhere(a) }")
    with pytest.raises(gm.errors.ImportProblem, match=r"(?s)2 problems.*Nothing.*Nowhere") as e:
        gm.compile(bad)
    assert [p.op for p in e.value.problems] == ["Nothing", "Nowhere"]


def test_inputs_and_outputs_are_described(affine: gm.Executable) -> None:
    assert affine.inputs == {"x": "f32[$N,3]", "w": "f32[$M,3]", "b": "f32[]"}
    assert list(affine.outputs) == ["y", "z"] and affine.outputs["y"].startswith("f32[")


# ---- shapes -----------------------------------------------------------------------------------------------------


def test_shapes_are_fixed() -> None:
    exe = gm.compile(AFFINE, shapes={"N": 2, "M": 1})
    assert exe.inputs["x"] == "f32[2,3]" and exe.outputs == {"y": "f32[2,3]", "z": "f32[2]"}
    assert exe.run(feeds())["z"].tolist() == [12.0, 30.0]
    with pytest.raises(gm.errors.InputError, match=r"input x has 4 at axis 0, expected 2"):
        exe.run(feeds() | {"x": np.zeros((4, 3), np.float32)})
    with pytest.raises(gm.errors.InputError):
        gm.compile(AFFINE, shapes={"nowhere": 2})
    with pytest.raises(gm.errors.InputError, match="in the IR already"):
        gm.compile(gm.read_onnx(AFFINE), shapes={"N": 2})


def test_a_new_shape_compiles_nothing(affine: gm.Executable) -> None:
    affine.run(feeds())
    before = objects.compiled_count()
    for n in (1, 7, 0, 300):
        out = affine.run(feeds() | {"x": np.ones((n, 3), np.float32)})
        assert out["y"].shape == (n, 3) and out["z"].tolist() == [12.0] * n
    assert objects.compiled_count() == before


# ---- inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": None}, r"the inputs \['x'\] are missing; the model takes x: f32\[\$N,3\]"),
        ({"q": np.zeros(1)}, r"no input is named \['q'\]"),
        ({"x": np.zeros((2, 3))}, r"input x has element type float64, expected float32 .*astype"),
        ({"x": np.zeros((2, 3), ">f8")}, r"input x has element type >f8, expected float32"),
        ({"x": [[1.0, 2.0], [3.0]]}, "input x is a list, expected f32"),
        ({"x": np.zeros((2, 3), np.int32)}, "element type int32"),
        ({"x": np.zeros(3, np.float32)}, r"input x has shape \[3\], expected rank 2"),
        ({"b": np.zeros(1, np.float32)}, r"input b has shape \[1\], expected rank 0"),
        ({"x": np.zeros((2, 4), np.float32)}, "input x has 4 at axis 1, expected 3"),
    ],
)
def test_wrong_inputs(affine: gm.Executable, change: dict, says: str) -> None:
    given = {k: v for k, v in (feeds() | change).items() if v is not None}
    with pytest.raises(gm.errors.InputError, match=says):
        affine.run(given)


def test_shapes_that_only_running_finds_wrong(affine: gm.Executable) -> None:
    with pytest.raises(gm.errors.GraphmillError, match=r"3.*5|5.*3|add"):
        affine.run(feeds() | {"x": np.zeros((3, 3), np.float32), "w": np.zeros((5, 3), np.float32)})


def test_one_symbol_has_one_size() -> None:
    exe = gm.compile(model("(float[N] x, float[N] w) => (float[N] y) { y = Add(x, w) }"))
    with pytest.raises(gm.errors.InputError, match=r"input w has 3 at axis 0, expected 2 \(\$N is 2 in another input\)"):
        exe(np.zeros(2, np.float32), np.zeros(3, np.float32))


@pytest.mark.parametrize("form", ["fortran", "reversed", "strided", "readonly", "unaligned", "bytes swapped", "list"])
def test_every_way_to_lie_in_memory(affine: gm.Executable, form: str) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    backing = np.zeros(25, np.uint8)[1:]
    forms: dict[str, Callable] = {
        "fortran": lambda: np.asfortranarray(x), "reversed": lambda: x[::-1, ::-1].copy()[::-1, ::-1],
        "strided": lambda: np.repeat(x, 2, axis=1)[:, ::2], 
        "readonly": lambda: np.frombuffer(x.tobytes(), np.float32).reshape(2, 3),
        "bytes swapped": lambda: x.astype(">f4"), "unaligned": lambda: backing.view(np.float32).reshape(2, 3), "list": x.tolist,
    }  # fmt: skip
    given = forms[form]()
    if form == "unaligned":
        given[...] = x
    want, out = affine.run(feeds()), affine.run(feeds() | {"x": given})
    np.testing.assert_array_equal(out["y"], want["y"])
    np.testing.assert_array_equal(out["z"], want["z"])


def test_call_by_position(affine: gm.Executable) -> None:
    y, z = affine(*feeds().values())
    np.testing.assert_array_equal(y, affine.run(feeds())["y"])
    assert z.shape == (2,)
    with pytest.raises(gm.errors.InputError, match=r"takes 3 inputs \(x, w, b\), 1 were given"):
        affine(feeds()["x"])
    alone = gm.compile(model("(float[2] x) => (float[2] y) { y = Neg(x) }"))
    assert alone(np.float32([1, 2])).tolist() == [-1, -2]


# ---- who owns what is returned ----------------------------------------------------------------------------------


def test_outputs_belong_to_the_caller() -> None:
    """An input handed through, a view, a constant and a value returned twice are four arrays that share nothing."""
    exe = gm.compile(model("""(float[4] x) => (float[4] same, float[2,2] view, float[2] fixed, float[4] a, float[4] b) {
        same = Identity(x) s = Constant<value_ints = [2, 2]>() view = Reshape(x, s) fixed = Constant<value_floats = [1.0, 2.0]>()
        a = Neg(x) b = Identity(a) }"""))  # fmt: skip
    x = np.arange(4, dtype=np.float32)
    first = exe.run({"x": x})
    kept = {k: v.copy() for k, v in first.items()}
    arrays = [x, *first.values()]
    assert not any(np.shares_memory(p, q) for i, p in enumerate(arrays) for q in arrays[:i])
    for v in first.values():
        assert v.flags.writeable and v.flags.c_contiguous
        v.fill(-99)
    assert x.tolist() == [0, 1, 2, 3]
    for name, v in exe.run({"x": x}).items():
        np.testing.assert_array_equal(v, kept[name])


# ---- threads ----------------------------------------------------------------------------------------------------


def test_the_bits_do_not_depend_on_threads() -> None:
    data = np.load(DIGITS.parent / "digits.npz")["images"][:64].astype(np.float32) / 16
    wide = model("(float[N,700] x) => (float[N,700] y) { a = Softmax(x) b = Exp(a) y = Mul(a, b) }")
    x = np.random.default_rng(0).normal(size=(200, 700)).astype(np.float32)
    for source, given in ((DIGITS, data), (wide, x)):
        one, two, five = (gm.compile(source, threads=n)(given) for n in (1, 2, 5))
        assert one.tobytes() == two.tobytes() == five.tobytes()
    assert gm.compile(wide).threads == granted_cpus() >= 1


def test_many_callers_at_once() -> None:
    """Runs of different shapes from several Python threads do not disturb each other."""
    exe = gm.compile(DIGITS, threads=2)
    images = np.load(DIGITS.parent / "digits.npz")["images"].astype(np.float32) / 16
    sizes = [1, 5, 17, 64]
    want, wrong = {n: exe(images[:n]).tobytes() for n in sizes}, []

    def work(start: int) -> None:
        for i in range(12):
            n = sizes[(start + i) % len(sizes)]
            if exe(images[:n]).tobytes() != want[n]:
                wrong.append(n)

    callers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in callers:
        t.start()
    for t in callers:
        t.join(timeout=120)
    assert not any(t.is_alive() for t in callers) and wrong == []


# ---- what is native, limits -------------------------------------------------------------------------------------


def test_strict_native() -> None:
    det = model("(float[2,2] x) => (float y) { y = Det(x) }")
    with pytest.raises(gm.errors.UnsupportedError, match=r"strict_native: these nodes have no native kernel:\n  %y \(det\): "):
        gm.compile(det, strict_native=True)
    exe = gm.compile(det)
    (row,) = exe.report.not_native()
    assert (row.op, row.how) == ("det", "reference") and row.reason and not exe.report.fully_native
    assert exe(np.float32([[1, 2], [3, 4]])) == pytest.approx(-2)
    strict = gm.compile(AFFINE, strict_native=True)
    assert strict.report.fully_native and strict.report.counts() == {"native": len(strict.report.served)}


def test_the_reference_target_agrees(affine: gm.Executable) -> None:
    reference = gm.compile(AFFINE, "reference")
    assert set(reference.report.counts()) <= {"reference", "native"} and reference.report.kernels == 0
    for name, want in reference.run(feeds()).items():
        np.testing.assert_allclose(affine.run(feeds())[name], want, rtol=1e-6)


def test_limits() -> None:
    grow = model("(float[1] x, int64[1] n) => (float[K] y) { y = Expand(x, n) }")
    exe = gm.compile(grow, limits=gm.Limits(tensor_bytes=1 << 20))
    assert exe(np.ones(1, np.float32), np.array([1000])).shape == (1000,)
    with pytest.raises(gm.errors.LimitError, match=r"a tensor of 4\d* bytes, more than the limit of 1048576"):
        exe(np.ones(1, np.float32), np.array([1 << 40]))
    loop = model("""(int64 n, float x) => (float y) { c = Constant<value = bool {1}>()
        y = Loop(n, c, x) <body = b (int64 i, bool go, float v) => (bool on, float w) { on = Identity(go) w = Neg(v) }> }""")
    exe = gm.compile(loop, limits=gm.Limits(loop_iterations=10))
    assert exe(np.int64(3), np.float32(1)) == -1
    with pytest.raises(gm.errors.LimitError, match="more than 10 iterations"):
        exe(np.int64(11), np.float32(1))
    with pytest.raises(gm.errors.LimitError, match="nodes"):
        gm.compile(DIGITS, limits=gm.Limits(nodes=3))


def test_the_report_tells_what_compiling_did() -> None:
    seen: list[str] = []
    exe = gm.compile(DIGITS, observe=lambda p, m: seen.append(p.name))
    assert [r.text.partition("{")[0] for r in exe.report.passes] == seen and "fuse" in seen
    assert any(d.outcome == "applied" for d in exe.report.decisions)
    assert exe.report.summary().startswith(f"{len(exe.report.served)} nodes: ")
