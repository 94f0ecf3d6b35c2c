"""Statements of C++ in the making: where variables are declared, and how it all is laid out.

A `Cell` is a variable while it holds values of one type. Kernel texts declare nothing; here each cell is declared as far inside
as can be: in the innermost block that all its uses share, and with its first value where that is the block's first use. A
block that runs again and again may only hold a declaration if it sets the variable before it reads it, in every round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cell:
    type: str
    name: str


Cells = frozenset[Cell]
NONE: Cells = frozenset()


@dataclass(frozen=True)
class Do:
    """An expression for what it does, or a jump (`leaves`)."""

    text: str
    reads: Cells
    leaves: bool = False


@dataclass(frozen=True)
class Set:
    """`cell op text`; `op` is "=" or one that reads the cell, too, and then `reads` holds it."""

    cell: Cell
    text: str
    reads: Cells
    op: str = "="


@dataclass(frozen=True)
class If:
    test: str
    reads: Cells
    yes: list[Statement]
    no: list[Statement]


@dataclass(frozen=True)
class While:
    test: str
    reads: Cells
    body: list[Statement]


@dataclass(frozen=True)
class For:
    """From `first` up (or down) to `stop`, exclusive. `again`: the limit may have another value in the next round, and is kept."""

    cell: Cell
    first: str
    stop: str
    step: int
    reads: Cells
    body: list[Statement]
    again: bool


Statement = Do | Set | If | While | For


def blocks(s: Statement) -> list[list[Statement]]:
    """The blocks that are part of a statement."""
    return [s.yes, s.no] if isinstance(s, If) else [s.body] if isinstance(s, (While, For)) else []


def assigned(body: Iterable[Statement]) -> set[Cell]:
    """The cells that are set somewhere in a block."""
    out: set[Cell] = set()
    for s in body:
        if isinstance(s, (Set, For)):
            out.add(s.cell)
        for block in blocks(s):
            out |= assigned(block)
    return out


def mentioned(body: Iterable[Statement]) -> set[Cell]:
    """The cells that are set or read somewhere in a block."""
    out: set[Cell] = set()
    for s in body:
        out |= s.reads
        for block in blocks(s):
            out |= mentioned(block)
    return out | assigned(body)


def flow(body: Iterable[Statement], cell: Cell, is_set: bool) -> tuple[bool, bool]:
    """Whether a block never reads the cell before it is set, and whether it is set behind the block."""
    for s in body:
        if cell in s.reads and not is_set:
            return False, is_set
        if isinstance(s, Set):
            is_set = is_set or s.cell == cell
        elif isinstance(s, Do):
            is_set = is_set or s.leaves
        else:
            inside = is_set or (isinstance(s, For) and s.cell == cell)
            ways = [flow(block, cell, inside) for block in blocks(s)]
            if not all(good for good, _ in ways):
                return False, is_set
            if isinstance(s, If):
                is_set = all(way for _, way in ways)
    return True, is_set


@dataclass
class Printer:
    """Collects the lines of a function's body."""

    lines: list[str] = field(default_factory=list)

    def block(self, body: Sequence[Statement], outer: set[Cell], depth: int) -> None:
        """A block, the cells of `outer` being declared around it."""
        known = set(outer)
        owners: dict[Cell, list[int]] = {}
        for i, s in enumerate(body):
            for cell in mentioned([s]) - outer:
                owners.setdefault(cell, []).append(i)
        here = {cell for cell, places in owners.items() if not all(self._keeps_to_itself(body[i], cell) for i in places)}
        for i, s in enumerate(body):
            new = sorted((c for c in here - known if owners[c][0] == i), key=lambda c: c.name)
            known |= set(new)
            inline = s.cell if isinstance(s, Set) and s.op == "=" and s.cell in new and s.cell not in s.reads else None
            for cell in new:
                if cell != inline:
                    self.say(f"{cell.type} {cell.name};", depth)
            self.statement(s, known, depth, inline is not None)

    @staticmethod
    def _keeps_to_itself(s: Statement, cell: Cell) -> bool:
        """Whether a statement can declare the cell inside: it does not read what was there before, nor in its own head."""
        return bool(blocks(s)) and cell not in s.reads and flow([s], cell, False)[0]

    def say(self, line: str, depth: int) -> None:
        self.lines.append("    " * depth + line)

    def statement(self, s: Statement, known: set[Cell], depth: int, declares: bool) -> None:
        if isinstance(s, Do):
            self.say(f"{s.text};", depth)
        elif isinstance(s, Set):
            self.say(f"{s.cell.type + ' ' if declares else ''}{s.cell.name} {s.op} {s.text};", depth)
        elif isinstance(s, While):
            self.say(f"while ({s.test}) {{", depth)
            self.block(s.body, known, depth + 1)
            self.say("}", depth)
        elif isinstance(s, If):
            self.branch(s, known, depth, "")
        else:
            self.loop(s, known, depth)

    def branch(self, s: If, known: set[Cell], depth: int, before: str) -> None:
        self.say(f"{before}if ({s.test}) {{", depth)
        self.block(s.yes, known, depth + 1)
        only = s.no[0] if len(s.no) == 1 else None
        if isinstance(only, If) and all(self._keeps_to_itself(only, c) for c in mentioned([only]) - known):
            return self.branch(only, known, depth, "} else ")
        if s.no:
            self.say("} else {", depth)
            self.block(s.no, known, depth + 1)
        return self.say("}", depth)

    def loop(self, s: For, known: set[Cell], depth: int) -> None:
        """The index is the loop's own, where nobody else asks for it and the body leaves it alone."""
        own = s.cell not in known and s.cell not in assigned(s.body)
        index = s.cell.name if own else f"{s.cell.name}_next"
        limit, first = s.stop, f"{index} = {s.first}"
        if s.again:
            limit = f"{s.cell.name}_end"
            first += f", {limit} = {s.stop}"
        by = {1: f"{index}++", -1: f"{index}--"}.get(s.step, f"{index} {'+' if s.step > 0 else '-'}= {abs(s.step)}")
        self.say(f"for ({s.cell.type} {first}; {index} {'<' if s.step > 0 else '>'} {limit}; {by}) {{", depth)
        body = s.body if own else [Set(s.cell, index, NONE), *s.body]
        self.block(body, known | {s.cell} if own else known, depth + 1)
        self.say("}", depth)


def layout(body: Sequence[Statement], parameters: Iterable[Cell], depth: int = 1) -> list[str]:
    """The lines of a function's body, whose parameters are declared."""
    printer = Printer()
    printer.block(body, set(parameters), depth)
    return printer.lines
