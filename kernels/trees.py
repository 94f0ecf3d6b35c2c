"""Tree ensembles, as far as all targets see them alike: what is served, the tables that kernels read, how scores become results.

The tables come from `ir.ops.trees.Forest`, which checks them; here they are only packed. Votes are added in the reference's order.
Texts are in the language of the CPU's kernels (cpu/language.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..ir.core import Node
from ..ir.ops import trees as forests
from ..ir.ops.classic import POST, labels_of
from ..ir.ops.trees import Forest
from ..ir.types import F64, dtype_of
from .operands import fill_in, refuse_layouts, refuse_strings
from .spec import Call, Refusal

MISSING = 16  # is added to the mode of nodes that send NaN to the true branch
TABLES = ("SPLITS", "NODES", "VOTES", "TARGETS", "WEIGHTS", "ROOTS", "BASE", "LABELS")
COMPARE = ("v <= s", "v < s", "v >= s", "v > s", "v == s", "v != s")
_LOGISTIC = """
@function
def logistic(x):
    e = exp(-abs(x))
    return e / (REAL(1) + e) if x < 0 else REAL(1) / (REAL(1) + e)


"""
# Of scores `s` to `y`, for each row.
_TRANSFORM = {
    "NONE": """
for k in range(targets):
    st_OUT(y, k, to_WIDE(ld_REAL(s, k)))
""",
    "LOGISTIC": """
for k in range(targets):
    st_OUT(y, k, to_WIDE(logistic(ld_REAL(s, k))))
""",
    "SOFTMAX": """
top = REAL(-inf)
for k in range(targets):
    top = maximum(top, ld_REAL(s, k))
total = REAL(0)
for k in range(targets):
    e = exp(ld_REAL(s, k) - top)
    st_REAL(s, k, e)
    total += e
for k in range(targets):
    st_OUT(y, k, to_WIDE(ld_REAL(s, k) / total))
""",
    "SOFTMAX_ZERO": """
top = REAL(-inf)
for k in range(targets):
    top = maximum(top, ld_REAL(s, k))
total = REAL(0)
for k in range(targets):
    v = ld_REAL(s, k)
    e = exp(v - top) if abs(v) > REAL(1e-7) else v * exp(-top)
    st_REAL(s, k, e)
    total += e
for k in range(targets):
    st_OUT(y, k, to_WIDE(ld_REAL(s, k) / total if total != 0 else ld_REAL(s, k)))
""",
}
_ADD_BASE = """
for k in range(targets):
    st_REAL(s, k, add(ld_REAL(s, k), ld_REAL(param(p, BASE), k)))
"""
_AVERAGE = """
for k in range(targets):
    st_REAL(s, k, ld_REAL(s, k) / to_REAL(trees))
"""
_BEST = """
best = 0
top = REAL(-inf)
for k in range(targets):
    v = ld_REAL(s, k) if COUNTS else REAL(-inf)
    if v > top:
        top = v
        best = k
st_i64(param(p, RESULT), row, ld_i64(param(p, LABELS), best))
"""
_ONE_SCORE = """
v = add(ld_REAL(s, VOTED), ld_REAL(param(p, BASE), 0))
st_i64(param(p, RESULT), row, ld_i64(param(p, LABELS), 1 if v > REAL(LIMIT) else 0))
"""
_BOTH = """
st_OUT(y, 0, to_WIDE(FIRST_SCORE))
st_OUT(y, 1, to_WIDE(SECOND_SCORE))
"""


@dataclass
class Ensemble:
    """What is known when the kernel is built. `base` has one entry a target, `finish` is text that ends with results stored."""

    forest: Forest
    targets: int
    real: np.dtype
    aggregate: str
    post: str
    finish: str
    base: np.ndarray = field(default_factory=lambda: np.zeros(1))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    words: dict[str, object] = field(default_factory=dict)


def tables_of(e: Ensemble, group: int = 1) -> tuple[np.ndarray, ...]:
    """The tables; roots in multiples of `group`. A leaf leads to itself; behind all nodes is one that votes for nothing, for groups
    that are not full."""
    f, count = e.forest, len(e.forest.mode)
    leaf = f.mode == forests.LEAF
    own = np.arange(count)
    nodes = np.zeros((count + 1, 4), np.int32)
    nodes[:count, 0] = np.where(leaf, 0, f.feature)
    nodes[:count, 1] = np.where(leaf, -1, f.mode + MISSING * f.missing)
    nodes[:count, 2], nodes[:count, 3] = np.where(leaf, own, f.true), np.where(leaf, own, f.false)
    nodes[count] = 0, -1, count, count
    return (
        np.append(f.split, 0).astype(e.real),
        nodes,
        np.append(f.votes, f.votes[-1]).astype(np.int32),
        f.target.astype(np.int32),
        f.weight.astype(e.real),
        np.append(f.roots, [count] * (-len(f.roots) % group)).astype(np.int32),
        e.base.astype(e.real),
        e.labels,
    )


def sizes_of(e: Ensemble, call: Call) -> tuple[int, int, int, int]:
    """Rows, features, targets, trees. Raises ValueError where a node asks for a feature that rows do not have."""
    shape = call.operands[0]
    n, features = shape if len(shape) == 2 else (1, shape[0])
    e.forest.check_features(features)
    return n, features, e.targets, len(e.forest.roots)


def finish_of(node: Node, e: Ensemble) -> str:
    """The text from scores `s` [targets], and bytes `t` that tell which of them some leaf voted for, to the results of a row."""
    y = node.results[-1].tensor
    return f"y = param(p, {len(node.results)}) + row * targets * {y.dtype.itemsize}\n" + e.finish.strip("\n")


def typed(node: Node, e: Ensemble, text: str) -> str:
    """The text with element types in the place of REAL, TYPE, OUT and WIDE, and with the functions that it calls."""
    x, y = node.operands[0].tensor, node.results[-1].tensor
    text = fill_in(text, **e.words)
    text = (_LOGISTIC.lstrip("\n") if "logistic(" in text else "") + text
    wide = "f64" if y.dtype is F64 else "f32"
    text = text.replace("_REAL(", f"_{dtype_of(e.real)}(").replace("REAL(", f"{dtype_of(e.real)}(")
    return text.replace("ld_TYPE(", f"ld_{x.dtype}(").replace("st_OUT(", f"st_{y.dtype}(").replace("to_WIDE(", f"to_{wide}(")


def ensemble_of(node: Node) -> Ensemble | Refusal:
    """The ensemble of a node, or what speaks against a kernel; tables that are wrong are left to the reference, which says so when
    it runs."""
    refusal = refuse_strings(node) or refuse_layouts(node)
    if refusal:
        return refusal
    try:
        e = _MAKE[node.op.name](node)
    except (ValueError, TypeError) as error:
        return Refusal(f"the trees are not well formed: {error}")
    f = e.forest
    if e.post not in _TRANSFORM:
        return Refusal("there is no kernel for this post-transform", {"post_transform": e.post})
    if forests.MEMBER in f.mode:
        return Refusal("there is no kernel for set membership", {"nodes_modes": "BRANCH_MEMBER"})
    if not np.isfinite(f.weight).all():
        return Refusal("a leaf's weight is not finite")
    if f.target.size and (f.target.min() < 0 or f.target.max() >= e.targets):
        return Refusal("a leaf votes for a target that is not there", {"target": f.target.max(), "targets": e.targets})
    if max(len(f.mode), len(f.target)) >= 2**31 or f.feature.max(initial=0) >= 2**31 or f.feature.min(initial=0) < -(2**31):
        return Refusal("the trees are too large", {"nodes": len(f.mode)})
    if not np.any(f.mode != forests.LEAF):
        return Refusal("no tree has a branch")
    return e


def _average(aggregate: str) -> str:
    return _AVERAGE if aggregate == "AVERAGE" else ""


def _tree_ensemble(node: Node) -> Ensemble:
    a, real = node.all_attrs(), np.dtype(np.float64 if node.operands[0].tensor.dtype is F64 else np.float32)
    post, aggregate = POST[a["post_transform"]], forests.AGGREGATES[a["aggregate_function"]]
    targets = node.results[0].tensor.shape[1]
    return Ensemble(forests.from_ensemble(a, real), targets, real, aggregate, post, _average(aggregate) + _TRANSFORM.get(post, ""))


def _real(node: Node) -> np.dtype:
    """The element type of thresholds and weights: f64 for f64 rows, or where the tables are given as f64 tensors."""
    tensors = [v for k, v in node.all_attrs().items() if k.endswith("_as_tensor") and v is not None]
    wide = node.operands[0].tensor.dtype is F64 or any(t.dtype == np.float64 for t in tensors)
    return np.dtype(np.float64 if wide else np.float32)


def _base(node: Node) -> np.ndarray:
    tensor = node.attr("base_values_as_tensor")
    return np.asarray(node.attr("base_values") or ()) if tensor is None else np.asarray(tensor)


def _tree_ensemble_regressor(node: Node) -> Ensemble:
    real, aggregate, post = _real(node), node.attr("aggregate_function"), node.attr("post_transform")
    base, targets = _base(node), node.results[0].tensor.shape[1]
    if base.size not in (0, targets):
        raise ValueError(f"{base.size} base values for {targets} targets, expected one each")
    finish = _average(aggregate) + (_ADD_BASE if base.size else "") + _TRANSFORM.get(post, "")
    forest = forests.from_tables(node.all_attrs(), "target", real)
    return Ensemble(forest, targets, real, aggregate, post, finish, base if base.size else np.zeros(1))


def _tree_ensemble_classifier(node: Node) -> Ensemble:
    real, post, base = _real(node), node.attr("post_transform"), _base(node)
    labels = labels_of(None, node.attr("classlabels_int64s"))
    forest = forests.from_tables(node.all_attrs(), "class", real)
    voted = set(node.attr("class_ids") or ())
    if len(labels) == 2 and len(voted) == 1 and len(base) < 2:
        (voted_for,) = voted
        return _one_score(forest, real, post, voted_for, base, labels)
    if base.size not in (0, len(labels)):
        raise ValueError(f"{base.size} base values for {len(labels)} targets, expected one each")
    finish = (_ADD_BASE if base.size else "") + _BEST + _TRANSFORM.get(post, "")
    words = {"COUNTS": "True" if base.size else "ld_u8(t, k) != 0"}
    return Ensemble(forest, len(labels), real, "SUM", post, finish, base if base.size else np.zeros(1), labels, words)


def _one_score(forest: Forest, real: np.dtype, post: str, voted_for: int, base: np.ndarray, labels: np.ndarray) -> Ensemble:
    """Two classes of which only one is voted for."""
    positive = bool(np.all(forest.weight >= 0))
    words = {"VOTED": voted_for, "LIMIT": 0.5 if positive else 0.0}
    if voted_for != 0:
        finish = _TRANSFORM.get(post, "")
    elif post == "LOGISTIC":
        finish, words = _BOTH, words | {"FIRST_SCORE": "logistic(-v)", "SECOND_SCORE": "logistic(v)"}
    else:
        finish, words = _BOTH, words | {"FIRST_SCORE": "REAL(1) - v" if positive else "-v", "SECOND_SCORE": "v"}
    shift = base if len(base) and voted_for == 0 else np.zeros(1)
    return Ensemble(forest, 2, real, "SUM", post, _ONE_SCORE + finish, shift, labels, words)


_MAKE = {"tree_ensemble": _tree_ensemble, "tree_ensemble_regressor": _tree_ensemble_regressor,
         "tree_ensemble_classifier": _tree_ensemble_classifier}  # fmt: skip
