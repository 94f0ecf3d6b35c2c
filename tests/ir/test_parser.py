"""Text to module: exact round trips, blobs, and errors that say where and what."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from graphmill.ir.errors import IRError
from graphmill.ir.parser import parse_dim, parse_module
from graphmill.ir.printer import print_module
from graphmill.ir.symbols import INF, Dim, Symbol, symbol
from graphmill.ir.types import F32, TensorType
from graphmill.ir.verify import structurally_equal, verify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import dims, modules, random_ops, symbol_lists

RELAXED = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(autouse=True, scope="module")
def operators():
    with random_ops():
        yield


def module_text(body: str, head: str = "", inputs: str = "%x: f32[2]", outputs: str = "%x") -> str:
    return f"module @m {{opset = 17}} {{\n{head}  graph @main({inputs}) -> {outputs} {{\n{body}  }}\n}}\n"


# ---- round trips


@RELAXED
@given(modules())
def test_random_modules_come_back(m):
    verify(m)
    blobs: dict[str, np.ndarray] = {}
    text = print_module(m, blobs=blobs)
    back = parse_module(text, blobs)
    verify(back)
    assert structurally_equal(m, back) is None
    assert print_module(back) == text
    bare = parse_module(text)  # without the contents of large constants
    assert print_module(bare) == text and structurally_equal(m, bare) is None
    assert text.isascii()


@RELAXED
@given(modules())
def test_locations_can_be_left_out(m):
    text = print_module(m, locs=False)
    assert structurally_equal(m, parse_module(text, dict(_blobs(m))), locs=False) is None


def _blobs(m):
    blobs: dict[str, np.ndarray] = {}
    print_module(m, blobs=blobs)
    return blobs


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_dims_come_back(data):
    symbols = data.draw(symbol_lists())
    d = data.draw(dims(symbols))
    assert parse_dim(str(d), {s.name: s for s in symbols}) == d


def test_dims_written_by_hand():
    n = symbol("N", 1, 64)
    table = {"N": Symbol("N", 1, 64)}
    assert parse_dim(" 2 * ($N + 1) - floordiv($N,2) ", table) == 2 * n + 2 - n // 2
    assert parse_dim("mod($N, 4)", table) == n % 4
    assert parse_dim("ceildiv(7, 2)", {}) == 4
    assert parse_dim("$N - $N", table) == 0


@pytest.mark.parametrize(
    "text", ["", "$N", "1 +", "1 2", "floordiv(1, 0)", "bcast(2, 3)", "2.5", "foo(1, 2)", "--1", '$"a', "(" * 500]
)
def test_wrong_dims(text):
    with pytest.raises(IRError, match="column"):
        parse_dim(text, {})


def test_written_by_hand():
    m = parse_module(
        module_text(
            '    // a comment\n    %y=relu( %x ):f32[2]loc("/a")%z = add(%y , %w) : ?\n',
            "  sym $N sym $M in [1, inf]\n  const %w : f32[] = [1e-3] // another\n",
            outputs="%z as probs, %y",
        )
    )
    verify(m)
    assert m.output_names == ["probs", "y"]
    assert m.symbols == {"N": Symbol("N"), "M": Symbol("M", 1, INF)}
    assert m.consts["w"].array == np.float32(1e-3)
    y, z = m.main.nodes
    assert y.locs == ("/a",) and y.result.type == TensorType(F32, (2,)) and z.result.type is None


def test_sibling_regions_may_share_names():
    text = module_text(
        "    %y = t_branch(%x) : f32[2] then_branch () {\n      %a = relu(%x) : f32[2]\n      yield %a\n    } else_branch () {\n"
        "      %a = relu(%x) : f32[2]\n      yield %a\n    }\n",
        outputs="%y",
    )
    m = parse_module(text)
    verify(m)
    assert print_module(m) == text


def test_names_made_after_parsing_are_new():
    m = parse_module(module_text("    %y = t_fused(%x) : f32[2] {\n      %x.1 = relu(%x) : f32[2]\n      yield %x.1\n    }\n"))
    verify(m)
    region = m.main.nodes[0].regions[0]
    assert region.inputs[0].name not in ("x", "x.1")
    assert m.fresh("y") != "y"


# ---- blobs


def test_large_constants_are_out_of_line():
    text = module_text("", f"  const %w : f32[17] = blob sha256:{'ab' * 8}\n", outputs="%w")
    m = parse_module(text)
    assert print_module(m) == text
    with pytest.raises(IRError, match=r"no blob sha256:abab.* was given"):
        _ = m.consts["w"].array
    w = np.arange(17, dtype=np.float32)
    m = parse_module(text, {"ab" * 32: w})
    assert m.consts["w"].array is w
    with pytest.raises(IRError, match=r"expected a blob of type f32\[17\], found float64\[17\]"):
        parse_module(text, {"ab" * 32: w.astype(np.float64)})
    with pytest.raises(IRError, match="more digits"):
        parse_module(text, {"ab" * 32: w, "ab" * 31 + "00": w})


def test_large_arrays_of_attributes_are_out_of_line():
    m = parse_module(module_text("    %y = t_any(%x) {a = array(i8[1], [3])} : ?\n"))
    m.main.nodes[0].set_attr("a", np.arange(20.0))
    blobs: dict[str, np.ndarray] = {}
    text = print_module(m, blobs=blobs)
    assert "{a = array(f64[20], blob sha256:" in text
    assert structurally_equal(m, parse_module(text, blobs)) is None
    with pytest.raises(IRError, match=r"line 3, column 31: the contents of a f64\[20\] constant are not here"):
        parse_module(text)


# ---- errors


@pytest.mark.parametrize(
    "body, message",
    [
        ("%y = relu(%z) : f32[2]", "expected a value defined above that may be read here; %z is none"),
        ("%x = relu(%x) : f32[2]", "expected a new name; %x is defined already"),
        ("%y = nope(%x) : f32[2]", "there is none named 'nope'"),
        ("%y = relu(%x)", "expected `:`"),
        ("%y = relu(%x) : f33[2]", "expected a type, f64"),
        ("%y = relu(%x) : f32[$Q]", r"there is no `sym \$Q`"),
        ("%y = relu(%x) : f32[2", "expected `,` or `]`"),
        ("%y = relu(%x) : f32[2,3]{nhwc}", "expected a layout of 2 axes"),
        ("%y = relu(%x) : f32[2]{0,0}", "permutation"),
        ("%y, %z = t_two(%x) : f32[2]", "expected one type a result: 2, found 1"),
        ("%y = t_any(%x) {a = 1, a = 2} : ?", "expected each attribute once"),
        ("%y = t_any(%x) {a = } : ?", "expected a symbol, an integer"),
        ('%y = t_any(%x) {a = "\\n"} : ?', "expected one of the escapes"),
        ('%y = t_any(%x) {a = "\\u{110000}"} : ?', "expected one of the escapes"),
        ('%y = t_any(%x) {a = "} : ?', "expected a symbol|quoted"),
        ("%y = t_any(%x) {a = " + "[" * 500, "at most 128 levels"),
        ("%y = relu(%x) : " + "seq<" * 500, "at most 128 levels"),
        ("%y = t_any(%x) {a = array(i8[1], [300])} : ?", r"expected integers in \[-128, 127\]"),
        ("%y = t_any(%x) {a = array(i8[2], [3])} : ?", "expected 2 elements"),
        ("%y = t_any(%x) {a = array(f16[1], [1e9])} : ?", "expected numbers that f16 can hold"),
        ("%y = t_any(%x) {a = array(f4e2m1[1], [100])} : ?", "expected numbers that f4e2m1 can hold"),
        ("%y = t_any(%x) {a = array(f8e4m3fn[1], [inf])} : ?", "expected numbers that f8e4m3fn can hold"),
        ("%y = t_fused(%x, %x) : ? { yield %x }", "present and distinct"),
        ("%y = t_fused(_) : ? { yield }", "present and distinct"),
        ("%y = t_branch(%x) : ? then_branch () { yield }", "expected else_branch"),
        ("%y = t_loop() : ? body () { %q = relu(%x) : ? }", "expected yield"),
        ("%y = t_loop() : ? body (%x: ?) { yield }", "%x is defined already"),
        ("%y = t_any(%x) {a = 1" + "0" * 5000 + "} : ?", "limit"),
    ],
)
def test_errors_say_where_and_what(body, message):
    with pytest.raises(IRError, match=message) as e:
        parse_module(module_text("    " + body + "\n"))
    first, _, caret = str(e.value).split("\n")
    assert first.startswith(("line 3,", "line 4,")) and caret.strip() == "^"


def test_the_caret_stands_under_the_place():
    with pytest.raises(IRError) as e:
        parse_module(module_text("    %y = relu(%zz) : f32[2]\n"))
    first, shown, caret = str(e.value).split("\n")
    assert first.startswith("line 3, column 15:")
    assert shown[caret.index("^") :].startswith("%zz")


def test_isolated_regions_see_operands_only():
    head = "  const %w : f32[] = [1.0]\n"
    for name in ("%z", "%w"):
        body = f"%z = relu(%x) : f32[2]\n%y = t_fused(%x) : f32[2] {{\n%r = relu({name}) : f32[2]\nyield %r\n}}\n"
        with pytest.raises(IRError, match=f"{name} is none"):
            parse_module(module_text(body, head))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected module"),
        ("module @m {opset = 17, opset = 18} {", "each domain once"),
        ("module @m {} { sym $N in [3, 2]", "lo <= hi"),
        ("module @m {} { sym $N sym $N", "each symbol once"),
        ("module @m {} { const %w : f32[$N] = [1]", "there is no `sym"),
        ("module @m {} { const %w : f32[*] = [1]", "constant dims"),
        ("module @m {} { const %w : f32[-1] = [1]", "constant dims"),
        ("module @m {} { graph @main() -> %y { } }", "%y is none"),
        (module_text("") + "x", "expected the end of the text"),
    ],
)
def test_errors_of_the_frame(text, message):
    with pytest.raises(IRError, match=message):
        parse_module(text)


def test_regions_nest_to_a_limit():
    text = "    %y{0} = t_loop() : ? body () {{\n"
    deep = "".join(text.format(i) for i in range(1000))
    with pytest.raises(IRError, match="at most 64 regions"):
        parse_module(module_text(deep))


@RELAXED
@given(modules(), st.data())
def test_mutated_text_gives_a_module_or_an_error(m, data):
    """No crash other than IRError, whatever is cut out or put in."""
    text = print_module(m)
    i, j = sorted(data.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
    piece = data.draw(
        st.sampled_from(["", "{", "}", "[", "]", '"', "%x", "$N", "-", "inf", "(", ",", "f32", "yield", "\\", "//", "0" * 20])
    )
    with contextlib.suppress(IRError):
        parse_module(text[:i] + piece + text[min(j, i + 5) :])


def test_a_deep_dim_prints_and_parses():
    d: Dim | int = symbol("N")
    for _ in range(100):
        d = d // 2 + symbol("N")
    assert parse_dim(str(d), {"N": Symbol("N")}) == d
