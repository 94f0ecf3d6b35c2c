"""Which products NVIDIA's libraries compute (the rung "libraries"), and the texts of those calls (library.py).

What is refused here a kernel of ours serves: the libraries' rung stands on that of the tensor cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

from ...ir.core import Node
from ...ir.op import OPS
from ...ir.recording import least
from ...ir.scalar import trace
from ...ir.symbols import DimLike
from ...ir.types import F32, F64, FLOATS
from ..epilogue import Builder, Program, Site, epilogue_of, site_of
from ..operands import first_int, first_result, refuse_layouts, slot_of
from ..products import Sizes, channel_axis, scaled_sums
from ..registry import key_of
from ..spec import Call, KernelSource, Launch, Refusal
from .library import WORKSPACE, declare


def select(node: Node, precision: str = "fp32") -> KernelSource | Refusal:
    """The library's call that serves a node, or why there is none."""
    name = key_of(node)
    if name == "fused.gemm":
        name = node.regions[0].nodes[0].op.name
    if name in ("matmul", "gemm"):
        return matmul(node, precision)
    return Refusal(f"no library is asked for {name}")


# ---- what becomes of sums -----------------------------------------------------------------------------------------------


@dataclass
class Form:
    """activation(alpha * sums + beta * addend + bias): what libraries do to their sums. The bias and the addend are operands of
    the node: one number a channel, and a tensor of the result's shape."""

    activation: str = "none"
    alpha: float = 1
    beta: float = 0
    bias: int | None = None
    addend: int | None = None

    def fields(self, node: Node) -> dict[str, object]:
        """As lines of a text."""
        slots = {name: None if i is None else slot_of(node, i) for name, i in (("bias", self.bias), ("addend", self.addend))}
        return {**slots, "alpha": float(self.alpha).hex(), "beta": float(self.beta).hex(), "activation": self.activation}


def form_of(b: Builder) -> Form | Refusal:
    """The form that a program of sums has."""
    form, at = Form(), len(b.steps) - 1
    for name in ("relu", "gelu_tanh"):
        below = _below(b.program, at, name)
        if below is not None:
            form.activation, at = name, below
            break
    if not _terms(b, at, form):
        return Refusal("the library's epilogue is activation(alpha * sums + beta * addend + bias)", {"program": b.program})
    return form


@cache
def _pattern(name: str) -> Program:
    """The program of an activation, whose argument is the step "acc"."""
    b = Builder()
    op, attrs = (OPS["relu"], {}) if name == "relu" else (OPS["gelu"], {"approximate": "tanh"})
    b.apply(trace(op.scalar, [F32], attrs), [b.add("acc")])
    return b.program


def _below(program: Program, at: int, name: str) -> int | None:
    """What the activation that step `at` is reads, None where it is none."""
    pattern, found = _pattern(name), dict[int, int]()

    def same(i: int, j: int) -> bool:
        if found.setdefault(i, j) != j:
            return False
        if pattern[i][0] == "acc":
            return True
        if pattern[i][0] == "const":
            return pattern[i] == program[j]
        here, there = pattern[i], program[j]
        return here[0] == there[0] and len(here) == len(there) and all(map(same, here[1:], there[1:]))

    return found[0] if same(len(pattern) - 1, at) else None


def _terms(b: Builder, at: int, form: Form) -> bool:
    """Takes the sum of terms that step `at` is into `form`; whether it is one that fits."""
    fn, *args = b.steps[at]
    if fn == "acc":
        return True
    if fn == "mul":
        factor, of = _factor(b, at)
        if factor is None or b.steps[of][0] != "acc":
            return False
        form.alpha = factor
        return True
    if fn != "add":
        return False
    for below, term in (args, args[::-1]):
        if _term(b, term, form):
            return _terms(b, below, form)
    return False


def _factor(b: Builder, at: int) -> tuple[float | None, int]:
    """A product of a number and a step."""
    x, y = b.steps[at][1:]
    for number, of in ((x, y), (y, x)):
        if b.steps[number][0] == "const":
            return float.fromhex(b.steps[number][1]), of
    return None, at


def _term(b: Builder, at: int, form: Form) -> bool:
    """Takes the operand that step `at` is, or its multiple, into `form`; whether it is one and there was none."""
    beta, fn = 1.0, b.steps[at][0]
    if b.steps[at] == ("const", (-0.0).hex()):  # which nothing adds
        return True
    if fn == "mul":
        factor, at = _factor(b, at)
        if factor is None:
            return False
        beta, fn = factor, b.steps[at][0]
    if fn == "channel" and beta == 1 and form.bias is None:
        form.bias = b.leaves[b.steps[at][1]][1]
        return True
    if fn == "full" and form.addend is None:
        form.addend, form.beta = b.leaves[b.steps[at][1]][1], beta
        return True
    return False


# ---- products -----------------------------------------------------------------------------------------------------------


def matmul(node: Node, precision: str) -> KernelSource | Refusal:
    """cuBLASLt's product of row-major floats, summed in f32 (f64 for f64)."""
    site = site_of(node)
    if isinstance(site, Refusal):
        return site
    dtype, refusal = site.result.dtype, refuse_layouts(node)
    if refusal or dtype not in FLOATS:
        return refusal or Refusal(f"{site.anchor.op.name} of {dtype} is asked of no library")
    found = epilogue_of(site, channel_axis(site.anchor), partial(scaled_sums, site))
    form = found if isinstance(found, Refusal) else form_of(found)
    batches = Batches.of(site)
    for refused in (form, batches):
        if isinstance(refused, Refusal):
            return refused
    assert isinstance(form, Form) and isinstance(batches, Batches)
    depth = site.operand(0).tensor.shape[-1 - bool(batches.transposed[0])]  # type: ignore[union-attr, index]
    if form != Form() and not (isinstance(depth, int) and depth):
        return Refusal("the reduction may be empty, of which the library does not make an epilogue", {"depth": depth})
    result, first = first_result(node), first_int(node)
    fields = {"type": dtype, "compute": "f64" if dtype is F64 else "tf32" if dtype is F32 and precision == "tf32" else "f32",
              "transpose": batches.transposed, "a": site.slot(0), "b": site.slot(1), **form.fields(node), "y": result,
              "workspace": result + 1, "sizes": first}  # fmt: skip
    text = declare("cublaslt", "matmul", first + 8, fields)
    return KernelSource(text, lambda call: batches.bind(site, call), "cublaslt")


@dataclass(frozen=True)
class Batches:
    """How a product's batches lie: B may have none (then that of A is more rows), or both the same, or one of them one in all."""

    flat: bool
    shared: tuple[bool, bool]  # whether all batches read the same matrix of A, of B
    transposed: list[int]

    @staticmethod
    def of(site: Site) -> Batches | Refusal:
        gemm = site.anchor.op.name == "gemm"
        transposed = [int(bool(site.anchor.attr(t))) if gemm else 0 for t in ("transA", "transB")]
        a, b = (_without_ones(site.operand(i).tensor.shape[:-2]) for i in (0, 1))  # type: ignore[union-attr, index]
        flat = not b and len(site.operand(0).tensor.shape) > 1  # type: ignore[union-attr, arg-type]
        if a and b and a != b:
            return Refusal("batches that differ between the operands are asked of no library", {"A": a, "B": b})
        return Batches(flat, (not a, not b), transposed)

    def bind(self, site: Site, call: Call) -> Launch:
        s = Sizes(call.operands[site.index[0]], call.operands[site.index[1]], *map(bool, self.transposed))  # type: ignore[arg-type, index]
        batches = math.prod(s.batch)
        rows, batches = (s.rows * batches, 1) if self.flat else (s.rows, batches)
        lines = [s.a_col if self.transposed[0] else s.a_row, s.b_col if self.transposed[1] else s.b_row]
        steps = [0 if shared or self.flat else n * s.depth for shared, n in zip(self.shared, (rows, s.columns), strict=True)]
        ints = (rows, s.columns, s.depth, batches, *lines, *steps)
        return Launch(ints, least(1, rows * s.columns * batches), WORKSPACE)


def _without_ones(dims: Sequence[DimLike]) -> tuple[DimLike, ...]:
    """Batch dims as far as they make a difference: [1, 3] is [3], and nothing is left of [1, 1]."""
    first = next((i for i, d in enumerate(dims) if d != 1), len(dims))
    return tuple(dims[first:])
