"""Random graphs: where the padding analysis proves that rows are independent, what is padded changes no bit of the true rows."""

from __future__ import annotations

import warnings

import graphmill as gm
import numpy as np
from graphmill.ir.errors import GraphmillError
from graphmill.ir.infer import input_symbols
from graphmill.ir.padding import analyse
from graphmill.ir.symbols import evaluate, symbols_of
from graphs import G, graphs
from hypothesis import event, given
from hypothesis import strategies as st

MORE = 2  # rows that are added


def padded(module: gm.ir.Module, inputs: dict, symbol: str, rng: np.random.Generator) -> dict:
    """The inputs with some of their own rows behind them along the symbol's axes."""
    out = {}
    for v in module.main.inputs:
        x = inputs[v.name]
        for axis, d in enumerate(v.tensor.shape):
            if any(s.name == symbol for s in symbols_of(d)):
                x = np.concatenate([x, np.take(x, rng.integers(0, x.shape[axis], MORE), axis)], axis)
        out[v.name] = x
    return out


def true_part(v: gm.ir.Value, x: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
    known = (evaluate(d, sizes) if {s.name for s in symbols_of(d)} <= sizes.keys() else None for d in v.tensor.shape)
    return x[tuple(slice(n) for n in known)]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


@given(graphs(), st.integers(0, 1000))
def test_padding_changes_no_bit_of_the_true_rows(g: G, seed: int):
    module = gm.read_onnx(g.model)
    inputs, rng = g.inputs(0, seed), np.random.default_rng(seed)
    for symbol in sorted(input_symbols(module)):
        v = analyse(module, symbol, 8)
        event(f"{symbol} {'proven' if v.proven else 'refused'}")
        if not v.proven:
            continue
        exe = gm.compile(g.model, target="reference")
        sizes = {"N": 3, "M": 2}
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                exact = exe.run(inputs)
            except GraphmillError:
                return
            first, second = (exe.run(padded(exe.module, inputs, symbol, rng)) for _ in range(2))
            for (name, want), value in zip(exact.items(), exe.module.main.outputs, strict=True):
                a, b = (true_part(value, out[name], sizes) for out in (first, second))
                assert a.shape == want.shape, f"${symbol} of {name}"
                assert same_bits(a, b), f"${symbol} of {name}: {a} and {b}"
                wide = np.float64 if a.dtype.kind == "f" else a.dtype
                assert np.allclose(a.astype(wide), want.astype(wide), 1e-3, 1e-3, equal_nan=a.dtype.kind == "f"), (
                    f"${symbol} of {name}: {a}, expected {want}"
                )
