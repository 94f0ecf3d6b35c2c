"""Kernel texts of the CPU's language (kernels/cpu/language.py), as far as they are scalar, in C++.

The types of variables are found as the CPU's compiler finds them, and what that computes while it compiles is computed here too;
but a subroutine becomes a function, one for each list of argument types. A variable that holds values of several types becomes
several.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .cpp import NONE, Cell, Do, For, If, Set, Statement, While, assigned, layout
from .intrinsics import intrinsic, unknown
from .terms import (
    COMPARED,
    FLOATS,
    OPERATORS,
    NotPortable,
    Term,
    binary,
    called,
    cast,
    chosen,
    compare,
    decided,
    inverted,
    lift,
    negated,
    opposite,
    promoted,
    truth,
)  # fmt: skip

THREADS = 128  # of a block
MOST_INTS = 48  # of a text that indexes its parameters by what it computes: some numbers for each axis

# Names that a variable cannot have: words of C++, and those of every CUDA text.
TAKEN = frozenset(
    """alignas auto bool break case catch char class const continue default delete do double else enum explicit export extern float
    for friend goto if inline int ints long mutable namespace new operator private protected public register return short signed
    sizeof static struct switch template this throw true false try typedef typename union unsigned using virtual void volatile while
    p KERNEL DEVICE SHARED NAME THREADS""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Translated:
    """A CUDA text, and what its `bind` must know: its words, whether integers are chosen by what is computed, and whether they are
    in device memory."""

    cuda: str
    words: int
    computes_index: bool
    in_memory: bool


class _AddressTaken(Exception):
    """The text needs its integers in memory."""


def translate(text: str, slots: int) -> Translated:
    """The CUDA text of a CPU text whose first integer has the slot `slots`. Raises NotPortable."""
    try:
        return _Text(text, slots, False).translated()
    except _AddressTaken:
        return _Text(text, slots, True).translated()


def as_function(text: str, slots: int, name: str) -> str:
    """The kernel of a CPU text as a function `name(p, tile, ntiles)` of a CUDA text. Raises NotPortable."""
    return _Text(text, slots, False).function(name)


class _Text:
    """A text while it is translated."""

    def __init__(self, text: str, slots: int, in_memory: bool):
        self.slots, self.in_memory, self.computes_index = slots, in_memory, False
        self.highest = slots - 1  # of the parameters that are read
        self.functions: dict[tuple[str, tuple[str, ...]], tuple[str, str]] = {}  # of name and types: its name, what it returns
        self.made: list[str] = []  # texts of functions
        self.names: dict[str, Any] = {"inf": math.inf, "nan": math.nan}
        self.trees: dict[str, ast.FunctionDef] = {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                self.trees[node.name] = node
            else:
                self._run(node)

    def _run(self, node: ast.stmt) -> None:
        """What stands outside of functions is Python: it makes constants, and for the CPU kernels of microkernel.py."""
        try:
            exec(compile(ast.Module([node], []), "<kernel>", "exec"), self.names)
        except NameError as e:
            raise unknown(e.name) from None

    def _kernel(self) -> tuple[_Body, list[Statement]]:
        """The text's kernel and its statements."""
        tree = self.trees["kernel"]
        pointer, *counts = (a.arg for a in tree.args.args)
        body = _Body(self, tree, [(pointer, "p"), *((name, "i64") for name in counts)])
        return body, body.translate()

    def function(self, name: str) -> str:
        body, statements = self._kernel()
        parameters = ", ".join(f"i64 {c.name}" for c in body.parameters[1:])
        head = f"template <class P> DEVICE void {name}(const P& p, {parameters}) {{"
        return "\n".join([*self.made, head, *layout(statements, body.parameters), "}"])

    def translated(self) -> Translated:
        body, statements = self._kernel()
        words = self.slots + 2 if self.in_memory else (self.slots + MOST_INTS if self.computes_index else self.highest + 1) + 1
        _, tile, ntiles = (c.name for c in body.parameters)
        head = [
            f"const i64 {ntiles} = p[{words - 1}], {tile} = i64(blockIdx.x) * THREADS + threadIdx.x;",
            f"if ({tile} >= {ntiles}) return;",
        ]
        if self.in_memory:  # by the same indices as if they stood behind the addresses
            head.append(f"const i64* ints = (const i64*)p[{self.slots}] - {self.slots};")
        lines = [f"KERNEL({THREADS}, {words}) {{", *("    " + line for line in head), *layout(statements, body.parameters), "}", ""]
        return Translated("\n".join([*self.made, *lines]), words, self.computes_index, self.in_memory)

    def parameter(self, i: Any) -> Term:
        """param(p, i)."""
        if isinstance(i, int):
            self.highest = max(self.highest, i)
            return Term(f"{'ints' if self.in_memory and i >= self.slots else 'p'}[{i}]", "i64")
        self.computes_index = True
        place = cast(lift(i), "i64")
        return Term(f"{'ints' if self.in_memory else 'p'}[{place.text}]", "i64", reads=place.reads)

    def address(self) -> Term:
        """The address of the parameters."""
        if not self.in_memory:
            raise _AddressTaken
        return Term("i64(ints)", "i64")

    def call(self, name: str, args: Sequence[Any]) -> Term:
        """A call of a subroutine."""
        given = [lift(a) for a in args]
        key = name, tuple(a.type for a in given)
        if key not in self.functions:
            self.functions[key] = self._function(*key)
        function, result = self.functions[key]
        return called(function, result, *given)

    def _function(self, name: str, types: Sequence[str]) -> tuple[str, str]:
        tree = self.trees[name]
        body = _Body(self, tree, list(zip((a.arg for a in tree.args.args), types, strict=True)))
        statements = body.translate()
        own, used = name, {n for n, _ in self.functions.values()}
        while own in used or own in TAKEN:
            own += "_"
        heads = ", ".join(f"{c.type} {c.name}" for c in body.parameters)
        lines = [f"DEVICE {body.result or 'void'} {own}({heads}) {{", *layout(statements, body.parameters), "}", ""]
        self.made.append("\n".join(lines))
        return own, body.result


_CLASH = object()  # a variable whose type hangs on the way that was taken


class _Body:
    """The body of one subroutine. `on_<statement>` and `of_<expression>` translate the nodes of the syntax tree."""

    def __init__(self, text: _Text, tree: ast.FunctionDef, parameters: Sequence[tuple[str, str]]):
        self.text, self.tree, self.result = text, tree, ""
        self.called = {e.func.id for e in ast.walk(tree) if isinstance(e, ast.Call) and isinstance(e.func, ast.Name)}
        self.variables: dict[str, Any] = {}  # to cells, or _CLASH
        self.cells: dict[tuple[str, str], Cell] = {}
        self.out: list[Statement] = []
        self.ended = False  # by a jump: what follows in the block is never run
        self.parameters = [self.cell(name, t) for name, t in parameters]
        self.variables.update((name, cell) for (name, _), cell in zip(parameters, self.parameters, strict=True))

    def translate(self) -> list[Statement]:
        self.suite(self.tree.body)
        return self.out

    def suite(self, statements: Sequence[ast.stmt]) -> None:
        for s in statements:
            if self.ended:
                return
            handler = getattr(self, f"on_{type(s).__name__}", None)
            if handler is None:
                raise NotPortable("a statement that kernel texts do not have", line=s.lineno, statement=type(s).__name__)
            handler(s)

    def block(self, statements: Sequence[ast.stmt], first: Callable[[], None] | None = None) -> tuple[list[Statement], bool]:
        """The statements of an inner block, and whether it ends in a jump."""
        outer, self.out, self.ended = self.out, [], False
        if first is not None:
            first()
        self.suite(statements)
        inner, self.out = self.out, outer
        ended, self.ended = self.ended, False
        return inner, ended

    # variables

    def cell(self, name: str, t: str) -> Cell:
        """Where a variable lies while it holds values of one type; the first of its cells has its name."""
        key = name, t
        if key not in self.cells:
            own = name if all(n != name for n, _ in self.cells) else f"{name}_{t}"
            while own in TAKEN or own in self.called or any(c.name == own for c in self.cells.values()):
                own += "_"
            self.cells[key] = Cell(t, own)
        return self.cells[key]

    def assign(self, name: str, x: Term) -> None:
        self.variables[name] = cell = self.cell(name, x.type)
        self.out.append(Set(cell, x.bare or x.text, x.reads))

    @staticmethod
    def merged(ways: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The variables behind ways that meet."""
        out: dict[str, Any] = {}
        for way in ways:
            for name, cell in way.items():
                out[name] = cell if out.get(name, cell) is cell else _CLASH
        return out

    # statements

    def on_Pass(self, s: ast.Pass) -> None:
        pass

    def on_Expr(self, s: ast.Expr) -> None:
        x = self.value(s.value)
        if isinstance(x, Term):
            self.out.append(Do(x.text, x.reads))

    def on_Assign(self, s: ast.Assign) -> None:
        (target,) = s.targets
        if not isinstance(target, ast.Name):
            raise NotPortable("an assignment to what is no name", line=s.lineno)
        self.assign(target.id, lift(self.value(s.value)))

    def on_AugAssign(self, s: ast.AugAssign) -> None:
        if not isinstance(s.target, ast.Name):
            raise NotPortable("an assignment to what is no name", line=s.lineno)
        name, old, by = s.target.id, self.number(s.target), self.number(s.value)
        new, symbol = lift(binary(type(s.op), old, by)), OPERATORS.get(type(s.op))
        if symbol is None or not isinstance(old, Term) or new.type != old.type or new.type not in {"i64", "u64", *FLOATS}:
            return self.assign(name, new)
        x = promoted(old, by)[1]
        return self.out.append(Set(self.variables[name], x.bare or x.text, new.reads, f"{symbol}="))

    def on_Return(self, s: ast.Return) -> None:
        x = None if s.value is None else lift(self.value(s.value))
        if x is not None and self.result not in ("", x.type):
            raise NotPortable("a subroutine returns values of several types", types=[self.result, x.type])
        self.result = self.result if x is None else x.type
        self.jump("return" if x is None else f"return {x.text}", NONE if x is None else x.reads)

    def on_Break(self, s: ast.Break) -> None:
        self.jump("break")

    def on_Continue(self, s: ast.Continue) -> None:
        self.jump("continue")

    def jump(self, text: str, reads: frozenset[Cell] = NONE) -> None:
        self.out.append(Do(text, reads, leaves=True))
        self.ended = True

    def on_If(self, s: ast.If) -> None:
        test = truth(self.value(s.test))
        if not isinstance(test, Term):
            return self.suite(s.body if test else s.orelse)
        before, sides, ways = self.variables, [], []
        for body in (s.body, s.orelse):
            self.variables = dict(before)
            side, ended = self.block(body)
            sides.append(side)
            if not ended:
                ways.append(self.variables)
        self.out.append(If(test.text, test.reads, *sides))
        self.variables = self.merged(ways) if ways else before
        self.ended = not ways
        return None

    def on_While(self, s: ast.While) -> None:
        test = lift(truth(self.value(s.test)))
        body = self.round(s.body)
        self.out.append(While(test.text, test.reads, body))

    def on_For(self, s: ast.For) -> None:
        if not (isinstance(s.iter, ast.Call) and isinstance(s.iter.func, ast.Name) and s.iter.func.id == "range"):
            raise NotPortable("for runs over something else than a range", line=s.lineno)
        if not isinstance(s.target, ast.Name):
            raise NotPortable("for has something else than a name", line=s.lineno)
        given = [self.number(a) for a in s.iter.args]
        start, stop = (0, given[0]) if len(given) == 1 else given[:2]
        step = given[2] if len(given) == 3 else 1
        if not isinstance(step, int) or not step:
            raise NotPortable("the step of a range is not known", line=s.lineno)
        first, last = (cast(lift(x), "i64") for x in (start, stop))
        index = self.cell(s.target.id, "i64")
        body = self.round(s.body, (s.target.id, index))
        # The limit is looked at in every round: it is kept, unless it is there to be read and stays what it is.
        again = bool(last.reads & (assigned(body) | {index})) or not re.fullmatch(r"[\w +*-]+", last.bare or last.text)
        self.out.append(For(index, first.bare or first.text, last.bare or last.text, step, first.reads | last.reads, body, again))

    def round(self, body: Sequence[ast.stmt], index: tuple[str, Cell] | None = None) -> list[Statement]:
        """One round of a loop."""
        before = dict(self.variables)
        if index is not None:
            self.variables[index[0]] = index[1]
        inner, _ = self.block(body)
        self.variables = self.merged([before, self.variables])
        return inner

    # expressions

    def value(self, e: ast.expr) -> Any:
        """A Term, or what is known already."""
        handler = getattr(self, f"of_{type(e).__name__}", None)
        if handler is None:
            raise NotPortable("an expression that kernel texts do not have", line=e.lineno, expression=type(e).__name__)
        return handler(e)

    def number(self, e: ast.expr) -> Any:
        """A value that is computed with: the parameters are their address."""
        x = self.value(e)
        return self.text.address() if isinstance(x, Term) and x.type == "p" else x

    def of_Constant(self, e: ast.Constant) -> Any:
        return e.value

    def of_Name(self, e: ast.Name) -> Any:
        cell = self.variables.get(e.id)
        if cell is _CLASH:
            raise NotPortable("the type of a variable hangs on the way that was taken", variable=e.id)
        if isinstance(cell, Cell):
            return Term(cell.name, cell.type, reads=frozenset({cell}))
        if e.id in self.text.names:
            return self.text.names[e.id]
        raise unknown(e.id)

    def of_BinOp(self, e: ast.BinOp) -> Any:
        return binary(type(e.op), self.number(e.left), self.number(e.right))

    def of_UnaryOp(self, e: ast.UnaryOp) -> Any:
        return {ast.Not: opposite, ast.USub: negated, ast.Invert: inverted}[type(e.op)](self.number(e.operand))

    def of_Compare(self, e: ast.Compare) -> Any:
        sides = [self.number(x) for x in (e.left, *e.comparators)]
        tests = [compare(COMPARED[type(op)], a, b) for op, a, b in zip(e.ops, sides, sides[1:], strict=False)]
        return tests[0] if len(tests) == 1 else decided("&&", tests)

    def of_BoolOp(self, e: ast.BoolOp) -> Any:
        return decided("||" if isinstance(e.op, ast.Or) else "&&", [truth(self.value(x)) for x in e.values])

    def of_IfExp(self, e: ast.IfExp) -> Any:
        test = truth(self.value(e.test))
        if not isinstance(test, Term):
            return self.value(e.body if test else e.orelse)
        return chosen(test, self.number(e.body), self.number(e.orelse))

    def of_Call(self, e: ast.Call) -> Any:
        if e.keywords or not isinstance(e.func, ast.Name):
            raise NotPortable("a call of something else than a name", line=e.lineno)
        name = e.func.id
        if name == "param" and isinstance(e.args[0], ast.Name) and self.value(e.args[0]).type == "p":
            return self.text.parameter(self.value(e.args[1]))
        args = [self.number(a) for a in e.args]
        if name in self.text.trees:
            return self.text.call(name, args)
        return intrinsic(name, args)
