"""The writer: whole programs written, checked, read back and run in ONNX Runtime. Operators one by one are in test_writer_operators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import graphmill as gm
import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphmill.engine.compiler import optimize
from graphmill.engine.options import Options
from graphmill.engine.report import CompileReport
from graphmill.frontends.onnx.encode import pack, tensor_proto
from graphmill.frontends.onnx.reader import read
from graphmill.frontends.onnx.tensors import read_tensor, unpack
from graphmill.frontends.onnx.writer import export, write
from graphmill.ir.core import Module
from graphmill.ir.errors import ExportProblem, UnsupportedError
from graphmill.ir.infer import infer_module
from graphmill.ir.interp import run
from graphmill.ir.limits import DEFAULT_LIMITS
from graphmill.ir.op import OPS
from graphmill.ir.parser import parse_module
from graphmill.ir.printer import print_module
from graphmill.ir.symbols import Dim, broadcast, dim_max, dim_min, floordiv
from graphmill.ir.types import BF16, DTYPES, F32, I32, TensorType, dtype_of

DIGITS = str(Path(gm.__file__).parent / "examples" / "digits" / "digits.onnx")


def module(text: str) -> Module:
    m = parse_module(text)
    infer_module(m)
    return m


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def passed(m: Module, target: str) -> Module:
    optimize(m, Options(target), CompileReport())
    return m


def in_ort(proto: onnx.ModelProto | str, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(proto if isinstance(proto, str) else proto.SerializeToString(), options).run(None, feeds)


def same_as(original: onnx.ModelProto, feeds: dict[str, Any], opset: int | None = None) -> onnx.ModelProto:
    """The model read, passed through either pipeline and written: ONNX Runtime answers the same. The last that was written."""
    want = in_ort(original, feeds)
    for target in ("", "reference", "cpu"):
        m = read(original)
        proto = export(passed(m, target) if target else m, opset)
        check(proto)
        for got, wanted in zip(in_ort(proto, feeds), want, strict=True):
            np.testing.assert_allclose(got, wanted, 1e-4, 1e-5)
        assert [i.name for i in proto.graph.input] == [i.name for i in original.graph.input]
        assert [o.name for o in proto.graph.output] == [o.name for o in original.graph.output]
    return proto


def check(proto: onnx.ModelProto) -> None:
    """The checker wants a shape of every output, which a program whose output has no known rank cannot give."""
    if all(o.type.WhichOneof("value") != "tensor_type" or o.type.tensor_type.HasField("shape") for o in proto.graph.output):
        onnx.checker.check_model(proto)


def text_of(m: Module) -> str:
    """The text with all types, without what a model says of its producer."""
    infer_module(m)
    m.meta.clear()
    return print_module(m)


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


# ---- whole programs ---------------------------------------------------------------------------------------------


def test_a_trained_model_as_it_was_read_and_after_all_passes():
    x = {"image": np.random.default_rng(0).random((3, 1, 8, 8), np.float32)}
    for opset in (None, 28, 13, 11):
        m = passed(read(DIGITS), "cpu")
        assert any(n.op.name == "fused" for n in m.walk())
        before = print_module(m)
        proto = export(m, opset)
        assert print_module(m) == before  # the program that was given is not changed
        onnx.checker.check_model(proto, full_check=True)
        np.testing.assert_allclose(next(iter(run(read(proto), x).values())), in_ort(DIGITS, x)[0], 1e-4, 1e-6)
        if opset != 28:  # which ONNX Runtime does not know yet
            np.testing.assert_allclose(in_ort(proto, x)[0], in_ort(DIGITS, x)[0], 1e-4, 1e-6)
    assert text_of(read(export(read(DIGITS)))) == text_of(read(DIGITS))


def test_names_metadata_and_versions():
    proto = model("""<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3], producer_name: "the trainer", model_version: 7>
        g (float[N,3] x) => (float[N,3] y) { y = ai.onnx.ml.Normalizer <norm = "L2"> (x) }""")
    proto.graph.node[0].name = "/net/Normalizer"
    proto.metadata_props.add(key="author", value="Ünal")
    out = export(read(proto))
    assert (out.producer_name, out.model_version, out.graph.name, out.graph.node[0].name) == (
        "the trainer",
        7,
        "g",
        "/net/Normalizer",
    )
    assert {p.key: p.value for p in out.metadata_props} == {"author": "Ünal"}
    assert {o.domain: o.version for o in out.opset_import} == {"": 18, "ai.onnx.ml": 3}
    assert [d.dim_param or d.dim_value for d in out.graph.input[0].type.tensor_type.shape.dim] == ["N", 3]
    assert read(out).meta["onnx.producer_name"] == "the trainer"
    assert export(read(proto), {"ai.onnx.ml": 1}).opset_import[1].version == 1


def test_ranges_of_dims_are_kept_in_the_metadata():
    m = Module("m", {"": 18})
    n, k = Dim.of(m.fresh_symbol("N", 1, 64)), Dim.of(m.fresh_symbol("k", 2))
    x = m.main.add_input("x", TensorType(F32, (n, k, 2 * n + 1)))
    m.main.set_outputs(m.main.add(OPS["relu"], [x], names=["y"]).results)
    out = export(m)
    assert (
        json.loads(out.metadata_props[0].value) == {"N": [1, 64], "k": [2, None]}
        and out.metadata_props[0].key == "graphmill.ranges"
    )
    assert [d.dim_param for d in out.graph.output[0].type.tensor_type.shape.dim] == ["N", "k", "2*N + 1"]


def test_outputs_that_are_inputs_constants_or_one_value_twice():
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[2] x) => (float[2] x, float[2] a, float[2] b, float[2] c)
        <float[2] c = {1, 2}> { a = Relu(x) b = Identity(a) }"""
    out = same_as(model(text), {"x": np.float32([-1, 2])})
    assert len({o for n in out.graph.node for o in n.output}) == sum(len(n.output) for n in out.graph.node)


def test_values_of_one_name_in_two_scopes():
    original = model("""<ir_version: 8, opset_import: ["" : 18]> g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = a () => (float[2] t) { t = Exp(x) }, else_branch = b () => (float[2] t) { t = Neg(x) }> }""")
    for c in (True, False):
        same_as(original, {"c": np.array(c), "x": np.float32([1, -2])})


def test_a_custom_operator_stays_in_its_domain():
    @gm.op("writer_cube", domain="my.ops")
    def cube(x, *, scale=1.0, names=("a", "b"), flag=False):
        return x * x * x * scale

    try:
        original = model("""<ir_version: 8, opset_import: ["" : 18, "my.ops" : 3]>
            g (float[2] x) => (float[2] y) { y = my.ops.WriterCube <scale = 0.5> (x) }""")
        out = export(passed(read(original), "reference"))
        assert {o.domain: o.version for o in out.opset_import} == {"": 18, "my.ops": 3}
        assert [(n.domain, n.op_type) for n in out.graph.node] == [("my.ops", "WriterCube")]
        assert next(iter(run(read(out), {"x": np.float32([2, 3])}).values())).tolist() == [4, 13.5]
    finally:
        OPS.unregister("writer_cube")


def test_operators_that_onnx_reference_serves():
    original = model("""<ir_version: 8, opset_import: ["" : 18, "ai.onnx.preview.training" : 1]>
        g (float r, int64 t, float[2] x, float[2] g1, float[2] h) => (float[2] a, float[2] b)
        { a, b = ai.onnx.preview.training.Adagrad <norm_coefficient = 0.001> (r, t, x, g1, h) }""")
    m = read(original)
    out = export(m)
    assert out.graph.node[0].op_type == "Adagrad" and out.opset_import[1].version == 1
    assert text_of(read(out)) == text_of(m)


# ---- regions ----------------------------------------------------------------------------------------------------

LOOP = """<ir_version: 8, opset_import: ["" : 18]> g (int64 n, float[2,N] x) => (float[2,N] last, float[K,2,N] all) {
    go = Constant <value = bool {1}> ()
    last, all = Loop (n, go, x) <body = body (int64 i, bool c, float[2,N] v) => (bool c2, float[2,N] w, float[2,N] w2) {
        f = Cast <to = 1> (i) s = Shape <start = 1> (v) e = Expand(f, s) w = Add(v, e) w2 = Identity(w) c2 = Identity(c) }> }"""
SCAN = """<ir_version: 8, opset_import: ["" : 18]> g (float[2] s, float[T,2] x) => (float[2] last, float[T,2] all) {
    last, all = Scan <num_scan_inputs = 1, scan_input_directions = [1],
        body = body (float[2] a, float[2] b) => (float[2] c, float[2] d) { c = Add(a, b) d = Mul(c, s) }> (s, x) }"""
NESTED = """<ir_version: 8, opset_import: ["" : 18]> g (bool p, bool q, float[3] x) => (float[3] y) {
    k = Exp(x)
    y = If (p) <then_branch = a () => (float[3] u) {
        u = If (q) <then_branch = aa () => (float[3] r) { r = Add(k, x) }, else_branch = ab () => (float[3] r2) { r2 = Identity(k) }> },
      else_branch = b () => (float[3] w) { w = Constant <value = float[3] {1, 2, 3}> () }> }"""


def test_loop():
    for n in (0, 1, 3):
        original = model(LOOP)
        m = read(original)
        feeds = {"n": np.array(n), "x": np.arange(6, dtype=np.float32).reshape(2, 3)}
        for opset in (18, 13, 11):
            for target in ("", "cpu"):
                proto = export(passed(read(original), target) if target else m, opset)
                onnx.checker.check_model(proto)
                for got, want in zip(in_ort(proto, feeds), in_ort(original, feeds), strict=True):
                    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("opset", [None, 13])
def test_scan_and_nested_branches(opset: int | None):
    same_as(model(SCAN), {"s": np.float32([1, 2]), "x": np.arange(8, dtype=np.float32).reshape(4, 2)}, opset)
    for p in (True, False):
        for q in (True, False):
            same_as(model(NESTED), {"p": np.array(p), "q": np.array(q), "x": np.float32([1, 2, 3])}, opset)


def test_sequences_optionals_maps_and_strings():
    sequences = model("""<ir_version: 8, opset_import: ["" : 18]> g (float[N] x, seq(float[M]) s) => (float[K] y, int64 n, bool h) {
        t = SequenceInsert(s, x) y = ConcatFromSequence <axis = 0> (t) n = SequenceLength(t)
        o = Optional(t) h = OptionalHasElement(o) }""")
    same_as(sequences, {"x": np.float32([1]), "s": [np.float32([2, 3]), np.float32([4])]})
    empty = model("""<ir_version: 8, opset_import: ["" : 18]> g (float[N] x) => (bool h)
        { o = Optional <type = optional(float[2])> () h = OptionalHasElement(o) }""")
    assert not next(iter(run(read(export(read(empty))), {"x": np.float32([1])}).values()))
    text = model("""<ir_version: 8, opset_import: ["" : 18]> g (string[N] x) => (string[K] y)
        { y = StringNormalizer <case_change_action = "UPPER", stopwords = ["b"]> (x) }""")
    assert next(iter(run(read(export(read(text))), {"x": np.array(["a", "b", "ü"], object)}).values())).tolist() == ["A", "Ü"]
    maps = model("""<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3]> g (float[N,2] x) => (seq(map(string,float)) y)
        { y = ai.onnx.ml.ZipMap <classlabels_strings = ["cat", "dog"]> (x) }""")
    out = export(read(maps))
    onnx.checker.check_model(out)
    assert in_ort(out, {"x": np.float32([[1, 2]])})[0] == [{"cat": 1.0, "dog": 2.0}]


# ---- shapes -----------------------------------------------------------------------------------------------------

SHAPES = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,T,6] x) => (float[A,B] y, int64[3] z, float[M] w) {
    s = Shape(x) n = Shape <start = 0, end = 1> (x) t = Shape <start = 1, end = 2> (x)
    two = Constant <value = int64[1] {2}> () three = Constant <value = int64[1] {3}> () one = Constant <value = int64[1] {1}> ()
    nt = Mul(n, t) a = Mul(nt, two) target = Concat <axis = 0> (a, three) y = Reshape(x, target)
    d = Sub(t, three) h = Div(d, two) m = Max(h, one) k = Min(m, n) p = Add(k, nt) z = Concat <axis = 0> (p, h, m)
    f = Constant <value_float = 1.5> () w = Expand(f, p) }"""


@pytest.mark.parametrize("opset", [28, 18, 14, 13, 12])
def test_shape_arithmetic_becomes_nodes(opset: int):
    original = model(SHAPES)
    m = passed(read(original), "reference")
    proto = export(m, opset)
    onnx.checker.check_model(proto)
    for n, t in ((2, 3), (1, 8), (5, 4)):
        feeds = {"x": np.arange(n * t * 6, dtype=np.float32).reshape(n, t, 6)}
        for got, want in zip(run(read(proto), feeds).values(), in_ort(original, feeds), strict=True):
            np.testing.assert_array_equal(got, want)
        if opset < 24:
            for got, want in zip(in_ort(proto, feeds), in_ort(original, feeds), strict=True):
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("opset", [18, 13, 11])
def test_every_operation_of_dims(opset: int):
    m = Module("m", {"": 18})
    n, k = Dim.of(m.fresh_symbol("N")), Dim.of(m.fresh_symbol("K"))
    m.main.add_input("x", TensorType(F32, (n, k)))
    value = (3, n, n * k - 2 * n + 5, floordiv(n - k, 2), floordiv(n, k), dim_min(n, k), dim_max(n - 3, k), broadcast(n, k), 7, -n)
    a = m.main.add(OPS["dims"], [], {"value": value}, names=["a"], locs=["the/shape"])
    b = m.main.add(OPS["dims"], [], {"value": (n * n,), "scalar": True, "dtype": I32}, names=["b"])
    c = m.main.add(OPS["dims"], [], {"value": (4, 5)}, names=["c"])
    m.main.set_outputs([a.result, b.result, c.result])
    infer_module(m)
    proto = export(m, opset)
    assert all(not node.name or node.name.startswith("the/shape") for node in proto.graph.node)
    for shape in ((1, 4), (4, 4), (4, 1)):
        feeds = {"x": np.zeros(shape, np.float32)}
        for got, want in zip(in_ort(proto, feeds), run(m, feeds).values(), strict=True):
            np.testing.assert_array_equal(got, want)
            assert got.dtype == want.dtype


def test_sizes_known_inside_of_a_loop_only_are_computed_there():
    original = model("""<ir_version: 8, opset_import: ["" : 18]> g (int64 n, float[N] x) => (float[M] y) {
        y = Loop (n, , x) <body = body (int64 i, bool c, float[P] v) => (bool c2, float[Q] w) {
            s = Shape(v) one = Constant <value = int64[1] {1}> () t = Add(s, one) k = Concat <axis = 0> (one, s)
            z = Constant <value_float = 0.5> () e = Expand(z, t) w = Concat <axis = 0> (v, e) c2 = Identity(c) }> }""")
    for n in (0, 1, 3):
        same_as(original, {"n": np.array(n), "x": np.float32([1, 2])})


# ---- opsets -----------------------------------------------------------------------------------------------------


def test_older_forms_of_operators():
    original = model("""<ir_version: 8, opset_import: ["" : 18]> g (float[2,3,4] x) => (float[2,3] a, float[2,4] b, float[2,2,4] c, float[1,2,3,4] d) {
        m = Constant <value = int64[1] {-1}> () a = ReduceMean <keepdims = 0> (x, m) one = Constant <value = int64[1] {1}> ()
        f = Constant <value = int64[1] {0}> () e = Constant <value = int64[1] {2}> () c = Slice(x, f, e, one) b = ReduceSum <keepdims = 0> (x, one)
        lo = Constant <value_float = -0.5> () k = Clip(x, lo) d = Unsqueeze(k, f) }""")
    x = {"x": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)}
    for opset in (18, 13, 11, 9, 7):
        proto = same_as(original, x, opset)
        assert proto.opset_import[0].version == opset
    assert {a.name for n in proto.graph.node for a in n.attribute} >= {"axes", "starts", "ends", "min"}


def test_newer_operators_are_opened():
    original = model("""<ir_version: 10, opset_import: ["" : 23]> g (float[2,4,6] x, float[6] s, float[2,2,3,4] q, float[2,2,5,4] k, float[2,2,5,4] v, float[3,5] mask)
        => (float[2,4,6] y, float[2,2,3,4] z) { g1 = Gelu(x) r = RMSNormalization(g1, s) y = Mish(r) z = Attention(q, k, v, mask) }""")
    r = np.random.default_rng(0)
    feeds = {
        i.name: r.normal(size=[d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32) for i in original.graph.input
    }
    feeds["mask"][1] = -np.inf  # a query that sees no key gives zeros
    want = list(run(read(original), feeds).values())
    for opset in (22, 17, 13, 11):
        proto = export(read(original), opset)
        onnx.checker.check_model(proto)
        assert not {"Gelu", "RMSNormalization", "Attention"} & set(ops(proto)) or opset >= 20
        for got, wanted in zip(in_ort(proto, feeds), want, strict=True):
            np.testing.assert_allclose(got, wanted, 1e-4, 1e-5)


def test_softmax_over_several_axes_moves_up_and_one_in_the_middle_down():
    old = model(
        """<ir_version: 8, opset_import: ["" : 11]> g (float[2,N,4] x) => (float[2,N,4] y) { y = Softmax <axis = 1> (x) }"""
    )
    new = model(
        """<ir_version: 8, opset_import: ["" : 13]> g (float[2,N,4] x) => (float[2,N,4] y) { y = Softmax <axis = 1> (x) }"""
    )
    x = {"x": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)}
    for original, opsets in ((old, (11, 17)), (new, (13, 11))):
        for opset in opsets:
            same_as(original, x, opset)


@pytest.mark.parametrize("opset", [13, 11])
def test_an_empty_tensor_is_reshaped_before_allowzero(opset: int):
    m = module("""module @m {opset = 18} {
      sym $N
      graph @main(%x: f32[$N,1,4], %y: f32[0,4], %z: f32[2,$N,3]) -> %a, %b, %c {
        %s = dims() {value = [$N,4,1]} : i64[3]
        %t = dims() {value = [4,0]} : i64[2]
        %u = dims() {value = [2,3*$N]} : i64[2]
        %a = reshape(%x, %s) {allowzero = 1} : f32[$N,4,1]
        %b = reshape(%y, %t) {allowzero = 1} : f32[4,0]
        %c = reshape(%z, %u) {allowzero = 1} : f32[2,3*$N]
      }
    }""")  # fmt: skip
    proto = export(m, opset)
    for n in (0, 3):
        feeds = {"x": np.ones((n, 1, 4), np.float32), "y": np.ones((0, 4), np.float32), "z": np.ones((2, n, 3), np.float32)}
        assert [a.shape for a in in_ort(proto, feeds)] == [(n, 4, 1), (4, 0), (2, 3 * n)]


def test_narrow_floats_are_computed_in_f32_where_the_opset_has_no_such_operator():
    m = Module("m", {"": 22})
    x = m.main.add_input("x", TensorType(BF16, (2,)))
    m.main.set_outputs(m.main.add(OPS["cos"], [x], names=["y"]).results)
    infer_module(m)
    assert ops(export(m, 22)) == ["Cos"] and ops(export(m, 17)) == ["Cast", "Cos", "Cast"]


def test_small_integers_products_without_a_sum_and_steps_of_one():
    original = model("""<ir_version: 8, opset_import: ["" : 18]> g (uint8[3] x, float[2,3] a, float[3,2] b) => (uint8[3] y, float[2,2] z, float[1,2] w) {
        y = Sub(x, x2) z = Gemm <alpha = 2.0> (a, b) f = Constant <value = int64[1] {1}> () e = Constant <value = int64[1] {2}> ()
        w = Slice(z, f, e, k, f) k = Constant <value = int64[1] {0}> () x2 = Constant <value = uint8[3] {9, 1, 200}> () }""")
    r = np.random.default_rng(0)
    feeds = {"x": np.array([5, 250, 200], np.uint8), "a": r.random((2, 3), np.float32), "b": r.random((3, 2), np.float32)}
    out = export(read(original), 9)
    for got, want in zip(in_ort(out, feeds), run(read(original), feeds).values(), strict=True):
        np.testing.assert_allclose(got, want, 1e-5)
    assert {"Cast", "Gemm", "Slice"} <= set(ops(out))


# ---- problems ---------------------------------------------------------------------------------------------------


def test_all_problems_come_in_one_report():
    m = read(
        model("""<ir_version: 13, opset_import: ["" : 26]> g (float[2] x, int64[2] i) => (int32[2] a, float[2] b, int64[2] c) {
        a = BitCast <to = 6> (x) zero = Constant <value_int = 0> () b = CumProd(x, zero) c = BitwiseNot(i) }""")
    )
    with pytest.raises(ExportProblem, match="3 problems") as e:
        export(m, 17)
    assert [(p.op, p.opset) for p in e.value.problems] == [("BitCast", 17), ("CumProd", 17), ("BitwiseNot", 17)]
    assert [p.hint for p in e.value.problems] == [f"export to opset {n} or above" for n in (26, 26, 18)]
    assert "node %a (BitCast, opset 17): BitCast is new in opset 26" in str(e.value)
    assert ops(export(m)) == ["BitCast", "CumProd", "BitwiseNot"]


def test_what_has_no_form_at_all_names_the_node():
    m = Module("m", {"": 18})
    n = Dim.of(m.fresh_symbol("N"))
    m.main.add_input("x", TensorType(F32, (2 * n,)))
    m.main.set_outputs(m.main.add(OPS["dims"], [], {"value": (n,)}, names=["y"], locs=["/a/Shape"]).results)
    with pytest.raises(ExportProblem, match=r"node /a/Shape \(dims, opset 18\).*no value here has the size \$N.*write_text"):
        export(m)


@pytest.mark.parametrize("opset", [6, 1000, True, "18", {"": 3}])
def test_versions_that_there_are_not(opset: Any):
    with pytest.raises(UnsupportedError, match=r"cannot be written; expected 7 to \d+"):
        export(read(DIGITS), opset)


def test_what_an_older_opset_means_otherwise_is_refused():
    uneven = model(
        """<ir_version: 8, opset_import: ["" : 18]> g (float[N] x) => (float[A] a, float[B] b) { a, b = Split <num_outputs = 2> (x) }"""
    )
    with pytest.raises(ExportProblem, match="export to opset 18 or above"):
        export(read(uneven), 17)
    axes = model(
        """<ir_version: 8, opset_import: ["" : 18]> g (float[2,3] x, int64[1] a) => (float[A,B] y) { y = ReduceMax(x, a) }"""
    )
    with pytest.raises(ExportProblem, match=r"axes is an attribute of ReduceMax, and the operand is no constant.*opset 18"):
        export(read(axes), 17)


# ---- tensors and files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in DTYPES if n != "str"])
def test_every_element_type_is_written_and_read(name: str):
    dtype = DTYPES[name]
    for shape in ((), (0,), (5,), (3, 3)):
        bits = np.random.default_rng(1).integers(0, 1 << min(dtype.bits, 8), (*shape, max(dtype.bits // 8, 1)), np.uint8)
        if dtype.bits >= 8:
            a = (bits & 1).astype(bool)[..., 0] if name == "bool" else np.ascontiguousarray(bits).view(dtype.np)[..., 0]
        elif dtype.is_float:
            a = np.ascontiguousarray(bits).view(dtype.np)[..., 0]
        else:
            info = ml_dtypes.iinfo(dtype.np)
            a = (bits[..., 0].astype(np.int64) + int(info.min)).astype(dtype.np)
        a = np.asarray(a)
        got = read_tensor(tensor_proto("t", a), DEFAULT_LIMITS)[0].array
        assert dtype_of(got) is dtype and got.shape == a.shape and got.tobytes() == a.tobytes()


def test_packing_undoes_unpacking():
    for dtype in (DTYPES[n] for n in ("i2", "u2", "i4", "u4", "f6e2m3", "f4e2m1")):
        octets = np.random.default_rng(2).integers(0, 256, 12, np.uint8)
        assert pack(unpack(octets, dtype, 12 * 8 // dtype.bits), dtype).tobytes() == octets.tobytes()


def test_strings_that_are_no_utf8_keep_their_bytes():
    t = onnx.TensorProto(name="t", data_type=8, dims=[2], string_data=[b"\xff\x00", "ü".encode()])
    assert list(tensor_proto("t", read_tensor(t, DEFAULT_LIMITS)[0].array).string_data) == list(t.string_data)


def test_files(tmp_path: Path):
    x = {"image": np.random.default_rng(0).random((2, 1, 8, 8), np.float32)}
    path, want = tmp_path / "m.onnx", in_ort(DIGITS, x)[0]
    gm.write_onnx(gm.read_onnx(DIGITS), path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]
    np.testing.assert_array_equal(in_ort(str(path), x)[0], want)
    write(read(DIGITS), path, 13, external_data=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    onnx.checker.check_model(str(path))
    np.testing.assert_array_equal(in_ort(str(path), x)[0], want)
    proto = onnx.load(path, load_external_data=False)
    beside = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert beside and all(int(e.value) % 4096 == 0 for t in beside for e in t.external_data if e.key == "offset")
    assert all(t.data_location != onnx.TensorProto.EXTERNAL for t in proto.graph.initializer if np.prod(t.dims) * 4 < 1024)
    np.testing.assert_allclose(next(iter(run(read(path), x).values())), want, 1e-4, 1e-6)


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "m.onnx"
    write(read(DIGITS), path, external_data=True)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    m = read(DIGITS)
    m.consts[next(n for n, v in m.consts.items() if v.tensor.rank == 4)].const._array = None  # its contents cannot be had
    for beside in (True, False):
        with pytest.raises(Exception):  # noqa: B017
            write(m, path, external_data=beside)
    with pytest.raises(ExportProblem):
        write(
            read(
                model("""<ir_version: 13, opset_import: ["" : 26]> g (float[2] x) => (int32[2] a) { a = BitCast <to = 6> (x) }""")
            ),
            path,
            17,
        )
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_too_much_for_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("graphmill.frontends.onnx.writer.LARGEST", 1000)
    with pytest.raises(UnsupportedError, match="use write, which puts them beside the model"):
        export(read(DIGITS))
    write(read(DIGITS), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").exists()
