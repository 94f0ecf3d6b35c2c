"""Binding for sizes that are new, on CUDA: how work is cut hangs on sizes, and nearly all of them are bound by what was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from .rebinding import checked_recipes
from .test_rebind import MODELS, compiled, feed, symbols_of

ENCODER = """m (float[B, N, 64] x) => (float[B, N, 64] y) {
    wide = Constant <value_ints = [64, 64]> ()  deep = Constant <value_ints = [64, 256]> ()  back = Constant <value_ints = [256, 64]> ()
    w = ConstantOfShape <value = float[1] {0.01}> (wide)  u = ConstantOfShape <value = float[1] {0.01}> (deep)
    v = ConstantOfShape <value = float[1] {0.01}> (back)  one = Constant <value_ints = [64]> ()
    g = ConstantOfShape <value = float[1] {1.0}> (one)  heads = Constant <value_ints = [0, 0, 4, 16]> ()
    q = MatMul (x, w)  k = MatMul (x, w)  r = MatMul (x, w)
    qh = Reshape (q, heads)  kh = Reshape (k, heads)  vh = Reshape (r, heads)
    qt = Transpose <perm = [0, 2, 1, 3]> (qh)  kt = Transpose <perm = [0, 2, 3, 1]> (kh)  vt = Transpose <perm = [0, 2, 1, 3]> (vh)
    s = MatMul (qt, kt)  p = Softmax (s)  o = MatMul (p, vt)  ot = Transpose <perm = [0, 2, 1, 3]> (o)
    flat = Constant <value_ints = [0, 0, 64]> ()  f = Reshape (ot, flat)  z = MatMul (f, w)  a = Add (z, x)
    n = LayerNormalization (a, g)  d = MatMul (n, u)  e = Relu (d)  h = MatMul (e, v)  i = Add (h, n)  y = LayerNormalization (i, g) }"""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("contents", "found", "branch")])
def test_equals_a_walk(name: str, precision: str) -> None:
    """Word by word, for sizes around those where another way of cutting is taken; the null device makes no contents."""
    exe, rng = compiled(MODELS[name], target="cuda", device="null", precision=precision), np.random.default_rng(0)
    names = symbols_of(exe)
    with checked_recipes() as seen:
        for n in [1, 0, *(int(2**x) for x in rng.uniform(1, 9, 24))]:
            exe.run(feed(exe, rng, **{s: n + i for i, s in enumerate(names)}))
    assert seen.rebound >= 8


def test_nearly_all_sizes_are_rebound() -> None:
    """Of 60 lengths of an encoder a handful is recorded, whichever tile, team or split each of them gets."""
    exe, rng = compiled(ENCODER, target="cuda", device="null", precision="fp16"), np.random.default_rng(0)
    with checked_recipes() as seen:
        for n in rng.permutation(np.arange(1, 600, 10)).tolist():
            exe.run(feed(exe, rng, B=1 + n % 4, N=n))
    assert seen.rebound == 59 and 1 <= seen.recorded <= 8
