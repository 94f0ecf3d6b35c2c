"""The compiler of kernel texts: a small language in the syntax of Python, from its syntax tree to LLVM code.

A text binds names at its top (run as Python: constants, kernels of microkernel.py) and defines `kernel(p, tile, ntiles)`, perhaps
after subroutines marked `@function`. A variable is a 64-bit integer, a truth value, a float or a vector, as what is assigned to
it says; it may hold values of several types one after the other, but not where branches or rounds of a loop meet. There are `if`,
`while`, `for ... in range` (with a constant step), `break`, `continue`, `return`, `and`, `or`, `not`, conditional expressions, and
calls of the prelude (vector.py), of subroutines (expanded where they are called), of types (`f32(x)`), `min`, `max`, `abs`.

What is known when a text is compiled is computed then, and of an `if` that hangs on it only one side is compiled. What operators
do is in values.py.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir

from .emit import Ty, Val
from .values import BOOL, BUILTIN, COMPARED, I64, Intrinsic, KernelTypeError, Macro, binary, cast, compare, lift, truth


@dataclass(frozen=True)
class Function:
    """A subroutine of a text: it is expanded where it is called."""

    tree: ast.FunctionDef
    names: dict[str, Any]


def subroutine(text: str, names: dict[str, Any]) -> Function:
    """The subroutine that a text defines, over the names that it uses."""
    (tree,) = ast.parse(text).body
    assert isinstance(tree, ast.FunctionDef)
    return Function(tree, names)


def compile_text(text: str, names: dict[str, Any], entry: str) -> ir.Module:
    """The LLVM module of a kernel text, its only visible function named `entry`: void(i64 p, i64 tile, i64 ntiles). `names` is the
    prelude. Raises KernelTypeError."""
    tree = ast.parse(text)
    names = dict(names)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = Function(node, names)
        else:
            exec(compile(ast.Module([node], []), "<kernel>", "exec"), names)
    module = ir.Module(entry)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64.llvm] * 3), entry)
    function.attributes.add("nounwind")
    cells = function.append_basic_block("entry")  # of variables
    start = function.append_basic_block("start")
    ir.IRBuilder(cells).branch(start)
    builder = ir.IRBuilder(start)
    _expand(builder, names["kernel"], [Val(builder, a, I64) for a in function.args])
    builder.ret_void()
    for f in module.functions:
        _let_contract(f)
    return module


def _let_contract(function: ir.Function) -> None:
    """Products and sums may be fused into one instruction, the only liberty that LLVM is given with floats."""
    for block in function.blocks:
        for i in block.instructions:
            if i.opname in ("fadd", "fsub", "fmul", "fdiv", "frem", "fcmp") and not i.flags:
                i.flags = ["contract"]


# ---- statements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cell:
    """Where a variable lies while it holds values of one type."""

    pointer: Any
    t: Ty


@dataclass
class _Loop:
    again: Any  # blocks
    after: Any
    read: set[Any]  # the cells that are read in it


_CLASH = object()  # a variable whose type hangs on the way that was taken


def _expand(builder: ir.IRBuilder, function: Function, args: Sequence[Any]) -> Any:
    """The code of a subroutine, and what it returns (None: nothing)."""
    parameters = [a.arg for a in function.tree.args.args]
    if len(args) != len(parameters):
        raise KernelTypeError(f"{function.tree.name} takes {len(parameters)} arguments, {len(args)} are given")
    body = _Body(builder, function.names)
    for name, x in zip(parameters, args):
        body.assign(name, x)
    return body.compile(function.tree.body)


class _Body:
    """The body of one subroutine in the making. `on_<statement>` and `of_<expression>` compile the nodes of the syntax tree."""

    def __init__(self, builder: ir.IRBuilder, names: dict[str, Any]):
        self.b, self.names = builder, names
        self.variables: dict[str, Any] = {}  # to cells, or _CLASH
        self.cells: dict[tuple[str, Ty], _Cell] = {}
        self.loops: list[_Loop] = []
        self.result = "a result"  # the name of what is returned: no name of a variable
        self.end = builder.append_basic_block("end")

    def compile(self, statements: Sequence[ast.stmt]) -> Any:
        self.suite(statements)
        self.go(self.end)
        self.b.position_at_end(self.end)
        found = [cell for (name, _), cell in self.cells.items() if name == self.result]
        if len(found) > 1:
            raise KernelTypeError("a subroutine returns values of several types")
        return self.load(found[0]) if found else None

    def suite(self, statements: Sequence[ast.stmt]) -> None:
        for s in statements:
            if self.b.block.is_terminated:
                return
            handler = getattr(self, f"on_{type(s).__name__}", None)
            if handler is None:
                raise KernelTypeError(f"line {s.lineno}: {type(s).__name__} is no statement of kernel texts")
            try:
                handler(s)
            except KernelTypeError as e:
                raise e if str(e).startswith("line ") else KernelTypeError(f"line {s.lineno}: {e}") from None

    def go(self, block: Any) -> None:
        if not self.b.block.is_terminated:
            self.b.branch(block)

    # variables

    def assign(self, name: str, x: Any) -> None:
        if not isinstance(x, (Val, bool, int, float)):
            raise KernelTypeError(f"{name} is given no value")
        value = lift(self.b, x)
        key = name, value.t
        if key not in self.cells:
            with self.b.goto_entry_block():
                self.cells[key] = _Cell(self.b.alloca(value.t.llvm), value.t)
        self.variables[name] = cell = self.cells[key]
        self.b.store(value.v, cell.pointer)

    def load(self, cell: _Cell) -> Val:
        return Val(self.b, self.b.load(cell.pointer, typ=cell.t.llvm), cell.t)

    def of_Name(self, e: ast.Name) -> Any:
        cell = self.variables.get(e.id)
        if cell is _CLASH:
            raise KernelTypeError(f"the type of {e.id} hangs on the way that was taken")
        if cell is not None:
            for loop in self.loops:
                loop.read.add(cell)
            return self.load(cell)
        if e.id not in self.names:
            raise KernelTypeError(f"{e.id} is not defined")
        return self.names[e.id]

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
        self.value(s.value)

    def on_Assign(self, s: ast.Assign) -> None:
        (target,) = s.targets
        if not isinstance(target, ast.Name):
            raise KernelTypeError("an assignment has one name on its left")
        self.assign(target.id, self.value(s.value))

    def on_AugAssign(self, s: ast.AugAssign) -> None:
        if not isinstance(s.target, ast.Name):
            raise KernelTypeError("an assignment has one name on its left")
        self.assign(s.target.id, binary(self.b, type(s.op), self.of_Name(s.target), self.value(s.value)))

    def on_Return(self, s: ast.Return) -> None:
        if s.value is not None:
            self.assign(self.result, self.value(s.value))
        self.b.branch(self.end)

    def on_Break(self, s: ast.Break) -> None:
        self.b.branch(self.loops[-1].after)

    def on_Continue(self, s: ast.Continue) -> None:
        self.b.branch(self.loops[-1].again)

    def on_If(self, s: ast.If) -> None:
        test = truth(self.b, self.value(s.test))
        if not isinstance(test, Val):
            return self.suite(s.body if test else s.orelse)
        yes, no, after = (self.b.append_basic_block(n) for n in ("yes", "no", "after"))
        self.b.cbranch(test.v, yes, no)
        before, ways = self.variables, []
        for block, body in ((yes, s.body), (no, s.orelse)):
            self.b.position_at_end(block)
            self.variables = dict(before)
            self.suite(body)
            if not self.b.block.is_terminated:
                ways.append(self.variables)
                self.b.branch(after)
        self.b.position_at_end(after)
        self.variables = self.merged(ways) if ways else before
        if not ways:
            self.b.unreachable()
        return None

    def on_While(self, s: ast.While) -> None:
        head, body, after = (self.b.append_basic_block(n) for n in ("head", "body", "after"))
        self.b.branch(head)
        self.b.position_at_end(head)
        self.loops.append(_Loop(head, after, set()))
        test = lift(self.b, truth(self.b, self.value(s.test)))
        self.b.cbranch(test.v, body, after)
        self.b.position_at_end(body)
        self.round(s.body)
        self.go(head)
        self.b.position_at_end(after)

    def on_For(self, s: ast.For) -> None:
        if not (isinstance(s.iter, ast.Call) and isinstance(s.iter.func, ast.Name) and s.iter.func.id == "range"):
            raise KernelTypeError("for runs over range(...)")
        if not isinstance(s.target, ast.Name) or s.orelse:
            raise KernelTypeError("for has one name, and no else")
        given = [self.value(a) for a in s.iter.args]
        start, stop = (0, given[0]) if len(given) == 1 else given[:2]
        step = given[2] if len(given) == 3 else 1
        if not isinstance(step, int) or not step:
            raise KernelTypeError("the step of a range is a constant other than 0")
        first, last = (cast(lift(self.b, x), I64) for x in (start, stop))
        head, body, again, after = (self.b.append_basic_block(n) for n in ("head", "body", "again", "after"))
        before = self.b.block
        self.b.branch(head)
        self.b.position_at_end(head)
        index = self.b.phi(I64.llvm)
        index.add_incoming(first.v, before)
        self.b.cbranch(self.b.icmp_signed("<" if step > 0 else ">", index, last.v), body, after)
        self.b.position_at_end(again)
        index.add_incoming(self.b.add(index, ir.Constant(I64.llvm, step), flags=["nsw"]), again)
        self.b.branch(head)
        self.b.position_at_end(body)
        self.loops.append(_Loop(again, after, set()))
        self.round(s.body, (s.target.id, Val(self.b, index, I64)))
        self.go(again)
        self.b.position_at_end(after)

    def round(self, body: Sequence[ast.stmt], index: tuple[str, Val] | None = None) -> None:
        """One round of the innermost loop, which ends with it."""
        before = dict(self.variables)
        if index is not None:
            self.assign(*index)
        self.suite(body)
        loop = self.loops.pop()
        for name, cell in before.items():
            if self.variables.get(name) is not cell and cell in loop.read:
                raise KernelTypeError(f"{name} has another type in the next round")
        self.variables = self.merged([before, self.variables])

    # expressions

    def value(self, e: ast.expr) -> Any:
        """A Val, or what is known already: a number, a type, an intrinsic."""
        handler = getattr(self, f"of_{type(e).__name__}", None)
        if handler is None:
            raise KernelTypeError(f"{type(e).__name__} is no expression of kernel texts")
        return handler(e)

    def of_Constant(self, e: ast.Constant) -> Any:
        return e.value

    def of_BinOp(self, e: ast.BinOp) -> Any:
        return binary(self.b, type(e.op), self.value(e.left), self.value(e.right))

    def of_UnaryOp(self, e: ast.UnaryOp) -> Any:
        x = self.value(e.operand)
        if isinstance(e.op, ast.Not):
            test = truth(self.b, x)
            return ~test if isinstance(test, Val) else not test
        if not isinstance(x, Val):
            return -x if isinstance(e.op, ast.USub) else ~x
        if isinstance(e.op, ast.USub):
            return -(cast(x, I64) if x.t.kind != "f" and x.t.bits < 64 else x)
        return ~x

    def of_Compare(self, e: ast.Compare) -> Any:
        left = [self.value(e.left)]  # of the comparison that comes next

        def test(op: ast.cmpop, side: ast.expr) -> Any:
            right = self.value(side)
            out = compare(self.b, COMPARED[type(op)], left[0], right)
            left[0] = right
            return out

        tests = [partial(test, op, side) for op, side in zip(e.ops, e.comparators)]
        return tests[0]() if len(tests) == 1 else self.decided(False, tests)

    def of_BoolOp(self, e: ast.BoolOp) -> Any:
        return self.decided(isinstance(e.op, ast.Or), [partial(self.value, x) for x in e.values])

    def decided(self, stop: bool, tests: Sequence[Callable[[], Any]]) -> Val:
        """The first test that is `stop`, else not `stop`: what comes behind it is not looked at."""
        after = self.b.append_basic_block("after")
        ways = []
        for i, test in enumerate(tests):
            x = lift(self.b, truth(self.b, test()))
            ways.append((x, self.b.block))
            if i == len(tests) - 1:
                self.b.branch(after)
            else:
                go_on = self.b.append_basic_block("go_on")
                self.b.cbranch(x.v, *((after, go_on) if stop else (go_on, after)))
                self.b.position_at_end(go_on)
        self.b.position_at_end(after)
        out = self.b.phi(BOOL.llvm)
        for x, block in ways:
            out.add_incoming(x.v, block)
        return Val(self.b, out, BOOL)

    def of_IfExp(self, e: ast.IfExp) -> Any:
        test = truth(self.b, self.value(e.test))
        if not isinstance(test, Val):
            return self.value(e.body if test else e.orelse)
        yes, no, after = (self.b.append_basic_block(n) for n in ("yes", "no", "after"))
        self.b.cbranch(test.v, yes, no)
        found, ends = [], []
        for block, side in ((yes, e.body), (no, e.orelse)):
            self.b.position_at_end(block)
            found.append(self.value(side))
            ends.append(self.b.block)
        t = self._common(*found)
        values = []
        for block, x in zip(ends, found):
            self.b.position_at_end(block)
            like = t if not isinstance(x, Val) else None
            values.append(cast(lift(self.b, x, like), t))
            self.b.branch(after)
        self.b.position_at_end(after)
        out = self.b.phi(t.llvm)
        for v, block in zip(values, ends):
            out.add_incoming(v.v, block)
        return Val(self.b, out, t)

    def _common(self, x: Any, y: Any) -> Ty:
        """The type of a value that is x or y."""
        types = [v.t for v in (x, y) if isinstance(v, Val)]
        known = [v for v in (x, y) if not isinstance(v, Val)]
        if len(types) == 2 and types[0] != types[1]:
            if any(t.kind == "f" or t.lanes for t in types):
                raise KernelTypeError(f"the sides are {types[0]} and {types[1]}")
            return I64
        if not types:
            return lift(self.b, sum(known) if not all(isinstance(v, bool) for v in known) else True).t
        t = types[0]
        if known and t.kind != "f":
            return BOOL if t == BOOL and isinstance(known[0], bool) else Ty("u", 64) if t == Ty("u", 64) else I64
        return t

    def of_Call(self, e: ast.Call) -> Any:
        if e.keywords or not isinstance(e.func, ast.Name):
            raise KernelTypeError("a call is of a name, without keywords")
        args = [self.value(a) for a in e.args]
        if e.func.id in BUILTIN and e.func.id not in self.names:
            return BUILTIN[e.func.id](self.b, *args)
        callee = self.of_Name(e.func)
        if isinstance(callee, Ty):
            (x,) = args
            return cast(lift(self.b, x, callee), callee)
        if isinstance(callee, Macro):
            return callee.emit(self.b, *args)
        if isinstance(callee, Function):
            return _expand(self.b, callee, args)
        if not isinstance(callee, Intrinsic):
            raise KernelTypeError(f"{e.func.id} cannot be called")
        values = [lift(self.b, x) for x in args]
        try:
            wanted = callee.typed(*(v.t for v in values))
        except (TypeError, KernelTypeError) as error:
            raise KernelTypeError(f"{callee.name}: {error}") from None
        return callee.emit(self.b, [cast(v, t) for v, t in zip(values, wanted, strict=True)])
