"""Tree ensembles: a block walks through the trees for a row, a tree a thread, then adds up their votes in order, a target a thread.

How scores become results is the CPU's text, translated: one thread does it.
"""

from __future__ import annotations

from ...ir.core import Node
from ...ir.ops import trees as forests
from ...ir.types import dtype_of
from ..operands import fill_in, first_int
from ..printer import register
from ..spec import Call, KernelSource, Launch, Refusal
from ..trees import COMPARE, MISSING, TABLES, Ensemble, ensemble_of, finish_of, sizes_of, tables_of, typed
from .target import serves
from .text import checked_size, kernel
from .translate import as_function

THREADS = 256

# Of row `tile`, in the CPU's language. Scratch: scores [rows, targets], then a byte for each of them that is not zero where some
# leaf voted.
_FINISH = """
def kernel(p, tile, ntiles):
    row = tile
    targets = param(p, FIRST + 2)
    trees = param(p, FIRST + 3)
    s = param(p, SCRATCH) + row * targets * SIZE
    t = param(p, SCRATCH) + param(p, FIRST) * targets * SIZE + row * targets
    FINISH
"""
_BODY = """
__shared__ i32 begin[THREADS], end[THREADS], target[THREADS];
__shared__ REAL weight[THREADS];
u32 row = blockIdx.x, targets = p[FIRST + 2], trees = p[FIRST + 3];
i64 x = p[0] + i64(row) * p[FIRST + 1] * ITEM, scores = p[SCRATCH] + i64(row) * targets * SIZE;
i64 said = p[SCRATCH] + p[FIRST] * targets * SIZE + i64(row) * targets;
for (u32 first = 0; first < trees; first += THREADS) {
    u32 count = minimum(u32(THREADS), trees - first);
    if (threadIdx.x < count) {
        i32 at = ld_i32(p[ROOTS], first + threadIdx.x);
        auto node = load_pack<element_i32, 4>(p[NODES], 4 * at);
        while (node.at[1] >= 0) {
            REAL v = to_REAL(ld_TYPE(x, node.at[0])), s = ld_REAL(p[SPLITS], at);
            i32 mode = node.at[1];
            at = TAKEN ? node.at[2] : node.at[3];
            node = load_pack<element_i32, 4>(p[NODES], 4 * at);
        }
        i32 vote = ld_i32(p[VOTES], at);
        begin[threadIdx.x] = vote;
        end[threadIdx.x] = ld_i32(p[VOTES], at + 1);
        if (end[threadIdx.x] > vote) {
            target[threadIdx.x] = ld_i32(p[TARGETS], vote);
            weight[threadIdx.x] = ld_REAL(p[WEIGHTS], vote);
        }
    }
    __syncthreads();
    for (u32 c = threadIdx.x; c < targets; c += THREADS) {
        REAL v = first ? ld_REAL(scores, c) : REAL(0);
        bool voted = first && ld_bool(said, c);
        auto add_vote = [&](REAL w) {
            v = COMBINED;
            voted = true;
        };
        for (u32 i = 0; i < count; i++) {
            if (begin[i] < end[i] && target[i] == i32(c)) add_vote(weight[i]);
            for (i32 k = begin[i] + 1; k < end[i]; k++)
                if (ld_i32(p[TARGETS], k) == i32(c)) add_vote(ld_REAL(p[WEIGHTS], k));
        }
        st_REAL(scores, c, v);
        st_bool(said, c, voted);
    }
    __syncthreads();
}
if (threadIdx.x == 0) finish(p, row, 1);
"""
_COMBINE = {"SUM": "add(v, w)", "AVERAGE": "add(v, w)", "MIN": "voted ? minimum(v, w) : w", "MAX": "voted ? maximum(v, w) : w"}


@serves("tree_ensemble", "tree_ensemble_regressor", "tree_ensemble_classifier")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of an ensemble."""
    e = ensemble_of(node)
    if isinstance(e, Refusal):
        return e

    def bind(call: Call) -> Launch:
        """Ints: rows, features, targets, trees."""
        n, features, targets, trees = sizes_of(e, call)
        for size in (n * features, n * targets):
            checked_size(size)
        return Launch((n, features, targets, trees), n, n * targets * (e.real.itemsize + 1))

    return KernelSource(lambda: _text(node, e), bind, "a block for each row", tables=tables_of(e))


def _taken(e: Ensemble) -> str:
    """Whether the true branch is taken."""
    kinds = sorted(set(e.forest.mode[e.forest.mode != forests.LEAF].tolist()))
    test = COMPARE[kinds[-1]]
    for kind in kinds[-2::-1]:
        test = f"mode % {MISSING} == {kind} ? {COMPARE[kind]} : {test}"
    return f"({test}) || (mode >= {MISSING} && v != v)" if e.forest.missing.any() else f"({test})"


def _text(node: Node, e: Ensemble) -> str:
    x, real, first = node.operands[0].tensor, dtype_of(e.real), first_int(node, len(TABLES))  # type: ignore[union-attr]
    slots = {name: len(node.results) + 2 + i for i, name in enumerate(TABLES)}
    words = {**slots, "FIRST": first, "SCRATCH": len(node.results) + 1, "SIZE": e.real.itemsize, "ITEM": x.dtype.itemsize,
             "THREADS": THREADS, "RESULT": 1}  # fmt: skip
    finish = finish_of(node, e).replace("\n", "\n    ")
    finish = as_function(fill_in(typed(node, e, _FINISH.lstrip("\n").replace("FINISH", finish)), **words), first, "finish")
    body = fill_in(_BODY, **words, TAKEN=_taken(e), COMBINED=_COMBINE[e.aggregate], REAL=register(real))
    body = body.replace("_REAL(", f"_{real}(").replace("_TYPE(", f"_{x.dtype}(")
    return kernel(THREADS, first + 4, body.strip("\n").split("\n"), [finish, ""])
