"""Pipelines as text, options, verification and the report of passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import graphmill.ir.ops  # noqa: F401
import pytest
from graphmill.ir import passes as _  # noqa: F401  (registers the passes)
from graphmill.ir.errors import IRError, LimitError
from graphmill.ir.limits import Budget, Limits
from graphmill.ir.parser import parse_module
from graphmill.ir.passes import user
from graphmill.ir.passes.cleanup import Fold
from graphmill.ir.passes.manager import PASSES, Context, make_pass, parse_pipeline, print_pipeline, register, run_pipeline
from graphmill.ir.rewrite import Pattern, Rule

TEXT = "module @m {opset = 17} {\n graph @main(%x: f32[2]) -> %z {\n%y = identity(%x) : f32[2]\n%z = exp(%y) : f32[2]\n }\n}"


@dataclass(frozen=True)
class Options:
    name: ClassVar[str] = "t-options"
    flag: bool = False
    count: int = 3
    rate: float = 0.5
    text: str = "a"

    def run(self, module, ctx) -> bool:
        return False


@pytest.fixture
def options():
    register(Options)
    yield Options
    del PASSES["t-options"]


def test_pipelines_print_and_parse(options) -> None:
    text = "infer,t-options{flag=true,count=7,rate=0.25,text=b},fuse{loops=false},dce"
    passes = parse_pipeline(" infer , t-options { flag=true, count = 7,rate=0.25,text=b} ,fuse{loops=false},dce")
    assert print_pipeline(passes) == text and parse_pipeline(text) == passes
    assert passes[1] == Options(True, 7, 0.25, "b") and print_pipeline([Options()]) == "t-options"
    assert parse_pipeline("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [("nothing", "no pass named 'nothing'; known: .*canonicalize"), ("t-options{x=1}", "no option 'x'; known: flag, count, rate, text"),
     ("t-options{flag}", "no option 'flag'"), ("t-options{flag=1}", "expected true or false"), ("t-options{count=x}", "a value like 3"),
     ("infer}", "cannot be read at 'infer}'"), ("infer dce", "cannot be read"), ("t-options{a{b}}", "cannot be read")],
)  # fmt: skip
def test_texts_that_are_no_pipeline(options, text: str, message: str) -> None:
    with pytest.raises(IRError, match=message):
        parse_pipeline(text)


def test_only_dataclasses_with_a_name_of_their_own_are_passes(options) -> None:
    with pytest.raises(TypeError, match="must be a dataclass"):
        register(type("Plain", (), {"name": "plain"}))

    @dataclass(frozen=True)
    class Other:
        name: ClassVar[str] = "t-options"

    with pytest.raises(IRError, match="registered already"):
        register(Other)


def test_a_pass_without_its_options_is_an_error() -> None:
    @dataclass(frozen=True)
    class Needy:
        name: ClassVar[str] = "t-needy"
        what: str

    register(Needy)
    try:
        with pytest.raises(IRError, match="t-needy needs its options"):
            make_pass("t-needy")
        assert make_pass("t-needy", "what=x") == Needy("x") and print_pipeline([Needy("x")]) == "t-needy{what=x}"
    finally:
        del PASSES["t-needy"]


def test_records_and_observers() -> None:
    m, seen = parse_module(TEXT), []
    records = run_pipeline(m, parse_pipeline("infer,canonicalize"), Context(), lambda p, m: seen.append((p.name, len(m.main))))
    assert [(r.text, r.nodes_before, r.nodes_after) for r in records] == [("infer", 2, 2), ("canonicalize", 2, 1)]
    assert seen == [("infer", 2), ("canonicalize", 1)] and all(r.seconds >= 0 for r in records)


def test_a_pass_that_breaks_the_module_is_named(options) -> None:
    class Breaks(Options):
        def run(self, module, ctx) -> None:
            module.main.outputs[0].name = "x"

    with pytest.raises(IRError, match=r"after the pass t-options\{count=4\}"):
        run_pipeline(parse_module(TEXT), [Breaks(count=4)], Context())


def test_compiling_ends_with_its_time() -> None:
    m = parse_module("module @m {opset = 17} {\n const %a : f32[1] = [1.0]\n graph @main() -> %z {\n%z = exp(%a) : f32[1]\n }\n}")
    ctx = Context(limits=Limits(seconds=-1))
    with pytest.raises(LimitError, match="the pass infer: more than"):
        run_pipeline(m, parse_pipeline("infer,fold"), ctx)
    ctx.budget = Budget(Limits(seconds=-1))
    with pytest.raises(LimitError, match=r"node %z \(exp\): more than"):
        Fold().run(m, ctx)


def test_folding_stores_a_bounded_number_of_bytes() -> None:
    nodes = "\n".join(f"%v{i + 1} = concat(%v{i}, %v{i}) {{axis = 0}} : f32[{16 << i}]" for i in range(6))
    text = "module @m {opset = 17} {\n const %v0 : f32[8] = [1, 2, 3, 4, 5, 6, 7, 8]\n graph @main() -> %v6 {\n" + nodes + "\n }\n}"
    m = parse_module(text)
    run_pipeline(m, parse_pipeline("infer,fold,dce"), Context(limits=Limits(fold_bytes=1000)))
    # 64 + 128 + 256 + 512 bytes are below 1000 and four times the 32 of the constant; the next 1024 are not.
    assert [n.name for n in m.main] == ["v5", "v6"] and [v.array.nbytes for v in m.consts.values()] == [512]


def test_rules_of_the_users_run_in_their_pass() -> None:
    rule = Rule("exp(x) => abs(x)", Pattern("exp", "x"), lambda m, b: b.op("abs", m["x"]))
    user.RULES.append(rule)
    try:
        m = parse_module(TEXT)
        run_pipeline(m, parse_pipeline("infer,user"), Context())
        assert [n.op.name for n in m.main] == ["identity", "abs"]
    finally:
        user.RULES.remove(rule)


@pytest.mark.parametrize("name", ["fuse", "layout", "decompose"])
def test_passes_for_a_target_need_one(name: str) -> None:
    with pytest.raises(AssertionError, match="needs a target"):
        run_pipeline(parse_module(TEXT), parse_pipeline(name), Context())
