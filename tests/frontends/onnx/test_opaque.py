"""Operators that run through onnx.reference."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.frontends.onnx import opaque
from graphmill.frontends.onnx.reader import read
from graphmill.ir import interp
from graphmill.ir.errors import ImportProblem, IRError, RunError
from graphmill.ir.infer import infer_module
from graphmill.ir.op import OPS, OnnxCall
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, I64, STR, TensorType
from onnx.parser import parse_model


@pytest.fixture
def only_opaque(monkeypatch):
    """Takes the IR's own operators of these names away, so that the tests do not depend on which exist."""

    def hide(*names):
        real = OPS.by_onnx
        monkeypatch.setattr(OPS, "by_onnx", lambda domain, op: None if op in names else real(domain, op))

    return hide


def module(body: str, imports: str = "", opset: int = 20):
    return read(parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{imports}]>\n{body}'))


def test_attributes_types_and_results(only_opaque):
    only_opaque("TopK", "Relu")
    got = module(
        "g (float[N, 4] x) => (float[N, 2] v, int64[N, 2] i) <int64[1] k = {2}> { t = Relu(x)  v, i = TopK <largest = 0> (t, k) }"
    )
    relu, top = got.main
    assert (relu.op.name, top.op.name) == ("onnx.Relu", "onnx.TopK") and top.op.has("opaque")
    assert top.attrs == {"largest": 0, "opset": 11, "outputs": 2}
    infer_module(got)
    assert [r.type for r in top.results] == [TensorType(F32, (symbol("N"), 2)), TensorType(I64, (symbol("N"), 2))]
    out = interp.run(got, {"x": np.array([[3, -1, 2, 1]], np.float32)})
    assert out["v"].tolist() == [[0, 1]] and out["i"].tolist() == [[1, 3]]


def test_ops_of_other_domains_and_strings(only_opaque):
    only_opaque("StringNormalizer", "LabelEncoder")
    got = module("""g (string[2] x) => (int64[2] y) {
        t = StringNormalizer <case_change_action = "UPPER"> (x)
        y = ai.onnx.ml.LabelEncoder <keys_strings = ["A", "B"], values_int64s = [7, 8]> (t)
    }""", ', "ai.onnx.ml" : 4')  # fmt: skip
    assert [n.op.name for n in got.main] == ["onnx.StringNormalizer", "ai.onnx.ml.LabelEncoder"]
    infer_module(got)
    assert got.main.nodes[0].result.type.dtype is STR
    assert interp.run(got, {"x": np.array(["b", "a"], object)})["y"].tolist() == [8, 7]


def test_a_shape_that_depends_on_data_is_a_new_symbol(only_opaque):
    only_opaque("NonZero")
    got = module("g (float[N] x) => (int64[1, M] y) { y = NonZero(x) }")
    infer_module(got)
    rank, count = got.main.outputs[0].type.shape
    assert rank == 1 and not isinstance(count, int) and count != symbol("N")
    assert interp.run(got, {"x": np.array([0, 1, 2], np.float32)})["y"].tolist() == [[1, 2]]


def test_small_constants_reach_shape_inference(only_opaque):
    only_opaque("Reshape")
    got = module("g (float[4, 3] x) => (float y) <int64[2] s = {2, -1}> { y = Reshape(x, s) }")
    infer_module(got)
    assert got.main.outputs[0].type == TensorType(F32, (2, 6))


def test_random_operators_are_marked():
    assert opaque.make("onnx.Bernoulli").has("random") and not opaque.make("onnx.Det").has("random")


def test_names_resolve_to_operators_without_a_model():
    assert OPS["onnx.Det"].has("opaque") and OPS["onnx.Det"] is OPS["onnx.Det"]
    for name in ("onnx.Nothing", "nobody.Det", "Det", "onnx.If", "onnx."):
        with pytest.raises(IRError):
            OPS[name]


@pytest.mark.parametrize("body, words", [
    ("y = Det <wrong = 1> (x)", "wrong is unknown"), ("y = Det(x, x)", "2 inputs"), ("y, z = Det(x)", "2 outputs"),
    ("y = Cast(x)", "to is missing"),
])  # fmt: skip
def test_nodes_that_break_their_schema(only_opaque, body, words):
    only_opaque("Det", "Cast")
    with pytest.raises(ImportProblem, match=words):
        module("g (float[2, 2] x) => (float y) { " + body + " }")


def test_types_that_do_not_fit_are_inference_errors(only_opaque):
    from graphmill.ir.errors import InferenceError

    only_opaque("MatMul")
    with pytest.raises(InferenceError, match="Incompatible dimensions"):
        infer_module(module("g (float[2, 3] x) => (float y) { y = MatMul(x, x) }"))


def test_errors_at_run_time_name_the_node(only_opaque):
    only_opaque("MatMul")
    got = module("g (float[N, 3] x) => (float y) { y = MatMul(x, x) }")
    with pytest.raises(RunError, match="%y"):
        interp.run(got, {"x": np.zeros((2, 3), np.float32)})


def test_the_older_opset_s_meaning_is_kept():
    call = OnnxCall("Det", "", 12, "n", [object()], {}, 1, None, None, None, None)  # type: ignore[arg-type]
    opaque.prepare(call)
    assert call.attrs == {"opset": 11, "outputs": 1}


def test_what_onnx_reference_lacks_is_unsupported_or_its_function(only_opaque):
    only_opaque("MaxRoiPool", "MeanVarianceNormalization")
    with pytest.raises(ImportProblem, match="the operator is not supported"):
        module("g (float[1, 1, 4, 4] x, float[1, 5] r) => (float y) { y = MaxRoiPool <pooled_shape = [2, 2]> (x, r) }")
    got = module("g (float[2, 2, 4, 4] x) => (float y) { y = MeanVarianceNormalization <axes = [0, 2, 3]> (x) }")
    assert len(got.main) > 4
    x = np.random.default_rng(0).normal(3, 2, (2, 2, 4, 4)).astype(np.float32)
    y = interp.run(got, {"x": x})["y"]
    assert np.allclose(y.mean((0, 2, 3)), 0, atol=1e-4) and np.allclose(y.std((0, 2, 3)), 1, atol=1e-3)


def test_a_function_of_the_schema_takes_the_schema_s_defaults(only_opaque):
    only_opaque("MeanVarianceNormalization")
    x = np.random.default_rng(0).normal(3, 2, (2, 2, 4, 4)).astype(np.float32)
    given, default = (
        interp.run(module("g (float[2, 2, 4, 4] x) => (float y) { y = MeanVarianceNormalization " + a + " (x) }"), {"x": x})["y"]
        for a in ("<axes = [0, 2, 3]>", "")
    )
    assert np.array_equal(given, default)
