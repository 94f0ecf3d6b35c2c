"""The padding analysis on programs as text: IR in, verdict out."""

from __future__ import annotations

import pytest
from graphmill.ir.padding import analyse
from graphmill.ir.parser import parse_module

HEAD = "module @m {opset = 21} { sym $B sym $T "
W = "const %w : f32[4,4] = [1.,0.,0.,0.,0.,1.,0.,0.,0.,0.,1.,0.,0.,0.,0.,1.] "


def verdict(consts: str, inputs: str, body: str, symbol: str = "B", largest: int = 64) -> str:
    """ "proven", or why not. `body` are nodes `%y = op(...)`, whose types are left to inference where none are written; the output
    is %y."""
    nodes = [line.strip() for line in body.strip().split("\n")]
    typed = [n if " : " in n or "=" not in n else f"{n} : {', '.join('?' * (n.split('=')[0].count(',') + 1))}" for n in nodes]
    v = analyse(parse_module(f"{HEAD}{consts} graph @main({inputs}) -> %y {{\n" + "\n".join(typed) + "\n} }"), symbol, largest)
    return "proven" if v.proven else v.why


X = "%x: f32[$B,4]"
SEQ = "%x: f32[$B,$T,4]"

PROVEN = {
    "elementwise": ("", X, "%y = add(%x, %x)"),
    "broadcast of a row": ("const %c : f32[1,4] = [1.,2.,3.,4.]", X, "%y = mul(%x, %c)"),
    "matmul by weights": (W, X, "%y = matmul(%x, %w)"),
    "matmul of batches": ("", "%x: f32[$B,$T,4], %z: f32[$B,4,$T]", "%y = matmul(%x, %z)"),
    "gemm transposed": (W, "%x: f32[4,$B]", "%y = gemm(%x, %w) {transA = 1}"),
    "reduction of another axis": ("const %a : i64[1] = [1]", X, "%y = reduce_mean(%x, %a) {keepdims = 0}"),
    "softmax of another axis": ("", X, "%y = softmax(%x)"),
    "layer norm": ("const %s : f32[4] = [1.,1.,1.,1.]", SEQ, "%y = layer_norm(%x, %s)"),
    "transpose": ("", SEQ, "%y = transpose(%x) {perm = [2,0,1]}"),
    "flatten of the outermost": ("", SEQ, "%y = flatten(%x) {axis = 2}"),
    "there and back": ("", SEQ, """%f = flatten(%x) {axis = 2}
                                   %d = dims() {value = [$B,$T,4]}
                                   %y = reshape(%f, %d)"""),
    "behind another axis and back": ("", SEQ, """%t = transpose(%x) {perm = [1,0,2]}
                                   %d = dims() {value = [$B*$T,4]}
                                   %r = reshape(%t, %d)
                                   %e = dims() {value = [$T,$B,4]}
                                   %y = reshape(%r, %e)"""),
    "shape used as a size": ("const %i : i64[1] = [-1]", SEQ, """%s = shape(%x) {end = 1}
                                   %c = concat(%s, %i) {axis = 0}
                                   %y = reshape(%x, %c)"""),
    "expanded": ("const %c : f32[1,4] = [1.,2.,3.,4.]", X, """%s = shape(%x)
                                   %y = expand(%c, %s)"""),
    "filled": ("", X, """%s = shape(%x)
                                   %z = constant_of_shape(%s)
                                   %y = add(%x, %z)"""),
    "numbers of the rows": ("const %o : i64[] = [0] const %i : i64[] = [1]", X, """%n = dims() {scalar = true, value = [$B]}
                                   %y = range(%o, %n, %i)"""),
    "indices that carry": (W, "%x: i64[$B,3]", "%y = gather(%w, %x)"),
    "another column": ("const %i : i64[] = [-1]", X, "%y = gather(%x, %i) {axis = 1}"),
    "the first row": ("const %i : i64[] = [0]", X, "%y = gather(%x, %i)"),
    "slice of another axis": ("const %a : i64[1] = [1] const %b : i64[1] = [3]", X, "%y = slice(%x, %a, %b, %a)"),
    "concat and split": ("", X, """%c = concat(%x, %x) {axis = 1}
                                   %y, %z = split(%c, _) {axis = 1, num_outputs = 2}"""),
    "running sum": ("const %a : i64[] = [0]", X, "%y = cum_sum(%x, %a)"),
    "a size of another axis": ("", SEQ, """%n = dims() {scalar = true, value = [$T]}
                                   %f = cast(%n) {to = f32}
                                   %y = div(%x, %f)"""),
    "lstm": (W.replace("[4,4]", "[1,4,4]") + "const %r : f32[1,4,1] = [0.,0.,0.,0.]", "%x: f32[$T,$B,4]",
             "%y, %h, %c = lstm(%x, %w, %r) {hidden_size = 1}"),
    "attention": ("", "%x: f32[$B,2,$T,4], %m: f32[$B,1,1,$T]", "%y = attention(%x, %x, %x, %m)"),
    "quantized by given scales": ("const %s : f32[] = [0.5] const %z : u8[] = [3]", X, "%y = quantize_linear(%x, %s, %z)"),
    "two inputs": ("", "%x: f32[$B,4], %z: f32[$B,1]", "%y = sub(%x, %z)"),
    "nothing of it": ("", "%x: f32[$B,4], %z: f32[3]", "%y = exp(%z)"),
    "a branch that knows nothing of it": ("", "%x: f32[$B,4], %c: bool[], %z: f32[3]", """%y = if(%c) : ? then_branch () {
                                   %a = exp(%z) : ?
                                   yield %a } else_branch () { yield %z }"""),
}  # fmt: skip

REFUSED = {
    "sum": ("const %a : i64[1] = [0]", X, "%y = reduce_sum(%x, %a)", "it reduces $B (axis 0)"),
    "sum of all": ("", X, "%y = reduce_max(%x)", "reduces $B"),
    "softmax": ("", X, "%y = softmax(%x) {axis = 0}", "node %y (softmax): it sums over $B (axis 0)"),
    "softmax of old opsets": ("", SEQ, "%y = softmax(%x) {axis = 0, flatten = 1}", "sums over $B"),
    "contraction": ("", "%x: f32[4,$B], %z: f32[$B,4]", "%y = matmul(%x, %z)", "it sums over $B"),
    "einsum": ("", "%x: f32[$B,4], %z: f32[$B,4]", '%y = einsum(%x, %z) {equation = "bi,bj->ij"}', "sums over $B"),
    "conv along it": ("const %w : f32[1,4,3] = [0.,0.,0.,0.,0.,0.,0.,0.,0.,0.,0.,0.]", "%x: f32[2,4,$B]", "%y = conv(%x, %w)",
                      "only the batch (axis 0) is known"),
    "mean by its size": ("", X, """%n = dims() {scalar = true, value = [$B]}
                                   %f = cast(%n) {to = f32}
                                   %y = div(%x, %f)""", "computes with sizes made of $B"),
    "size as an output": ("", X, "%y = shape(%x)", "it is a number made of $B"),
    "inside an axis": ("", SEQ, """%t = transpose(%x) {perm = [1,0,2]}
                                   %d = dims() {value = [$B*$T,4]}
                                   %y = reshape(%t, %d)""", "rows of $B stand inside axis 0"),
    "torn apart": ("const %i : i64[2] = [2,-1]", X, "%y = reshape(%x, %i)", "do not stay together"),
    "the last row": ("const %i : i64[] = [-1]", X, "%y = gather(%x, %i)", "picks rows of $B"),
    "indices of rows": ("", "%x: f32[$B,4], %i: i64[$B]", "%y = gather(%x, %i)", "may reach other rows"),
    "part of the rows": ("const %a : i64[1] = [1] const %b : i64[1] = [9]", X, "%y = slice(%x, %a, %b)", "takes a part of the rows"),
    "from behind": ("const %a : i64[] = [0]", X, "%y = cum_sum(%x, %a) {reverse = 1}", "sums from behind over $B"),
    "joined": ("", X, "%y = concat(%x, %x) {axis = 0}", "joins rows of $B"),
    "from its size on": (W, X, """%s = dims() {value = [$B]}
                                   %e = dims() {value = [$B + 1]}
                                   %y = slice(%w, %s, %e)""", "where it starts along axis 0 is made of $B"),
    "as many as it": ("", X, "%y = non_zero(%x)", "how many it finds"),
    "one range": ("", X, "%y, %s, %z = dynamic_quantize_linear(%x)", "one range over all rows"),
    "random": ("", X, "%y = random_normal_like(%x)", "no rule says that random_normal_like"),
    "training": ("const %c : f32[4] = [1.,1.,1.,1.]", X, "%y = batch_norm(%x, %c, %c, %c, %c) {training_mode = 1}", "in training"),
    "branch": ("", "%x: f32[$B,4], %c: bool[]", """%y = if(%c) : ? then_branch () {
                                   %a = exp(%x) : ?
                                   yield %a } else_branch () { yield %x }""", "branches are not followed"),
    "branch on its size": ("", "%x: f32[$B,4], %c: bool[]", """%y = if(%c) : ? then_branch () {
                                   %a = dims() {value = [$B]} : ?
                                   yield %a } else_branch () {
                                   %b = dims() {value = [1]} : ?
                                   yield %b }""", "branches are not followed"),
    "expression in an input": ("", "%x: f32[2*$B + 1,4]", "%y = exp(%x)", "expected $B itself"),
    "half of it": ("const %w : f32[1,1,2] = [1.,1.]", "%x: f32[1,1,$B]", "%y = max_pool(%x) {kernel_shape = [2], strides = [2]}",
                   "only the batch"),
    "another symbol": ("", "%x: f32[$B,4], %z: f32[$T,4]", "%y = add(%x, %z)", "meets $B"),
    "last state": ("const %w : f32[1,1,4] = [0.,0.,0.,0.] const %r : f32[1,1,1] = [0.]", "%x: f32[$B,$T,4]",
                   "%y, %h = rnn(%x, %w, %r) {hidden_size = 1}", "its last state is that behind all of $B"),
    "self-attention": ("", "%x: f32[1,2,$B,4]", "%y = attention(%x, %x, %x)", "sums over $B"),
    "unknown rank": ("", "%x: f32[$B,4], %s: i64[$T]", "%y = reshape(%x, %s)", "the rank of its result is not known"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROVEN)
def test_proven(case: str) -> None:
    assert verdict(*PROVEN[case]) == "proven"


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    *program, why = REFUSED[case]
    assert why in verdict(*program)


def test_scores_name_the_softmax() -> None:
    """Two axes may carry one symbol; what sums over one of them is named."""
    body = """%t = transpose(%x) {perm = [0,2,1]}
              %s = matmul(%x, %t)
              %y = softmax(%s)"""
    assert verdict("", SEQ, body, "T") == "node %y (softmax): it sums over $T (axis 2)"
    assert verdict("", SEQ, body, "B") == "proven"


def test_a_table_that_is_long_enough() -> None:
    """How much is padded at most is known: the first $T positions of a table of 16 are all there."""
    consts = "const %p : i64[16] = [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15] const %o : i64[1] = [0]"
    body = """%n = dims() {value = [$T]}
              %y = slice(%p, %o, %n)"""
    assert verdict(consts, SEQ, body, "T", 16) == "proven"
    assert "min($T, 16)" in verdict(consts, SEQ, body, "T", 17)


def test_masks_that_count_rows() -> None:
    """mask.flatten()[batch * $T + position] stays within its row, as exporters write it; with another factor it does not."""
    consts = "const %o : i64[] = [0] const %i : i64[] = [1] const %c : i64[2] = [-1,1]"
    body = """%n = dims() {scalar = true, value = [$B]}
              %t = dims() {scalar = true, value = [%s]}
              %u = dims() {scalar = true, value = [$T]}
              %%rows = range(%o, %n, %i)
              %%column = reshape(%%rows, %c)
              %%places = range(%o, %u, %i)
              %%starts = mul(%%column, %t)
              %%index = add(%%starts, %%places)
              %d = dims() {value = [$B*$T]}
              %f = reshape(%m, %d)
              %y = gather(%f, %%index)""".replace("%%", "%")
    assert verdict(consts, "%m: f32[$B,$T]", body.replace("[%s]", "[$T]")) == "proven"
    assert "may reach other rows" in verdict(consts, "%m: f32[$B,$T]", body.replace("[%s]", "[$T + 1]"))


def test_the_module_is_left_as_it_is() -> None:
    m = parse_module(f"{HEAD} graph @main({X}) -> %y {{ %y = exp(%x) : ? }} }}")
    before = str(m.symbols), [v.type for v in m.main.inputs], [v.type for v in m.main.outputs]
    assert analyse(m, "B", 8).proven
    assert before == (str(m.symbols), [v.type for v in m.main.inputs], [v.type for v in m.main.outputs])
