"""Small models of every kind of step, whose sizes change from run to run: what `soak.py` runs beside the real ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class SoakModel:
    """A text with weights `NAME: shape` to be filled in, and for each input its shape; sizes by the letters of `most` change."""

    name: str
    text: str
    weights: dict[str, tuple[int, ...]]
    inputs: dict[str, tuple[int | str, ...]]
    most: dict[str, int]
    integers: int = 0  # inputs are i64 below it, if it is not 0

    def model(self) -> onnx.ModelProto:
        types = dict.fromkeys(self.inputs, "int64" if self.integers else "float")
        given = ", ".join(f"{types[n]}[{','.join(map(str, s))}] {n}" for n, s in self.inputs.items())
        body = re.sub(r"\s+", " ", self.text)
        m = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> m ({given}) => (float[] y) {{ {body} }}'
        )
        m.graph.output[0].type.tensor_type.ClearField("shape")
        r = np.random.default_rng(len(self.text))
        for n, shape in self.weights.items():
            w = r.standard_normal(shape).astype("f4") * np.float32(0.3 / max(1, np.prod(shape[1:])) ** 0.5)
            m.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5) + w if n.startswith("g") else w, n))
        return m

    def feeds(self, seed: int) -> Feeds:
        """Inputs of sizes that the seed chooses."""
        r = np.random.default_rng(seed)
        sizes = {d: int(r.integers(1, most + 1)) for d, most in self.most.items()}
        shapes = {n: [sizes[d] if isinstance(d, str) else d for d in s] for n, s in self.inputs.items()}
        if self.integers:
            return {n: r.integers(0, self.integers, s) for n, s in shapes.items()}
        return {n: r.standard_normal(s).astype("f4") for n, s in shapes.items()}


IMAGE = SoakModel(
    "image",
    """a = Conv<pads=[1,1,1,1]>(x, k0) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, k1) d = Conv<pads=[1,1,1,1], group=32>(c, k2)
    e = HardSwish(d) f = Add(e, b) p = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[0,0,1,1]>(f)
    s = Constant<value_floats=[1.0,1.0,2.0,2.0]>() u = Resize<mode="linear">(p, , s) g = GlobalAveragePool(u)
    h = Flatten(g) l = Gemm(h, w, v) y = Softmax(l)""",
    {"k0": (32, 3, 3, 3), "k1": (32, 32, 3, 3), "k2": (32, 1, 3, 3), "w": (32, 10), "v": (10,)},
    {"x": ("n", 3, "h", "w")},
    {"n": 3, "h": 40, "w": 40},
)
TRANSFORMER = SoakModel(
    "transformer",
    """e = Gather(table, ids) n0 = LayerNormalization(e, g0) qp = MatMul(n0, wq) kp = MatMul(n0, wk) vp = MatMul(n0, wv)
    s = Constant<value_ints=[0,0,4,16]>() q0 = Reshape(qp, s) k0 = Reshape(kp, s) v0 = Reshape(vp, s)
    q = Transpose<perm=[0,2,1,3]>(q0) k = Transpose<perm=[0,2,3,1]>(k0) v = Transpose<perm=[0,2,1,3]>(v0)
    qk = MatMul(q, k) d = Constant<value_float=0.25>() sc = Mul(qk, d) p = Softmax<axis=-1>(sc) o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0) t = Constant<value_ints=[0,0,64]>() o2 = Reshape(o1, t) o = MatMul(o2, wo) r = Add(o, e)
    n1 = LayerNormalization(r, g1) f0 = MatMul(n1, w0) f1 = Gelu(f0) f2 = MatMul(f1, w1) y = Add(f2, r)""",
    {"table": (100, 64), "g0": (64,), "g1": (64,), "wq": (64, 64), "wk": (64, 64), "wv": (64, 64), "wo": (64, 64),
     "w0": (64, 256), "w1": (256, 64)},
    {"ids": ("b", "t")},
    {"b": 4, "t": 64},
    100,
)  # fmt: skip
TAGGER = SoakModel(
    "tagger",
    """h, z = LSTM<hidden_size=24, direction="bidirectional">(x, w, r, c) t = Transpose<perm=[0,2,1,3]>(h)
    s = Constant<value_ints=[0,0,48]>() f = Reshape(t, s) m = MatMul(f, v) y = LogSoftmax<axis=-1>(m)""",
    {"w": (2, 96, 20), "r": (2, 96, 24), "c": (2, 192), "v": (48, 7)},
    {"x": ("t", "b", 20)},
    {"t": 40, "b": 5},
)
QUANTIZED = SoakModel(
    "quantized",
    """q, s, z = DynamicQuantizeLinear(x) ws = Constant<value = float {0.02}>() wz = Constant<value = int8 {0}>()
    w = QuantizeLinear(v, ws, wz) m = MatMulInteger(q, w, z, wz) f = Cast<to=1>(m) a = Mul(f, s) y = Mul(a, ws)""",
    {"v": (48, 33)},
    {"x": ("b", "t", 48)},
    {"b": 4, "t": 50},
)
BRANCHES = SoakModel(
    "branches",
    """m = ReduceMean<keepdims=0>(x) o = Constant<value_float=0.0>() c = Greater(m, o)
    i = If (c) <then_branch = then () => (float[n,k] t) { t = MatMul(x, a) },
                else_branch = other () => (float[n,k] u) { e = MatMul(x, b) u = Tanh(e) }>
    p = Greater(i, o) nz = NonZero(p) tr = Transpose<perm=[1,0]>(nz) g = GatherND(i, tr)
    k = Constant<value_ints=[1]>() r = Constant<value_ints=[-1]>() pad = Concat<axis=0>(g, one) best, at = TopK(pad, k)
    zero = Constant<value_int=0>() l = CumSum(pad, zero) st = Mul(l, best) y = Reshape(st, r)""",
    {"a": (16, 9), "b": (16, 9), "one": (1,)},
    {"x": ("n", 16)},
    {"n": 60},
)
LOOP = SoakModel(
    "loop",
    """s = Shape<start=0, end=1>(x) e = Squeeze(s) c = Constant<value = bool {1}>() 
    f = Constant<value_floats=[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0]>()
    y, rows = Loop (e, c, f) <body = step (int64 i, bool go, float[8] h) => (bool more, float[8] h1, float[8] row) {
        more = Identity(go) xi = Gather<axis=0>(x, i) m = MatMul(h, w) a = Add(m, xi) h1 = Tanh(a) row = Mul(h1, h1) }>""",
    {"w": (8, 8)},
    {"x": ("t", 8)},
    {"t": 30},
)
MODELS = (IMAGE, TRANSFORMER, TAGGER, QUANTIZED, BRANCHES, LOOP)
