"""Lines of a tensor on CUDA: a team of threads folds and maps a line (`kernels/lines.py` says what operators do with that).

A team is a power of two of a block's 256 threads. Where a line's elements are neighbours, so are its threads (shuffles fold what
they have); where neighbouring elements belong to different lines (`across`), neighbouring threads work on neighbouring lines, and a
team folds through shared memory: either way neighbouring threads read neighbouring elements. The line is *held* in registers where
it is short enough, so that memory is read and written once; else each fold and map reads it again (it mostly comes from the L2
cache), and where the lines are too few to fill a GPU several blocks share one: each fold then ends a pass, its parts go through
scratch memory, and all that follows folds the parts again. Sums go in an order that depends on sizes alone, in blocks of 128.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ...ir.recording import greatest, least, opaque
from ...ir.types import F64, DType
from ..lines import Array, Map
from ..printer import register
from ..spec import Launch
from .text import blocks_for, checked_size, declared, indent, power_from

THREADS = 256
# Reasoned, not measured: no GPU was at hand.
EACH = 32  # elements of a held line that a thread has in registers, of which there are 255
EACH_F64 = 8  # functions of f64 are long, and stand there once for each
ENOUGH = 1 << 15  # threads that keep a GPU busy while they wait for memory: 132 processors of 8 warps each
PROCESSORS = 132
MANY = 1 << 20  # lines, where it is not known how many there are
BLOCKS = 512  # among which few long lines are divided: some for each processor
SIZES = ("lines", "n", "shift", "splits", "share", "held")  # the integers that `spread` gives a kernel; its pass comes last

NEIGHBOURS = """
// v of all threads of a team, which are neighbours, folded by f: in each warp, then the warps' results from the first on.
template <class T, class F> DEVICE T team_fold(T v, u32 team, F f) {
    for (u32 m = min(team, 32u) / 2; m; m /= 2) v = f(v, lane_xor(v, m));
    if (team <= 32) return v;
    __shared__ T part[8];
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    u32 first = (threadIdx.x & ~(team - 1)) / 32;
    v = part[first];
    for (u32 w = 1; w < team / 32; w++) v = f(v, part[first + w]);
    __syncthreads();
    return v;
}"""
ACROSS = """
// v of all threads of a team, which are 256 / team apart, folded by f in pairs.
template <class T, class F> DEVICE T team_fold(T v, u32 team, F f) {
    if (team == 1) return v;
    __shared__ T part[256];
    u32 width = 256 / team, t = threadIdx.x;
    part[t] = v;
    __syncthreads();
    for (u32 s = 128; s >= width; s /= 2) {
        if (t < s) part[t] = f(part[t], part[t + s]);
        __syncthreads();
    }
    v = part[t & (width - 1)];
    __syncthreads();
    return v;
}"""


@dataclass(frozen=True, slots=True)
class Read:
    """The pack `name` of elements from the place `at` of an address on, `at` being of the pack from j on, none behind `end`."""

    name: str
    dtype: str
    wide: int
    address: str
    at: str
    end: str

    def __str__(self) -> str:
        return f"auto {self.name} = {self.given('whole')};"

    def given(self, whole: str) -> str:
        """The pack, where it is known whether packs are whole."""
        return f"read_pack<element_{self.dtype}, {self.wide}>({self.address}, {self.at}, {self.end}, {whole})"


@dataclass(frozen=True, slots=True)
class Source:
    """How an element of a line is read: statements before the pack of elements from j on, lines that make `v` of its element k."""

    packs: Sequence[str | Read]
    each: Sequence[str]


@dataclass(frozen=True, slots=True)
class Sink:
    """What is done with the elements of a map: statements before and after a pack, and lines for its element k, of a value."""

    packs: Sequence[str | Read]
    each: Callable[[str], Sequence[str]]
    after: Sequence[str] = ()


def read(a: Array, wide: int) -> Source:
    """The elements of an array, whose lines have no step where they are read several at a time."""
    if wide == 1:
        return Source([], [f"v = ld_{a.dtype}({a.at('j')})"])
    return Source([_pack(a, wide)], [f"v = q{a.name}.get(k)"])


def _pack(a: Array, wide: int) -> Read:
    return Read(f"q{a.name}", a.dtype, wide, a.name, f"{a.start} + j", f"{a.start} + end")


def store(a: Array, wide: int) -> Sink:
    """Stores to an array."""
    if wide == 1:
        return Sink([], lambda v: [f"st_{a.dtype}({a.at('j')}, {v});"])
    write = f"write_pack({a.at('j')}, {a.start} + end, whole, r{a.name});"
    return Sink([f"Pack<element_{a.dtype}, {wide}> r{a.name};"], lambda v: [f"r{a.name}.set(k, {v});"], [write])


def statements(lines: Sequence[str]) -> list[str]:
    """A text's lines. Those that end as statements do stay; the others are assignments, declared where they first stand."""
    out: list[str] = []
    seen: set[str] = set()
    for line in lines:
        if line.endswith((";", "{", "}")) or line.lstrip().startswith("#"):
            out.append(line)
        else:
            out += declared([line], seen)
            seen.add(line.split(" = ", 1)[0])
    return out


SOON = 4  # arrays whose packs may wait in registers for the end of a held line's folds


@dataclass
class Line:
    """The two operations (`kernels.lines.Line`) on lines read from `source`, `wide` neighbours at a time; `held`: how many elements
    of a line a thread holds, 0 where they are read anew."""

    acc: DType
    wide: int
    source: Source
    held: int = 0
    folds: int = 0
    soon: list[Read] = field(default_factory=list)  # packs of a held line that `loads` reads, before all else
    _kept: tuple[object, Map] | None = field(default=None)

    def begin(self, early: Source | None = None, after: Sequence[str] = ()) -> list[str]:
        """Reads a line that is held. `early` is done for it once, in place of what `source` does; `after` ends a pack of it."""
        source = early or self.source
        if self.held:
            self.soon += [r for r in source.packs if isinstance(r, Read)]
            body = self._elements([*declared(source.each), "c[i * WIDE + k] = v;"], source.packs, after)
            return [f"{self._type} c[{self.held}];", *self._packs(body)]
        return [] if early is None else ["if (pass == 0) {", *indent(self._loop(declared(source.each), source.packs, after)), "}"]

    def fold(self, out: str, fn: str, zero: str, x: object, value: Map, keep: object = None) -> list[str]:
        """`out`, which all threads of a team get."""
        name, combine = f"fold{self.folds}", f"[](auto a, auto b) {{ return {fn}(a, b); }}"
        at = f"{self.folds} * splits"
        self.folds += 1
        total = f"{name} = team_fold({name}, team, {combine});"
        if self.held:
            kept = ["c[i * WIDE + k] = v;"] if keep is not None else []
            each = ["auto v = c[i * WIDE + k];", f"v = {value('v')};", *kept, f"{name} = {fn}({name}, v);"]
            return [f"{self._type} {name} = {zero};", *self._packs(self._elements(each)), total, f"{out} = {name}"]
        part = [f"v = {value('v')};", f"a[k] = {fn}(a[k], v);"]
        step = self._elements([*declared(self.source.each), *part], self.source.packs)
        if keep is not None:
            self._kept = keep, value
        # Where an element is read at a time, several shall be under way; functions of f64 are long and stand there once.
        unroll = ["#pragma unroll 1"] if self.acc is F64 else ["#pragma unroll 4"] if self.wide == 1 else []
        part_at = f"ld_{self.acc}(partials, ({at} + i) * lines + u)"
        return [
            f"{self._type} {name} = {zero};",
            f"if (pass > {self.folds - 1}) {{",
            f"    for (u32 i = lane; i < splits && u < lines; i += team) {name} = {fn}({name}, {part_at});",
            "} else {",
            f"    for (u32 from = begin + lane * {self.wide}; from < end;) {{",
            f"        {self._type} a[{self.wide}];",
            f"        for (u32 k = 0; k < {self.wide}; k++) a[k] = {zero};",
            f"        u32 stop = min(end, from + 128 * {self.wide} * team);",
            *indent(unroll, 2),
            f"        for (; from < stop; from += {self.wide} * team) {{",
            *indent(["u32 j = from;", *step], 3),
            "        }",
            f"        for (u32 k = 0; k < {self.wide}; k++) {name} = {fn}({name}, a[k]);",
            "    }",
            "}",
            total,
            f"if (splits > 1 && pass == {self.folds - 1}) {{",
            f"    if (lane == 0 && u < lines) st_{self.acc}(partials, ({at} + split) * lines + u, {name});",
            "    return;",
            "}",
            f"{out} = {name}",
        ]

    def map(self, x: object, y: Array | Sink, value: Map, others: Sequence[Array] = ()) -> list[str]:
        """y = value(x); `others` are loaded beside it, under their names with a v."""
        sink = store(y, self.wide) if isinstance(y, Array) else y
        loads = [f"v{a.name} = ld_{a.dtype}({a.at('j')})" if self.wide == 1 else f"v{a.name} = q{a.name}.get(k)" for a in others]
        packs = [*([] if self.wide == 1 else [_pack(a, self.wide) for a in others]), *sink.packs]
        if self.held:
            each = ["auto v = c[i * WIDE + k];", *declared(loads), *sink.each(value("v"))]
            self.soon += [p for p in packs if isinstance(p, Read)][:SOON]
            return self._packs(self._elements(each, packs, sink.after))
        again = [f"v = {self._kept[1]('v')};"] if self._kept is not None and self._kept[0] is x else []
        each = [*declared(self.source.each), *again, *declared(loads), *sink.each(value("v"))]
        return self._loop(each, [*self.source.packs, *packs], sink.after)

    def _loop(self, each: Sequence[str], packs: Sequence[str | Read], after: Sequence[str]) -> list[str]:
        """What is done for all elements of a line that is not held."""
        head = f"for (u32 j = begin + lane * {self.wide}; j < end; j += {self.wide} * team) {{"
        return [head, *indent(self._elements(each, packs, after)), "}"]

    def loads(self) -> list[str]:
        """Reads what `soon` lists, for all packs of a held line that a thread has: they are on their way together."""
        if not self.soon:
            return []
        out = [f"Pack<element_{r.dtype}, {r.wide}> {r.name}s[{self.held // self.wide}];" for r in self.soon]
        whole, parts = ([f"{r.name}s[i] = {r.given(w)};" for r in self.soon] for w in ("true", "false"))
        return [*out, "if (whole) {", *indent(self._packs(whole)), "} else {", *indent(self._packs(parts)), "}"]

    @property
    def _type(self) -> str:
        return register(self.acc)

    def _elements(self, each: Sequence[str], packs: Sequence[str | Read] = (), after: Sequence[str] = ()) -> list[str]:
        """What is done for the elements from j on."""
        packs = [f"auto {p.name} = {p.name}s[i];" if p in self.soon else str(p) for p in packs]
        if self.wide == 1:
            lines = ["constexpr u32 k = 0;", *packs, *each, *after]
        else:
            loop = [
                "#pragma unroll",
                f"for (u32 k = 0; k < {self.wide}; k++) {{",
                f"    if ({'exact || ' * (self.held > 0)}j + k < end) {{",
                *indent(each, 2),
                "    }",
                "}",
            ]
            lines = [*packs, *loop, *after]
        return [line.replace("WIDE", str(self.wide)) for line in lines]

    def _packs(self, body: Sequence[str]) -> list[str]:
        """The body for all packs of a held line that a thread has."""
        head = [
            "#pragma unroll",
            f"for (u32 i = 0; i < {self.held // self.wide}; i++) {{",
            f"    u32 j = (i * team + lane) * {self.wide};",
        ]
        return [*head, "    if (j < end) {", *indent(body, 2), "    }", "}"]


def most_each(acc: DType) -> int:
    return EACH_F64 if acc is F64 else EACH


def in_modes(make: Callable[[int], Line], write: Callable[[Line], Sequence[str]], lines: int | None, n: int | None,
             across: bool) -> list[str]:  # fmt: skip
    """What `write` writes of a line that `make` makes, for a number of elements that a thread holds, or 0. There are `lines` of n
    elements each (None: not known)."""

    def text(held: int, exact: bool = False) -> list[str]:
        line = make(held)
        body = write(line)
        return [f"constexpr bool exact = {str(exact).lower()};"] * (held > 0) + [*line.loads(), *statements(body)]

    one = make(0)
    each, wide = most_each(one.acc), one.wide
    if n is not None and n > THREADS * each:
        return text(0)
    if n is not None and n <= (32 if across else THREADS) * each:
        team = 1 << team_shift(MANY if lines is None else lines, n, across, wide, one.acc, True)
        return text(max(1, blocks_for(n, team * wide)) * wide, n % wide == 0)
    return ["if (held) {", *indent(text(each)), "} else {", *indent(text(0)), "}"]


def places(first: int, more: int, across: bool | None, cut: str = "splits", team: Team | None = None) -> list[str]:
    """The line and the part of it that a thread works on, from the integers of `spread`, which stand at slot `first`, and from the
    pass, which stands behind them and `more` others. A block works on one of `cut` parts of a line. Where
    `across` is None, `inner` tells whether lines lie across. A `team` that is known has a line for itself."""
    known = {} if team is None else {"shift": f"{team.shift}u", "splits": "1u", "share": "n", "held": "1u", "pass": "0u"}
    slots = {name: first + i for i, name in enumerate(SIZES)} | {"pass": first + len(SIZES) + more}
    names = [f"const u32 {name} = {known.get(name, f'p[{at}]')};" for name, at in slots.items()]
    if across is None:
        mine = ["u = block * width + (inner > 1 ? threadIdx.x & (width - 1) : threadIdx.x >> shift)"]
        mine += ["lane = inner > 1 ? threadIdx.x >> (8 - shift) : threadIdx.x & (team - 1)"]
    elif across:
        mine = ["u = block * width + (threadIdx.x & (width - 1))", "lane = threadIdx.x >> (8 - shift)"]
    else:
        mine = ["u = block * width + (threadIdx.x >> shift)", "lane = threadIdx.x & (team - 1)"]
    return [
        *names,
        f"const u32 team = 1u << shift, width = {THREADS if team is None else team.threads} >> shift, cut = {cut};",
        "u32 block = cut == 1 ? blockIdx.x : blockIdx.x / cut, split = blockIdx.x - block * cut;",
        *(f"u32 {m};" for m in mine),
        "u32 begin = split * share, end = u < lines ? min(begin + share, n) : 0;",
    ]


def spread(lines: int, n: int, across: bool, wide: int, acc: DType, folds: int, holds: bool, maps: bool,
           team: Team | None = None) -> Launch:  # fmt: skip
    """How threads are spread over lines of n elements: the team, the blocks of a line and its passes; the integers are `SIZES`.
    `holds`: whether the kernel can hold lines; `maps`: whether after the folds each part of a line is mapped; `team`: what
    `held_team` chose when the text was written."""
    checked_size(lines * n)
    shift = opaque(team_shift, lines, n, across, wide, acc, holds)
    threads = opaque(_two_to, shift)
    blocks = -(-lines * threads // (THREADS if team is None else team.threads))
    held = holds and n <= most_each(acc) * threads
    step = wide * threads
    splits = 1 if held else greatest(1, least(-(-n // (16 * step)), BLOCKS // greatest(blocks, 1)))
    share = (n + splits * step - 1) // (splits * step) * step
    splits = 1 if share == 0 else -(-n // share)
    passes = (blocks,) if splits == 1 else (blocks * splits,) * folds + (blocks * (splits if maps else 1),)
    scratch = 0 if splits == 1 else folds * splits * lines * acc.itemsize
    return Launch((lines, n, shift, splits, share, int(held)), scratch=scratch, passes=passes)


def _two_to(n: int) -> int:
    return 1 << n


class Team(NamedTuple):
    """Threads that have a held line: 1 << shift, in blocks of so many."""

    shift: int
    threads: int


def held_team(lines: int | None, n: int | None, across: bool, wide: int, acc: DType) -> Team | None:
    """The team that `spread` chooses for lines that are held, None where sizes are not known or too large for that. Where there are
    few lines its blocks are small, so that all multiprocessors have some."""
    if lines is None or n is None or n > (32 if across else THREADS) * most_each(acc):
        return None
    shift, threads = team_shift(lines, n, across, wide, acc, True), THREADS
    while not across and threads > max(64, 1 << shift) and lines << shift < threads * PROCESSORS:
        threads //= 2
    return Team(shift, threads)


def team_shift(lines: int, n: int, across: bool, wide: int, acc: DType, holds: bool) -> int:
    """The power of two that is a team."""
    each = most_each(acc)
    most = 256 // min(32, power_from(lines)) if across else 256  # across: 32 neighbouring lines, a transaction of 128 bytes
    if across and holds and most * each < n <= 32 * each:
        most = max(most, 32)  # then 8: the 32 bytes that memory gives at least
    shift = 0
    while 1 << shift < most and (each << shift < n or (wide << shift < n and lines * (1 << shift) < ENOUGH)):
        shift += 1
    return shift
