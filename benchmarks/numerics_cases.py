"""What numerics.py measures: small models for each kernel family, and the functions of one number with their float64 forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

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
        conv("5x5 to 1 channel", (1, 40, 21, 21), (1, 40, 5, 5), "pads=[2,2,2,2]"),
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
        case("MatMulInteger, small weights", f"{zero} y = MatMulInteger(a, b, az, bz)", {"a": a, "b": ("int8", -20, 21)}, mats,
             "int32 y", ("b",)),
        case("QLinearMatMul", f"{zero} {scales} y = QLinearMatMul(a, s, az, b, s, bz, t, az)", ab, mats, "uint8 y", ("b",)),
        case("ConvInteger", f"{zero} y = ConvInteger<pads=[1,1,1,1]>(a, b, az, bz)", ab, images, "int32 y", ("b",)),
        case("QLinearConv", f"{zero} {scales} y = QLinearConv<pads=[1,1,1,1]>(a, s, az, b, s, bz, t, az)", ab, images, "uint8 y",
             ("b",)),
        case("QuantizeLinear", f"{zero} {scales} y = QuantizeLinear(x, s, az)", {}, {"x": (20_000,)}, "uint8 y"),
        case("DequantizeLinear", f"{zero} {scales} y = DequantizeLinear(a, s, az)", {"a": a}, {"a": (20_000,)}, "T y"),
        case("DynamicQuantizeLinear", "y, s, z = DynamicQuantizeLinear(x)", {}, {"x": (20_000,)}, "uint8 y"),
    ]  # fmt: skip
