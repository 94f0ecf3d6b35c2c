"""NaN, infinities, denormals and signed zero: kernels give what onnx.reference or ONNX Runtime gives, element by element.

The two differ from each other where ONNX says nothing (the sign of a zero, Clip with a bound that is NaN): either is right. ONNX Runtime
flushes some denormals and treats tiny arguments of Elu as zero, onnx.reference does not.
"""

from __future__ import annotations

import graphmill as gm
import numpy as np
import onnx
import onnx.reference
import pytest
from graphmill.kernels.cpu.tiling import architecture

ort = pytest.importorskip("onnxruntime")

INF, NAN, TINY = np.inf, np.nan, 2.0**-126
ONE = np.float32([0, -0.0, 1, -1, 2.5, -2.5, 1e-45, -1e-45, 1e-39, -1e-39, TINY, -TINY, 3.4e38, -3.4e38, INF, -INF, NAN, 0.5, -0.5,
                  88, -88, 104, -104, 1e10, -1e10, 3, -3, 6, -6])  # fmt: skip
LEFT, RIGHT = (x.ravel().copy() for x in np.meshgrid(ONE, ONE))


def answers(body: str, feeds: dict[str, np.ndarray], result: str = "float") -> tuple[np.ndarray, list[np.ndarray]]:
    """graphmill's result (all nodes native), and those of onnx.reference and ONNX Runtime as far as they have one."""
    shapes = {n: f"[{','.join(map(str, a.shape))}]" * (a.ndim > 0) for n, a in feeds.items()}
    inputs = ", ".join(f"float{shapes[n]} {n}" for n in feeds)
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> m ({inputs}) => ({result} y) {{ {body} }}')
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    got = gm.compile(model, strict_native=True).run(feeds)["y"]
    others = []
    with np.errstate(all="ignore"):
        others.append(np.asarray(onnx.reference.ReferenceEvaluator(model).run(None, feeds)[0]))
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        others.append(session.run(None, feeds)[0])
    return got, others


def equal(a: np.ndarray, b: np.ndarray, rtol: float) -> np.ndarray:
    """Where two results are the same: NaN is NaN, zeros have one sign, denormals are within a unit."""
    if a.dtype == bool:
        return a == b
    with np.errstate(all="ignore"):
        return np.isclose(a, b, rtol, 1.5e-45, equal_nan=True) & ((a != 0) | (b != 0) | (np.signbit(a) == np.signbit(b)))


def check(body: str, feeds: dict[str, np.ndarray], result: str = "float", rtol: float = 5e-6) -> None:
    got, others = answers(body, feeds, result)
    others = [o for o in others if o.shape == got.shape]  # onnx.reference's GlobalMaxPool drops the axes
    assert others and all(o.dtype == got.dtype for o in others)
    wrong = ~np.logical_or.reduce([equal(got, o, rtol) for o in others])
    told = [a[wrong][:8].tolist() for a in [*(x for x in feeds.values() if x.shape == got.shape), got, *others]]
    assert not any(wrong.ravel()), f"operands of the result's shape, result, onnx.reference, ONNX Runtime: {told}"


UNARY = """Abs Neg Sign Floor Ceil Round Sqrt Reciprocal Exp Log Erf Tanh Sigmoid Gelu Gelu<approximate="tanh"> Softplus Mish Elu Selu Celu
Relu LeakyRelu HardSigmoid HardSwish Softsign ThresholdedRelu Shrink Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Identity"""


@pytest.mark.parametrize("op", UNARY.split())
def test_unary(op: str) -> None:
    x = (
        np.delete(ONE, 1) if op == "Relu" and architecture() != "x86_64" else ONE
    )  # ours keeps -0, as ONNX Runtime's does on x86 alone
    check(f"y = {op}(x)", {"x": x}, rtol=5e-5 if op.startswith("Gelu") else 5e-6)  # 1 + erf(x) cancels below 0


@pytest.mark.parametrize("op", ["IsNaN", "IsInf", "IsInf<detect_negative=0>", "IsInf<detect_positive=0>"])
def test_tests(op: str) -> None:
    check(f"y = {op}(x)", {"x": ONE}, "bool")


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu", "Mod<fmod=1>"])
def test_binary(op: str) -> None:
    check(f"y = {op}(a, b)", {"a": LEFT, "b": RIGHT})


@pytest.mark.parametrize("op", ["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"])
def test_comparisons(op: str) -> None:
    check(f"y = {op}(a, b)", {"a": LEFT, "b": RIGHT}, "bool")


@pytest.mark.parametrize("low", [-1, 0, -0.0, -INF, 2, 1e-39])
@pytest.mark.parametrize("high", [1, 0, INF, 1e-39])
def test_clip(low: float, high: float) -> None:
    check("y = Clip(x, l, h)", {"x": ONE, "l": np.array(low, np.float32), "h": np.array(high, np.float32)})


# Rows and columns with one special value each, and none.
ROWS = np.random.default_rng(0).standard_normal((14, 37)).astype(np.float32)
ROWS[1, 3], ROWS[2, 36], ROWS[3, 0], ROWS[4, [5, 9]], ROWS[5, [1, 2]] = NAN, INF, -INF, (INF, -INF), (NAN, INF)
ROWS[6], ROWS[7], ROWS[8], ROWS[9], ROWS[10] = -INF, 0, -0.0, 1e-39, 3e38
ROWS[11], ROWS[12, 20] = -1e30, 3e38
TALL = ROWS.T.copy()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"])
def test_reductions(op: str, axis: int) -> None:
    x = ROWS if axis else TALL
    if op == "LogSum":
        x = np.abs(x)  # ONNX Runtime's logarithm of a negative sum is NaN as well, but that is not what is tested here
    check(f"a = Constant<value_ints=[{axis}]>() y = Reduce{op}<keepdims=0>(x, a)", {"x": x}, rtol=1e-4)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_positions_of_extremes(op: str) -> None:
    """Which of several NaN counts, and whether any does, ONNX leaves open: rows without."""
    check(f"y = {op}<axis=1, keepdims=0>(x)", {"x": ROWS[~np.isnan(ROWS).any(1)]}, "int64")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax(op: str, axis: int) -> None:
    check(f"y = {op}<axis={axis}>(x)", {"x": ROWS if axis else TALL}, rtol=1e-4)


NORMS = {
    "layer": "y = LayerNormalization(x, g)",
    "instance": "s = Constant<value_ints=[1, 14, 37]>() r = Reshape(x, s) n = InstanceNormalization(r, h, h) "
                "t = Constant<value_ints=[14, 37]>() y = Reshape(n, t)",
    "lp": "y = LpNormalization<axis=1, p=2>(x)",
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_normalizations(name: str) -> None:
    """A special value stays in its row. Rows whose squares overflow are left out: they hang on the order of sums."""
    weights = {"layer": {"g": np.ones(37, "f4")}, "instance": {"h": np.ones(14, "f4")}, "lp": {}}
    keep = np.array([i not in (9, 10, 11, 12) for i in range(14)])
    x = np.where(keep[:, None], ROWS, 1).astype("f4")
    check(NORMS[name], {"x": x, **weights[name]}, rtol=1e-4)


POOLS = ["MaxPool<kernel_shape=[3]>", "AveragePool<kernel_shape=[3]>", "MaxPool<kernel_shape=[4], pads=[1,2], strides=[2]>",
         "AveragePool<kernel_shape=[4], pads=[1,2], strides=[2]>", "GlobalMaxPool", "GlobalAveragePool",
         "LpPool<kernel_shape=[3]>"]  # fmt: skip


@pytest.mark.parametrize("op", POOLS)
@pytest.mark.parametrize("image", [False, True])
def test_pools(op: str, image: bool) -> None:
    """Of one axis, and of two with 16 channels (which lie last then). Maxima of NaN have a test of their own."""
    rows = ROWS[~np.isnan(ROWS).any(1)] if "Max" in op else ROWS
    if op == "GlobalMaxPool":
        rows = rows[~np.isneginf(rows).all(1)]  # of which ONNX Runtime makes the lowest number
    if not image:
        check(f"y = {op}(x)", {"x": rows[None]}, rtol=1e-4)
        return
    x = np.tile(rows[:, None, :], (1, 5, 1))[None]
    for attr in ("kernel_shape", "strides"):
        for n in "234":
            op = op.replace(f"{attr}=[{n}]", f"{attr}=[{n},{n}]")
    check(f"y = {op.replace('pads=[1,2]', 'pads=[1,1,2,2]')}(x)", {"x": x}, rtol=1e-4)


@pytest.mark.parametrize("at", range(5))
def test_the_maximum_of_nan_is_nan(at: int) -> None:
    """As with `reduce_max`, wherever in the window it is. (ONNX says nothing; onnx.reference and ONNX Runtime pass over it in MaxPool.)"""
    x = np.arange(5, dtype=np.float32)
    x[at] = NAN
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        m (float[1,1,5] x) => (float[1,1,1] y, float[1,1,1] z) { y = MaxPool<kernel_shape=[5]>(x) z = GlobalMaxPool(x) }""")
    assert all(np.isnan(v).all() for v in gm.compile(model, strict_native=True).run({"x": x[None, None]}).values())


@pytest.mark.parametrize("op", ["Relu", "Clip(p, l, h)", "Max(p, l)", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "HardSwish"])
def test_epilogues(op: str) -> None:
    """After a product, in its registers: a NaN or infinity of the product's result comes through."""
    x = np.float32([[NAN] * 3, [INF, 0, 1], [-INF, 0, 1], [0, 0, 0], [1, 2, 3], [-3e38, -3e38, 0], [1e-39, 0, 0]])
    w = np.float32([[1, -1, 1, 1e-3], [1, 1, -1, 0], [0.5, 0.25, 0, 0]])
    call = op if "(" in op else f"{op}(p)"
    bounds = {"l": np.array(-1, "f4"), "h": np.array(1, "f4")} if "l" in call[call.index("(") :] else {}
    check(f"p = MatMul(x, w) y = {call}", {"x": x, "w": w} | {k: bounds[k] for k in bounds if f" {k}" in call}, rtol=1e-4)
