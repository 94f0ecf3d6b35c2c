"""Tree ensembles: all trees are walked for a tile's rows, some trees at a time, so that their nodes stay in the cache.

The way through one tree is a chain of loads that wait for each other, and where it turns cannot be guessed. So a group of trees is
walked step by step together, without a branch but for the last step: from a leaf each step leads to that leaf again.
"""

from __future__ import annotations

from ...ir.core import Node
from ...ir.ops import trees as forests
from ...ir.ops.trees import Forest
from ..operands import fill_in, first_int, tiles_for
from ..spec import Call, KernelSource, Launch, Refusal
from ..trees import COMPARE, MISSING, TABLES, Ensemble, ensemble_of, finish_of, sizes_of, tables_of, typed
from .target import serves

GROUP = 8  # trees that are walked at once

# Scratch: scores [rows, targets], then a byte for each of them that is not zero where some leaf voted.
_KERNEL = """
def kernel(p, tile, ntiles):
    n = param(p, FIRST)
    features = param(p, FIRST + 1)
    targets = param(p, FIRST + 2)
    trees = param(p, FIRST + 3)
    groups = param(p, FIRST + 4)
    lo = n * tile // ntiles
    hi = n * (tile + 1) // ntiles
    scores = param(p, SCRATCH)
    said = scores + n * targets * SIZE
    memset(scores + lo * targets * SIZE, 0, (hi - lo) * targets * SIZE)
    memset(said + lo * targets, 0, (hi - lo) * targets)
    for group in range(groups):
        for row in range(lo, hi):
            x = param(p, 0) + row * features * ITEM
            START
            while (ALL_MODES) >= 0:
                STEPS
            VOTING
    for row in range(lo, hi):
        s = scores + row * targets * SIZE
        t = said + row * targets
        FINISH
"""
# Of tree number K of a group.
_START = """
node_K = ld_i32(param(p, ROOTS), GROUP * group + K) + 0
mode_K = ld_i32(param(p, NODES), 4 * node_K + 1)
"""
_STEP = """
v = to_REAL(ld_TYPE(x, ld_i32(param(p, NODES), 4 * node_K) + 0))
s = ld_REAL(param(p, SPLITS), node_K)
mode = mode_K
TAKES
node_K = ld_i32(param(p, NODES), 4 * node_K + 3 - i64(true)) + 0
mode_K = ld_i32(param(p, NODES), 4 * node_K + 1)
"""
_VOTING = """
for k in range(ld_i32(param(p, VOTES), node_K) + 0, ld_i32(param(p, VOTES), node_K + 1) + 0):
    at = row * targets + ld_i32(param(p, TARGETS), k)
    w = ld_REAL(param(p, WEIGHTS), k)
    v = ld_REAL(scores, at)
    st_REAL(scores, at, COMBINED)
    st_u8(said, at, u8(1))
"""
_COMBINE = {
    "SUM": "add(v, w)", "AVERAGE": "add(v, w)",
    "MIN": "minimum(v, w) if ld_u8(said, at) != 0 else w", "MAX": "maximum(v, w) if ld_u8(said, at) != 0 else w",
}  # fmt: skip


def _takes(f: Forest) -> str:
    """The text that decides whether the true branch is taken."""
    kinds = sorted(set(f.mode[f.mode != forests.LEAF].tolist()))
    if len(kinds) == 1:
        lines = [f"true = {COMPARE[kinds[0]]}"]
    else:
        lines = [f"kind = mode % {MISSING}", "true = False"]
        for kind in kinds:
            lines += [f"if kind == {kind}:", f"    true = {COMPARE[kind]}"]
    if f.missing.any():
        lines.append(f"true = true or (mode >= {MISSING} and v != v)")
    return "\n".join(lines)


def _indented(text: str, by: int) -> str:
    return text.strip("\n").replace("\n", "\n" + " " * by)


def _walk(e: Ensemble) -> str:
    """The kernel's text with the ways through the trees of a group in it, and then their votes, in order."""
    step = _STEP.replace("TAKES", _takes(e.forest))
    parts = {"START": (_START, 12), "STEPS": (step, 16), "VOTING": (fill_in(_VOTING, COMBINED=_COMBINE[e.aggregate]), 12)}
    text = _KERNEL.lstrip("\n").replace("ALL_MODES", " & ".join(f"mode_{k}" for k in range(GROUP)))
    for word, (part, by) in parts.items():
        text = text.replace(
            word, _indented("".join(part.replace("_K", f"_{k}").replace("+ K", f"+ {k}") for k in range(GROUP)), by)
        )
    return fill_in(text, GROUP=GROUP)


@serves("tree_ensemble", "tree_ensemble_regressor", "tree_ensemble_classifier")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of an ensemble."""
    e = ensemble_of(node)
    if isinstance(e, Refusal):
        return e
    slots = {name: len(node.results) + 2 + i for i, name in enumerate(TABLES)}
    text = typed(node, e, _walk(e).replace("FINISH", _indented(finish_of(node, e), 8)))
    sizes = {
        "FIRST": first_int(node, len(TABLES)),
        "SCRATCH": len(node.results) + 1,
        "SIZE": e.real.itemsize,
        "ITEM": node.operands[0].tensor.dtype.itemsize,
    }

    def bind(call: Call) -> Launch:
        n, features, targets, trees = sizes_of(e, call)
        scratch = n * targets * (e.real.itemsize + 1)
        return Launch((n, features, targets, trees, -(-trees // GROUP)), tiles_for(n, n * trees * 16), scratch, units=n)

    return KernelSource(fill_in(text, **slots, **sizes, RESULT=1), bind, tables=tables_of(e, GROUP))
