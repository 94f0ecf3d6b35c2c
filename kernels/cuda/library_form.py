"""What becomes of sums, in the form that libraries know: activation(alpha * sums + beta * addend + bias)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ...ir.core import Node
from ...ir.op import OPS
from ...ir.scalar import trace
from ...ir.types import F32
from ..epilogue import Builder, Program
from ..operands import slot_of
from ..spec import Refusal


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
