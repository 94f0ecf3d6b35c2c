"""The largest error of each kernel family against float64.

usage: python benchmarks/numerics.py [--quick] [--markdown docs/numerics.md] [--json OUT] [NAME ...]

Each case is a small ONNX model. It runs on graphmill's CPU kernels, as they are and with accuracy="strict", on ONNX Runtime where
that is installed, and in float64: functions of one number by numpy and the C library, the others by graphmill's references
(plain numpy) with every tensor a float64. Operands are float32 numbers, so what is measured is the kernels' error alone.

Functions of one number are swept over every exponent of float32 with random mantissas, and evenly where they bend. For the others
each kind of operand that a case names is tried and the worst result counts: `normal` (of deviation 1), `wide` (magnitudes from
1e-6 to 1e6), `cancel` (sums that cancel to a rest of 1e-6), `offset` (a mean of 1000 deviations), `extreme` (integers at
both ends of their range).

ULP: the error in units of the last place of the float64 result; huge where a formula cancels and the result is near zero, which the
share of the scale shows better. The scale is what the case names: `abs`: the same computation over absolute values (sum |a||b| for
products), `max`: the largest result, `arg`: the larger of the operand's and the result's magnitude; 2^-24 = 6e-8 of it is half a
unit. `exact`: results are integers, the figure is the share of results that differ at all (ONNX Runtime's sums of u8 x s8 products
saturate on machines without VNNI).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import graphmill as gm
import machine
import numpy as np
import onnx
import onnx.parser
import speed

Arrays = dict[str, np.ndarray]
Exact = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model's text, in which T is the float type, and what to feed it.

    `shapes` has all operands, those in `constants` as initializers; integers where `ranges` gives (dtype, low, high). `kinds` are
    those of float operands. `exact` computes the result in float64; None: the references do.
    """

    family: str
    name: str
    body: str
    shapes: dict[str, tuple[int, ...]]
    constants: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("normal",)
    scale: str = "max"
    exact: Exact | None = None
    ranges: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    scaled: dict[str, float] = field(default_factory=dict)  # factors of operands, so that results are of order 1
    outputs: str = "T y"


# ---- functions of one number ------------------------------------------------------------------------------------


def each(f: Callable[[float], float]) -> Exact:
    """A function of floats, element by element; NaN outside its domain, infinity where it overflows."""

    def safe(x: float) -> float:
        try:
            return f(x)
        except OverflowError:
            return math.inf
        except ValueError:
            return math.nan

    return lambda x: np.array([safe(v) for v in x.tolist()])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.exp(np.minimum(x, 0)) / (1 + np.exp(np.minimum(x, 0))), 1 / (1 + np.exp(-np.maximum(x, 0))))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * each(math.erfc)(-x * math.sqrt(0.5))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


# operator, its value, its range of interest, attributes
UNARY: dict[str, tuple[str, Exact, float, float]] = {
    "exp": ("Exp", np.exp, -105, 90),
    "log": ("Log", np.log, 0, 4),
    "erf": ("Erf", each(math.erf), -5, 5),
    "tanh": ("Tanh", np.tanh, -11, 11),
    "sigmoid": ("Sigmoid", _sigmoid, -105, 105),
    "gelu": ("Gelu", _gelu, -15, 15),
    "gelu_tanh": ('Gelu<approximate="tanh">', _gelu_tanh, -15, 15),
    "silu": ("Swish", lambda x: x * _sigmoid(x), -105, 105),
    "softplus": ("Softplus", _softplus, -105, 105),
    "mish": ("Mish", lambda x: x * np.tanh(_softplus(x)), -105, 105),
    "elu": ("Elu", lambda x: np.where(x < 0, np.expm1(x), x), -20, 1),
    "selu": ("Selu", lambda x: float(np.float32(1.0507010221481323)) * np.where(
        x <= 0, float(np.float32(1.6732631921768188)) * np.expm1(x), x), -20, 1),
    "hard_swish": ("HardSwish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1), -4, 4),
    "softsign": ("Softsign", lambda x: x / (1 + np.abs(x)), -4, 4),
    "sqrt": ("Sqrt", np.sqrt, 0, 4),
    "reciprocal": ("Reciprocal", lambda x: 1 / x, -4, 4),
    "sin": ("Sin", np.sin, -100, 100),
    "cos": ("Cos", np.cos, -100, 100),
    "tan": ("Tan", np.tan, -100, 100),
    "asin": ("Asin", np.arcsin, -1, 1),
    "acos": ("Acos", np.arccos, -1, 1),
    "atan": ("Atan", np.arctan, -10, 10),
    "sinh": ("Sinh", np.sinh, -90, 90),
    "cosh": ("Cosh", np.cosh, -90, 90),
    "asinh": ("Asinh", np.arcsinh, -10, 10),
    "acosh": ("Acosh", np.arccosh, 1, 10),
    "atanh": ("Atanh", np.arctanh, -1, 1),
}  # fmt: skip


def sweep(low: float, high: float, number: int) -> np.ndarray:
    """About `number` finite float32: every exponent and sign with random mantissas, and a range evenly."""
    r = np.random.default_rng(0)
    each_exponent = max(1, number // 2 // 510)
    codes = np.arange(510, dtype=np.uint32) // 255 * 2**31 + np.arange(510, dtype=np.uint32) % 255 * 2**23
    random = (codes[:, None] + r.integers(0, 2**23, (510, each_exponent), dtype=np.uint32)).view(np.float32).ravel()
    return np.concatenate([random, np.linspace(low, high, number // 2).astype(np.float32), np.float32([0, -0.0, 1, -1])])


# ---- the cases --------------------------------------------------------------------------------------------------

SUMS = ("normal", "wide", "cancel")


def cases() -> list[Case]:
    return [*_functions(), *_products(), *_convolutions(), *_reductions(), *_rows(), *_recurrent(), *_moved(), *_quantized()]


def _functions() -> list[Case]:
    out = [Case("elementwise", n, f"y = {op}(x)", {"x": (-1,)}, scale="arg", exact=f) for n, (op, f, *_) in UNARY.items()]
    for name, op, f in (("pow", "Pow", np.power), ("div", "Div", np.divide)):
        out.append(Case("elementwise", name, f"y = {op}(a, b)", {"a": (200_000,), "b": (200_000,)}, kinds=("powers",), exact=f))
    return out


def _products() -> list[Case]:
    wide = {"w": 1 / 28}
    return [
        Case("product", "matmul", "y = MatMul(x, w)", {"x": (48, 768), "w": (768, 96)}, ("w",), SUMS, "abs", scaled=wide),
        Case("product", "matmul, one row", "y = MatMul(x, w)", {"x": (1, 768), "w": (768, 96)}, ("w",), SUMS, "abs", scaled=wide),
        Case("product", "matmul, long sums", "y = MatMul(x, w)", {"x": (6, 20_000), "w": (20_000, 16)}, ("w",), SUMS, "abs"),
        Case("product", "matmul, batched", "y = MatMul(x, w)", {"x": (3, 20, 64), "w": (3, 64, 40)}, (), SUMS, "abs"),
        Case("product", "gemm, bias, relu", "g = Gemm(x, w, b) y = Relu(g)", {"x": (33, 256), "w": (256, 65), "b": (65,)},
             ("w", "b"), ("normal", "wide"), "abs"),
        Case("product", "gemm, gelu", "g = Gemm(x, w, b) y = Gelu(g)", {"x": (33, 256), "w": (256, 65), "b": (65,)},
             ("w", "b"), scaled={"w": 1 / 16}),
        Case("product", "einsum", 'y = Einsum<equation="bij,bkj->bik">(x, w)', {"x": (2, 30, 100), "w": (2, 20, 100)}, (), SUMS,
             "abs"),
    ]  # fmt: skip


def _convolutions() -> list[Case]:
    def conv(
        name: str, x: tuple[int, ...], w: tuple[int, ...], attrs: str, op: str = "Conv", kinds: tuple[str, ...] = SUMS
    ) -> Case:
        size = math.prod(w[1:]) if op == "Conv" else w[0] * math.prod(w[2:])
        shapes = {"x": x, "w": w, "b": (w[0] if op == "Conv" else w[1],)}
        return Case("convolution", name, f"y = {op}<{attrs}>(x, w, b)", shapes, ("w", "b"), kinds, "abs", scaled={"w": size**-0.5})

    same = "pads=[1,1,1,1]"
    return [
        conv("3x3, 64 channels", (1, 64, 21, 21), (64, 64, 3, 3), same, kinds=("normal",)),
        conv("3x3, 64 channels, wide", (1, 64, 21, 21), (64, 64, 3, 3), same, kinds=("wide", "cancel")),
        conv("3x3, 512 channels", (1, 512, 8, 8), (64, 512, 3, 3), same, kinds=("normal",)),
        conv("1x1", (1, 96, 14, 14), (64, 96, 1, 1), "strides=[1,1]"),
        conv("3x3, stride 2", (1, 48, 21, 21), (64, 48, 3, 3), f"{same}, strides=[2,2]"),
        conv("7x7 of 3 channels", (1, 3, 40, 40), (64, 3, 7, 7), "pads=[3,3,3,3], strides=[2,2]"),
        conv("5x5, 20 channels", (1, 20, 15, 15), (24, 20, 5, 5), "pads=[2,2,2,2]"),
        conv("depthwise 3x3", (1, 64, 21, 21), (64, 1, 3, 3), f"{same}, group=64"),
        conv("grouped", (1, 32, 15, 15), (48, 8, 3, 3), f"{same}, group=4"),
        conv("1-d", (2, 24, 100), (32, 24, 5), "pads=[2,2]"),
        conv("transposed", (1, 16, 9, 9), (16, 24, 4, 4), f"{same}, strides=[2,2]", "ConvTranspose"),
    ]


def _reductions() -> list[Case]:
    out = []
    for name, kinds, scale in (("Sum", SUMS, "abs"), ("Mean", SUMS, "abs"), ("SumSquare", SUMS[:2], "abs"), ("L1", SUMS, "abs"),
                               ("L2", SUMS[:2], "max"), ("LogSumExp", SUMS[:1], "max"), ("Prod", ("one",), "max")):  # fmt: skip
        for where, axis, shape in (("last", -1, (7, 40_000)), ("first", 0, (3_000, 37))):
            body = f"a = Constant<value_ints=[{axis}]>() y = Reduce{name}<keepdims=0>(x, a)"
            out.append(Case("reduction", f"{name}, {where} axis", body, {"x": shape}, kinds=kinds, scale=scale))
    pools = {"AveragePool": "AveragePool<kernel_shape=[5,5], pads=[2,2,2,2]>", "GlobalAveragePool": "GlobalAveragePool",
             "LpPool": "LpPool<kernel_shape=[5,5]>"}  # fmt: skip
    for name, op in pools.items():
        out.append(
            Case("pool", name, f"y = {op}(x)", {"x": (1, 24, 60, 60)}, kinds=SUMS[: 2 if name == "LpPool" else 3], scale="abs")
        )
    out.append(Case("pool", "MaxPool", "y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(x)", {"x": (1, 24, 60, 60)}, kinds=SUMS))
    body = "a = Constant<value_int=1>() y = CumSum(x, a)"
    return [*out, Case("reduction", "CumSum", body, {"x": (5, 5_000)}, kinds=SUMS[:2], scale="abs")]


def _rows() -> list[Case]:
    norm = {"x": (40, 768), "g": (768,), "b": (768,)}
    image = {"x": (2, 16, 30, 30), "g": (16,), "b": (16,)}
    out = []
    for tag, kinds in (("", ("normal",)), (", mean 1000 deviations", ("offset",))):
        out += [
            Case("normalization", f"layer_norm{tag}", "y = LayerNormalization(x, g, b)", norm, ("g", "b"), kinds),
            Case("normalization", f"instance_norm{tag}", "y = InstanceNormalization(x, g, b)", image, ("g", "b"), kinds),
            Case("normalization", f"group_norm{tag}", "y = GroupNormalization<num_groups=4>(x, g, b)", image, ("g", "b"), kinds),
        ]
    batch = {**image, "m": (16,), "v": (16,)}
    return [
        Case("softmax", "softmax", "y = Softmax(x)", {"x": (40, 1000)}, kinds=("normal", "offset")),
        Case("softmax", "softmax, first axis", "y = Softmax<axis=0>(x)", {"x": (300, 37)}, kinds=("normal", "offset")),
        Case("softmax", "log_softmax", "y = LogSoftmax(x)", {"x": (40, 1000)}),
        *out,
        Case("normalization", "rms_norm", "y = RMSNormalization(x, g)", {k: norm[k] for k in "xg"}, ("g",), SUMS[:2]),
        Case("normalization", "batch_norm", "y = BatchNormalization(x, g, b, m, v)", batch, ("g", "b", "m", "v"),
             ranges={"v": ("T", 1, 4)}),
        Case("normalization", "lrn", "y = LRN<size=5>(x)", {"x": image["x"]}),
        Case("attention", "attention", "y = Attention(q, k, v)", dict.fromkeys("qkv", (2, 4, 70, 64))),
        Case("attention", "attention, causal", "y = Attention<is_causal=1>(q, k, v)", dict.fromkeys("qkv", (2, 4, 70, 64))),
    ]  # fmt: skip


def _recurrent() -> list[Case]:
    def net(op: str, gates: int, more: str = "") -> Case:
        h, i = 48, 40
        shapes = {"x": (30, 3, i), "w": (1, gates * h, i), "r": (1, gates * h, h), "b": (1, 2 * gates * h)}
        scaled = {"w": i**-0.5, "r": h**-0.5}
        body = f"z, y = {op}<hidden_size={h}{more}>(x, w, r, b)"
        return Case("recurrent", f"{op}{more.replace(', ', ' ')}", body, shapes, ("w", "r", "b"), scaled=scaled)

    return [net("LSTM", 4), net("GRU", 3), net("GRU", 3, ", linear_before_reset=1"), net("RNN", 1)]


def _moved() -> list[Case]:
    def resize(mode: str) -> Case:
        body = f's = Constant<value_floats=[1.0,1.0,1.7,2.3]>() y = Resize<mode="{mode}">(x, , s)'
        return Case("resize", f"resize {mode}", body, {"x": (1, 8, 17, 19)}, kinds=SUMS[:2], scale="max")

    grid = {"x": (1, 8, 20, 20), "g": (1, 15, 15, 2)}
    return [
        resize("linear"),
        resize("cubic"),
        Case("resize", "grid_sample", 'y = GridSample<mode="linear">(x, g)', grid, scaled={"g": 0.5}),
    ]


def _quantized() -> list[Case]:
    a, b = ("uint8", 0, 255), ("int8", -128, 127)
    zero = "az = Constant<value = uint8 {128}>() bz = Constant<value = int8 {0}>()"
    scales = "s = Constant<value = float {0.01}>() t = Constant<value = float {0.5}>()"

    def case(name: str, body: str, ranges: dict, shapes: dict, outputs: str, constants: tuple[str, ...] = ()) -> Case:
        return Case("quantized", name, body, shapes, constants, ("extreme", "normal"), "exact", ranges=ranges, outputs=outputs)

    ab, mats = {"a": a, "b": b}, {"a": (19, 515), "b": (515, 49)}
    images = {"a": (1, 19, 12, 12), "b": (33, 19, 3, 3)}
    return [
        case("MatMulInteger", f"{zero} y = MatMulInteger(a, b, az, bz)", ab, mats, "int32 y", ("b",)),
        case("QLinearMatMul", f"{zero} {scales} y = QLinearMatMul(a, s, az, b, s, bz, t, az)", ab, mats, "uint8 y", ("b",)),
        case("ConvInteger", f"{zero} y = ConvInteger<pads=[1,1,1,1]>(a, b, az, bz)", ab, images, "int32 y", ("b",)),
        case("QLinearConv", f"{zero} {scales} y = QLinearConv<pads=[1,1,1,1]>(a, s, az, b, s, bz, t, az)", ab, images, "uint8 y",
             ("b",)),
        case("QuantizeLinear", f"{zero} {scales} y = QuantizeLinear(x, s, az)", {}, {"x": (20_000,)}, "uint8 y"),
        case("DequantizeLinear", f"{zero} {scales} y = DequantizeLinear(a, s, az)", {"a": a}, {"a": (20_000,)}, "T y"),
        case("DynamicQuantizeLinear", "y, s, z = DynamicQuantizeLinear(x)", {}, {"x": (20_000,)}, "uint8 y"),
    ]  # fmt: skip


# ---- operands ---------------------------------------------------------------------------------------------------


def operands(case: Case, kind: str, quick: bool) -> Arrays:
    """Seeded float32 (and integer) operands of one kind."""
    if case.name in UNARY:
        return {"x": sweep(*UNARY[case.name][2:], 20_000 if quick else 400_000)}
    r = np.random.default_rng(len(case.name))
    out = {}
    for i, (name, shape) in enumerate(case.shapes.items()):
        if name in case.ranges:
            out[name] = _bounded(r, case.ranges[name], shape, kind)
        else:
            x = _floats(r, kind if i == 0 or kind in ("wide", "powers") else "normal", shape)
            out[name] = (x * case.scaled.get(name, 1)).astype(np.float32)
    if kind == "cancel":
        _pair_weights(case, out)
    return out


def _bounded(r: np.random.Generator, bounds: tuple[str, int, int], shape: tuple[int, ...], kind: str) -> np.ndarray:
    dtype, low, high = bounds
    if dtype == "T":
        return r.uniform(low, high, shape).astype(np.float32)
    ends = np.where(r.random(shape) < 0.9, high, low) if kind == "extreme" else r.integers(low, high + 1, shape)
    return ends.astype(dtype)


def _floats(r: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    x = r.standard_normal(shape)
    if kind == "wide":
        return x * 10.0 ** r.uniform(-6, 6, shape)
    if kind == "powers":
        return np.abs(x) * 2.0 ** r.uniform(-10, 10, shape)
    if kind == "offset":
        return x + 1000
    if kind == "one":
        return 1 + x * 1e-3
    if kind == "extreme":
        return np.where(x < 0, -1e6, 3e38) * r.random(shape)
    if kind == "cancel":
        # Pairs of opposite numbers along the axes that are summed (whichever these are), but for a rest of 1e-6.
        half = x.reshape(-1)
        half[1::2] = -half[: half.size // 2 * 2 : 2] * (1 + 1e-6 * r.standard_normal(half.size // 2))
    return x


def _pair_weights(case: Case, arrays: Arrays) -> None:
    """Equal weights for the two numbers of a pair, where the operand is a product's and they stand side by side."""
    if "w" in arrays and case.family == "product" and case.body.startswith("y = MatMul"):
        w = arrays["w"]
        w[..., 1::2, :] = w[..., : w.shape[-2] // 2 * 2 : 2, :]


# ---- models -----------------------------------------------------------------------------------------------------

ONNX_TYPES = {"float32": "float", "float64": "double", "uint8": "uint8", "int8": "int8"}


def model_of(case: Case, arrays: Arrays) -> onnx.ModelProto:
    """The case's model, its constants stored in it, for the element types of the arrays."""
    wide = any(a.dtype == np.float64 for a in arrays.values())
    inputs = ", ".join(
        f"{ONNX_TYPES[str(a.dtype)]}[{','.join(map(str, a.shape))}] {n}" for n, a in arrays.items() if n not in case.constants
    )
    text = f"""<ir_version: 10, opset_import: ["" : {24 if "Swish" in case.body else 23}]>
        m ({inputs}) => ({case.outputs}) {{ {case.body} }}"""
    model = onnx.parser.parse_model(text.replace("(T y)", f"({'double' if wide else 'float'} y)"))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(arrays[n], n) for n in case.constants)
    return model


def feeds(case: Case, arrays: Arrays) -> Arrays:
    return {n: a for n, a in arrays.items() if n not in case.constants}


def result(outputs: Any) -> np.ndarray:
    return np.asarray(outputs["y"])


def kernels(exe: gm.Executable) -> list[str]:
    """The kernels that a compiled model runs."""
    return [s.source.variant or s.node.op.name for s in exe.plan.steps if hasattr(s, "source")]


def in_float64(case: Case, arrays: Arrays) -> np.ndarray:
    """The result in float64, or of the integers' references where the case is exact."""
    if case.exact is not None:
        with np.errstate(all="ignore"):
            return case.exact(*(a.astype(np.float64) for a in arrays.values()))
    if case.scale != "exact":
        arrays = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in arrays.items()}
    with np.errstate(all="ignore"):
        return result(gm.compile(model_of(case, arrays), target="reference").run(feeds(case, arrays)))


def onnxruntime(case: Case, arrays: Arrays) -> np.ndarray | None:
    """ONNX Runtime's result with all optimisations; None where it is not installed or does not know the operator."""
    try:
        import onnxruntime as ort
    except ImportError:
        return None
    o = ort.SessionOptions()
    o.intra_op_num_threads, o.log_severity_level = 1, 4
    try:
        session = ort.InferenceSession(model_of(case, arrays).SerializeToString(), o, providers=["CPUExecutionProvider"])
        return session.run(["y"], feeds(case, arrays))[0]
    except Exception:  # it has no kernel for the operator, and says so by errors of several kinds
        return None


# ---- errors -----------------------------------------------------------------------------------------------------


@dataclass
class Errors:
    """Of one engine: in units of the last place, and as a share of the scale (or of the results that differ)."""

    ulp: float
    scale: float

    def worse(self, other: Errors | None) -> Errors:
        return self if other is None else Errors(max(self.ulp, other.ulp), max(self.scale, other.scale))


def errors(got: np.ndarray, want: np.ndarray, scale: np.ndarray) -> Errors:
    """The largest errors where float32 can hold the result. Infinite where one is NaN or infinite and the other is not."""
    with np.errstate(all="ignore"):
        nearest = want.astype(np.float32)
        odd = (np.isnan(got) != np.isnan(want)) | (np.isinf(got) & (np.abs(want) < 3.40e38)) | (np.isinf(want) & (got != want))
        if odd.any():
            return Errors(math.inf, math.inf)
        fine = np.isfinite(nearest) & np.isfinite(got)
        error = np.abs(got[fine].astype(np.float64) - want[fine])
        share = np.divide(error, np.broadcast_to(scale, want.shape)[fine], out=np.zeros_like(error), where=error > 0)
        return Errors(float((error / np.spacing(np.abs(nearest[fine]))).max(initial=0)), float(share.max(initial=0)))


def scale_of(case: Case, arrays: Arrays, want: np.ndarray) -> np.ndarray:
    """What errors are compared with; at least the smallest normal number, below which all rounding is coarse."""
    if case.scale == "abs":
        scale = in_float64(case, {n: np.abs(a) for n, a in arrays.items()})
    elif case.scale == "arg":
        scale = np.maximum(np.abs(want), np.abs(arrays["x"].astype(np.float64)))
    else:
        scale = np.max(np.abs(want[np.abs(want) < np.finfo(np.float32).max]))
    return np.maximum(scale, np.finfo(np.float32).tiny)


@dataclass
class Row:
    """What was found for a case: errors of each engine, and the kernels that ran."""

    family: str
    name: str
    scale: str
    kernels: list[str]
    strict_kernels: list[str]
    found: dict[str, Errors]


def measure(case: Case, quick: bool = False, peers: bool = True) -> Row:
    """The worst errors of a case over its kinds of operands."""
    row = Row(case.family, case.name, case.scale, [], [], {})
    for kind in case.kinds:
        arrays = operands(case, kind, quick)
        want, model = in_float64(case, arrays), model_of(case, arrays)
        fast, strict = (gm.compile(model, threads=1, accuracy=a, strict_native=True) for a in ("fast", "strict"))
        row.kernels, row.strict_kernels = kernels(fast), kernels(strict)
        got = {"fast": result(fast.run(feeds(case, arrays))), "strict": result(strict.run(feeds(case, arrays)))}
        if peers and (theirs := onnxruntime(case, arrays)) is not None:
            got["onnxruntime"] = theirs
        if case.scale != "exact":
            scale = scale_of(case, arrays, want)
        for engine, y in got.items():
            here = Errors(0, float((y != want).mean())) if case.scale == "exact" else errors(y, want, scale)
            row.found[engine] = here.worse(row.found.get(engine))
    return row


# ---- the page ---------------------------------------------------------------------------------------------------

ENGINES = ("fast", "strict", "onnxruntime")


def table(rows: Sequence[Row]) -> str:
    heads = ("family", "case", "kernel", "scale", *(f"{e}, ULP" for e in ENGINES), *(f"{e}, of scale" for e in ENGINES))

    def shown(r: Row, engine: str, column: str) -> str:
        e = r.found.get(engine)
        if e is None or (column == "ulp" and r.scale in ("abs", "exact")):
            return ""
        if column == "scale":
            return f"{e.scale:.1e}" if e.scale else "0"
        return f"{e.ulp:.2f}" if e.ulp < 100 else f"{e.ulp:.0e}"

    cells = [
        (r.family, r.name, ", ".join(r.kernels), r.scale, *(shown(r, e, c) for c in ("ulp", "scale") for e in ENGINES))
        for r in rows
    ]
    return speed.markdown_table(heads, cells)


NOTES = """NaN, infinities, denormals and signed zeros give what onnx.reference or ONNX Runtime gives, element by element
(`tests/kernels/cpu/test_special_values.py`), and denormals are not flushed. One thing is decided otherwise: NaN is the largest of a
MaxPool, as of a ReduceMax, where both others pass over it. Errors above stay below twice these figures on every machine that runs
`tests/benchmarks/test_numerics.py`, which also holds accuracy="strict" to kernels without Winograd."""


def page(rows: Sequence[Row], command: str) -> str:
    paragraphs = [" ".join(p.split()) for p in (__doc__ or "").split("\n\n") if not p.startswith("usage")]
    return (
        "\n\n".join(
            ["# Numeric errors", machine.made_by(command).strip(), *paragraphs, table(rows).rstrip(), " ".join(NOTES.split())]
        )
        + "\n"
    )


def main(arguments: list[str] | None = None) -> int:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("names", nargs="*", help="cases or families (default: all)")
    ap.add_argument("--quick", action="store_true", help="sweep functions over fewer numbers")
    ap.add_argument("--markdown")
    ap.add_argument("--json")
    a = ap.parse_args(arguments)
    rows = []
    for case in cases():
        if a.names and not {case.name, case.family} & set(a.names):
            continue
        row = measure(case, a.quick)
        rows.append(row)
        figures = "  ".join(f"{e} {x.ulp:.3g} ULP, {x.scale:.2g}" for e, x in row.found.items())
        print(f"{row.family:14} {row.name:28} {figures}  {', '.join(row.kernels)}", flush=True)
    if a.json:
        Path(a.json).write_text(json.dumps({"machine": machine.machine(), "rows": [asdict(r) for r in rows]}, indent=1))
    if a.markdown:
        Path(a.markdown).write_text(page(rows, f"python benchmarks/numerics.py{' --quick' * a.quick} --markdown {a.markdown}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
