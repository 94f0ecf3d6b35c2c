"""The examples of all operators, some of their axes made symbolic: where a rule keeps rows apart, the reference does so, too."""

from __future__ import annotations

from itertools import combinations, islice

import graphmill as gm
import numpy as np
import pytest
from graphmill.ir import interp
from graphmill.ir.core import Module
from graphmill.ir.errors import GraphmillError
from graphmill.ir.op import OPS, Example
from graphmill.ir.padding import analyse
from graphmill.ir.padding.site import RULES
from graphmill.ir.symbols import Dim, Symbol, evaluate
from graphmill.ir.types import TensorType, dtype_of

assert gm.ir.ops  # registers the operators
REDUCTIONS = [name for name in OPS if OPS[name].reduction is not None]
ELEMENTWISE = ["add", "where", "clip", "prelu", "cast"]
# Proven by shapes or with sizes of S alone, which examples do not have: test_rules.py has them.
WITHOUT = {"constant_of_shape", "range", "affine_grid", "gather_block_quantized"}
MOST = 40  # choices of symbolic axes for one example
S = Symbol("S")
Places = tuple[tuple[int, int], ...]


def choices(e: Example) -> list[Places]:
    """Sets of one to three (operand, axis) of one size, which are to be $S."""
    by_size: dict[int, list[tuple[int, int]]] = {}
    for i, x in enumerate(e.operands):
        if isinstance(x, np.ndarray):
            for a, n in enumerate(x.shape):
                if n:
                    by_size.setdefault(n, []).append((i, a))
    sets = (c for places in by_size.values() for k in (1, 2, 3) for c in combinations(places, k))
    return list(islice(sets, MOST))


def module_of(name: str, e: Example, places: Places) -> Module:
    """The example as a program: operands that have $S are its inputs."""
    m = Module()
    m.symbols["S"] = S
    operands = []
    for i, x in enumerate(e.operands):
        if x is None:
            operands.append(None)
        elif any(p == i for p, _ in places):
            shape = tuple(Dim.of(S) if (i, a) in places else n for a, n in enumerate(x.shape))
            operands.append(m.main.add_input(f"x{i}", TensorType(dtype_of(x), shape)))
        else:
            operands.append(m.add_const(f"c{i}", x))
    node = m.main.add(OPS[name], operands, dict(e.attrs), names=[f"y{i}" for i in range(e.results)])
    m.main.set_outputs(node.results)
    gm.ir.infer.infer_module(m)
    return m


def grown(x: np.ndarray, axes: list[int], rng: np.random.Generator) -> np.ndarray:
    for a in axes:
        x = np.concatenate([x, np.take(x, rng.integers(0, x.shape[a], 2), a)], a)
    return x


def check(name: str, e: Example, places: Places) -> bool:
    """Whether the choice is proven; what is then computed with other rows behind the true ones begins with what is without."""
    try:
        m = module_of(name, e, places)
    except GraphmillError:
        return False
    if not analyse(m, "S", 64).proven:
        return False
    rng = np.random.default_rng(0)
    feeds = {v.name: e.operands[int(v.name[1:])] for v in m.main.inputs}
    with np.errstate(all="ignore"):
        want = interp.run(m, feeds)
        for _ in range(2):
            more = {f"x{i}": grown(feeds[f"x{i}"], [a for j, a in places if j == i], rng) for i in {i for i, _ in places}}
            try:
                found = interp.run(m, more)
            except GraphmillError:  # sizes that only the example's $S fits: an error is not silent
                return False
            for (key, got), v in zip(found.items(), m.main.outputs, strict=True):
                sizes = {"S": e.operands[places[0][0]].shape[places[0][1]]}
                part = got[tuple(slice(evaluate(d, sizes)) for d in v.tensor.shape)]
                assert part.shape == want[key].shape, f"{name}{e.name} {places}"
                assert agree(part, want[key]), f"{name} {e.name} {places}: {part}, expected {want[key]}"
    return True


def agree(a: np.ndarray, b: np.ndarray) -> bool:
    if dtype_of(a).kind not in ("float", "complex"):
        return np.array_equal(a, b)
    wide = np.complex128 if dtype_of(a).kind == "complex" else np.float64
    return np.allclose(a.astype(wide), b.astype(wide), 1e-3, 1e-3, equal_nan=True)


@pytest.mark.parametrize("name", sorted({*RULES, *REDUCTIONS, *ELEMENTWISE}))
def test_rows_that_are_kept_apart(name: str) -> None:
    examples = OPS[name].examples() if OPS[name].examples else []
    proven = sum(check(name, e, places) for e in examples for places in choices(e))
    assert proven or name in WITHOUT, f"no example of {name} is proven"
