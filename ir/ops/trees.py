"""Ensembles of decision trees: validated once, then walked level by level by all rows and trees together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
LEAF = -1
MEMBER = 6
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
CHUNK = 1 << 21  # pairs of a row and a tree that are walked at a time
_COMPARE = (np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal)


@dataclass
class Forest:
    """Nodes of all trees in common arrays; children are places in them. Leaves vote `weights[votes[i]:votes[i + 1]]`."""

    feature: np.ndarray
    split: np.ndarray
    mode: np.ndarray  # an index into MODES, LEAF
    true: np.ndarray
    false: np.ndarray
    missing: np.ndarray  # whether NaN goes to the true branch
    roots: np.ndarray
    votes: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    members: np.ndarray | None = None  # sorted node * n + value number, of the values that BRANCH_MEMBER nodes accept
    values: np.ndarray | None = None  # the sorted distinct values of all members

    def check(self) -> None:
        """Raises ValueError for children that are out of range, and for cycles."""
        inner = np.nonzero(self.mode != LEAF)[0]
        children = np.concatenate([self.true[inner], self.false[inner]])
        for what, at in (("a branch", children), ("a root", self.roots)):
            if at.size and (at.min() < 0 or at.max() >= len(self.mode)):
                raise ValueError(f"{what} of the trees leads to a node that does not exist")
        parents = np.bincount(children, minlength=len(self.mode))
        front, seen = np.nonzero(parents == 0)[0], 0
        while front.size:
            seen += front.size
            open_ = front[self.mode[front] != LEAF]
            after = np.concatenate([self.true[open_], self.false[open_]])
            np.subtract.at(parents, after, 1)
            front = np.unique(after[parents[after] == 0])
        if seen < len(self.mode):
            raise ValueError("the nodes of the trees form a cycle")

    def check_features(self, count: int) -> None:
        """Raises ValueError where a node asks for a feature that rows of `count` do not have."""
        asked = self.feature[self.mode != LEAF]
        if asked.size and (asked.min() < 0 or asked.max() >= count):
            raise ValueError(f"a node asks for feature {asked.max() if asked.min() >= 0 else asked.min()}; the rows have {count}")

    def leaves(self, x: np.ndarray) -> np.ndarray:
        """The leaf that each row of `x` [n, features] reaches in each tree, [n, trees]."""
        at = np.broadcast_to(self.roots, (len(x), len(self.roots))).ravel().copy()
        row = np.repeat(np.arange(len(x)), len(self.roots))
        open_ = np.nonzero(self.mode[at] != LEAF)[0]
        while open_.size:
            node = at[open_]
            took = self._takes_true(node, x[row[open_], self.feature[node]])
            at[open_] = np.where(took, self.true[node], self.false[node])
            open_ = open_[self.mode[at[open_]] != LEAF]
        return at.reshape(len(x), len(self.roots))

    def _takes_true(self, node: np.ndarray, value: np.ndarray) -> np.ndarray:
        modes, split = self.mode[node], self.split[node]
        kinds = np.flatnonzero(np.bincount(modes, minlength=len(MODES)))
        if len(kinds) == 1 and kinds[0] != MEMBER:
            out = _COMPARE[kinds[0]](value, split)
        else:
            out = np.zeros(len(node), bool)
            for kind in kinds:
                these = modes == kind
                n, v, s = node[these], value[these], split[these]
                out[these] = self._is_member(n, v) if kind == MEMBER else _COMPARE[kind](v, s)
        return out | (self.missing[node] & np.isnan(value))

    def _is_member(self, node: np.ndarray, value: np.ndarray) -> np.ndarray:
        assert self.values is not None and self.members is not None
        if not self.members.size:
            return np.zeros(len(node), bool)
        number = np.minimum(np.searchsorted(self.values, value), len(self.values) - 1)
        key = node * len(self.values) + number
        at = np.minimum(np.searchsorted(self.members, key), len(self.members) - 1)
        return (self.values[number] == value) & (self.members[at] == key)

    def scores(self, x: np.ndarray, targets: int, aggregate: str) -> tuple[np.ndarray, np.ndarray]:
        """What the leaves of all trees say of each target, [n, targets] in the weights' element type, and where any said something.

        Votes are added tree by tree in their element type, as ONNX Runtime does for one row: the last bit can decide a tie.
        """
        self.check_features(x.shape[1])
        if self.target.size and (self.target.min() < 0 or self.target.max() >= targets):
            raise ValueError(f"a leaf votes for target {self.target.max()}; there are {targets}")
        out, said = np.zeros((len(x), targets), self.weight.dtype), np.zeros((len(x), targets), bool)
        step = max(CHUNK // max(len(self.roots), 1), 1)
        for i in range(0, len(x), step):
            self._vote(out[i : i + step], said[i : i + step], self.leaves(x[i : i + step]), aggregate)
        return (out / len(self.roots)).astype(out.dtype) if aggregate == "AVERAGE" else out, said

    def _vote(self, out: np.ndarray, said: np.ndarray, leaves: np.ndarray, aggregate: str) -> None:
        """Puts the votes of `leaves` [n, trees] into `out` and `said` [n, targets], one by one in the order of the trees."""
        leaf = leaves.ravel()
        count = self.votes[leaf + 1] - self.votes[leaf]
        row = np.repeat(np.repeat(np.arange(len(leaves)), leaves.shape[1]), count)
        vote = np.arange(len(row)) + np.repeat(self.votes[leaf] - (np.cumsum(count) - count), count)
        at, weight = (row, self.target[vote]), self.weight[vote]
        said[at] = True
        if aggregate in ("MIN", "MAX"):
            out[...] = np.where(said, np.inf if aggregate == "MIN" else -np.inf, 0)
            (np.minimum if aggregate == "MIN" else np.maximum).at(out, at, weight)
        else:
            np.add.at(out, at, weight)


def _column(name: str, values: Any, count: int, dtype: object) -> np.ndarray:
    a = np.asarray(values if values is not None else (), dtype)  # type: ignore[call-overload]
    if a.shape != (count,):
        raise ValueError(f"{name} has {a.size} entries, expected {count}")
    return a


def from_tables(a: dict[str, Any], prefix: str, wide: np.dtype) -> Forest:
    """The forest of TreeEnsembleClassifier or -Regressor (`prefix` is class or target), from its attributes."""

    def either(name: str) -> Any:
        tensor = a.get(name + "_as_tensor")
        return a.get(name) if tensor is None else tensor

    trees, ids = np.asarray(a["nodes_treeids"] or (), np.int64), np.asarray(a["nodes_nodeids"] or (), np.int64)
    n = len(trees)
    if not n or len(ids) != n:
        raise ValueError(f"{n} nodes_treeids and {len(ids)} nodes_nodeids, expected as many, and at least one")
    names = list(a["nodes_modes"] or ())
    wrong = set(names) - {*MODES[:MEMBER], "LEAF"}
    if wrong:
        raise ValueError(f"the node mode {sorted(wrong)[0]!r} is not known")
    mode = _column("nodes_modes", [LEAF if m == "LEAF" else MODES.index(m) for m in names], n, np.int64)
    missing = a["nodes_missing_value_tracks_true"] or (0,) * n
    find = _finder(trees, ids)
    inner = mode != LEAF
    children = []
    for name in ("nodes_truenodeids", "nodes_falsenodeids"):
        at = np.zeros(n, np.int64)
        at[inner] = find(trees[inner], _column(name, a[name], n, np.int64)[inner], name)
        children.append(at)
    feature = _column("nodes_featureids", a["nodes_featureids"], n, np.int64)
    split = _column("nodes_values", either("nodes_values"), n, wide)
    votes, target, weight = _votes(a, prefix, either(prefix + "_weights"), find, mode, wide)
    forest = Forest(
        feature,
        split,
        mode,
        children[0],
        children[1],
        _column("nodes_missing_value_tracks_true", missing, n, np.int64) != 0,
        np.zeros(0, np.int64),
        votes,
        target,
        weight,
    )
    forest.roots = _roots(forest, trees)
    forest.check()
    return forest


def _finder(trees: np.ndarray, ids: np.ndarray):
    """A function from pairs of tree and node id to places. Raises ValueError for ids given twice, and for unknown ones."""
    tree_of, tree_no = np.unique(trees, return_inverse=True)
    id_of, id_no = np.unique(ids, return_inverse=True)
    keys = tree_no * len(id_of) + id_no
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    if np.any(ranked[1:] == ranked[:-1]):
        raise ValueError("a node id is given twice in one tree")

    def find(tree: np.ndarray, node: np.ndarray, name: str) -> np.ndarray:
        t, i = (
            np.minimum(np.searchsorted(tree_of, tree), len(tree_of) - 1),
            np.minimum(np.searchsorted(id_of, node), len(id_of) - 1),
        )
        key = t * len(id_of) + i
        at = np.minimum(np.searchsorted(ranked, key), len(ranked) - 1)
        unknown = (tree_of[t] != tree) | (id_of[i] != node) | (ranked[at] != key)
        if np.any(unknown):
            k = int(np.flatnonzero(unknown)[0])
            raise ValueError(f"{name}: tree {tree[k]} has no node {node[k]}")
        return order[at]

    return find


def _votes(a: dict[str, Any], prefix: str, weights: Any, find, mode: np.ndarray, wide: np.dtype) -> tuple[np.ndarray, ...]:
    """Where the votes of each node begin, whom they are for and what they weigh. Those of nodes that are no leaves do not count."""
    tree = np.asarray(a[f"{prefix}_treeids"] or (), np.int64)
    m = len(tree)
    at = find(tree, _column(f"{prefix}_nodeids", a[f"{prefix}_nodeids"], m, np.int64), f"{prefix}_nodeids")
    target, weight = _column(f"{prefix}_ids", a[f"{prefix}_ids"], m, np.int64), _column(f"{prefix}_weights", weights, m, wide)
    keep = mode[at] == LEAF
    at, target, weight = at[keep], target[keep], weight[keep]
    if a.get("n_targets") == 1:
        # Of several votes of a leaf for the only target ONNX Runtime counts the first; converters of decision paths rely on it.
        at, first = np.unique(at, return_index=True)
        target, weight = target[first], weight[first]
    order = np.argsort(at, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=len(mode)))])
    return starts, target[order], weight[order]


def _roots(forest: Forest, trees: np.ndarray) -> np.ndarray:
    """The node of each tree that is nobody's child, in the order in which the trees are first named."""
    inner = forest.mode != LEAF
    is_child = np.zeros(len(trees), bool)
    is_child[forest.true[inner]] = is_child[forest.false[inner]] = True
    roots = np.flatnonzero(~is_child)
    _, first = np.unique(trees, return_index=True)
    if len(np.unique(trees[roots])) != len(roots) or len(roots) != len(first):
        raise ValueError(
            f"{len(first)} trees have {len(roots)} roots; expected one each (several, or none, mean a cycle or a loose node)"
        )
    return roots


def from_ensemble(a: dict[str, Any], wide: np.dtype) -> Forest:
    """The forest of TreeEnsemble, whose inner nodes and leaves have tables of their own: leaves are put behind the nodes."""
    n = len(a["nodes_featureids"])
    leaf_weights = np.asarray(a["leaf_weights"]).astype(wide)
    m = len(leaf_weights)
    mode = _column("nodes_modes", np.asarray(a["nodes_modes"]).astype(np.int64), n, np.int64)
    if n and (mode.min() < 0 or mode.max() > MEMBER):
        raise ValueError(f"nodes_modes has {mode.max()}; expected 0 to {MEMBER}")
    children = []
    for branch in ("true", "false"):
        at = _column(f"nodes_{branch}nodeids", a[f"nodes_{branch}nodeids"], n, np.int64)
        leaf = _column(f"nodes_{branch}leafs", a[f"nodes_{branch}leafs"], n, np.int64) != 0
        if np.any(at < 0) or np.any(at >= np.where(leaf, m, n)):
            raise ValueError(f"nodes_{branch}nodeids lead to nodes or leaves that do not exist")
        children.append(np.concatenate([np.where(leaf, at + n, at), np.zeros(m, np.int64)]))
    missing = a["nodes_missing_value_tracks_true"] or (0,) * n
    nothing = np.zeros(m, np.int64)
    forest = Forest(
        np.concatenate([_column("nodes_featureids", a["nodes_featureids"], n, np.int64), nothing]),
        np.concatenate([_column("nodes_splits", np.asarray(a["nodes_splits"]).astype(wide), n, wide), nothing.astype(wide)]),
        np.concatenate([mode, nothing + LEAF]),
        children[0],
        children[1],
        np.concatenate([_column("nodes_missing_value_tracks_true", missing, n, np.int64), nothing]) != 0,
        np.asarray(a["tree_roots"], np.int64),
        np.concatenate([np.zeros(n, np.int64), np.arange(m + 1)]),
        _column("leaf_targetids", a["leaf_targetids"], m, np.int64),
        leaf_weights,
    )
    if not len(forest.roots) or forest.roots.max() >= n:
        raise ValueError("tree_roots are empty, or lead to nodes that do not exist")
    _add_members(forest, np.flatnonzero(mode == MEMBER), a["membership_values"], wide)
    forest.check()
    return forest


def _add_members(forest: Forest, nodes: np.ndarray, values: np.ndarray | None, wide: np.dtype) -> None:
    """The sets of the BRANCH_MEMBER nodes, which `values` lists in their order with a NaN behind each."""
    flat = np.asarray(() if values is None else values).astype(wide)
    ends = np.isnan(flat)
    which = np.cumsum(ends) - ends  # the set that an entry belongs to
    sets = int(which[~ends].max(initial=-1)) + 1 if flat.size else 0
    if max(sets, int(ends.sum())) < len(nodes) or sets > len(nodes):
        raise ValueError(f"membership_values hold {max(sets, int(ends.sum()))} sets for {len(nodes)} nodes that ask for one")
    flat, which = flat[~ends], which[~ends]
    forest.values = np.unique(flat)
    forest.members = np.unique(nodes[which] * len(forest.values) + np.searchsorted(forest.values, flat))


REMEMBERED = 16
_recent: OrderedDict[tuple, tuple[list[Any], Forest]] = OrderedDict()


def remembered(build: Callable[..., Forest], a: dict[str, Any], *rest: Any) -> Forest:
    """`build(a, *rest)`, kept for the next run on the same tables: big ones take far longer to check than to walk.

    Tables are known by identity; they are held as long as their forest is, so that no other can take their place.
    """
    tables = [a[k] for k in sorted(a) if k != "X"]
    key = (build, *map(str, rest), *map(id, tables))
    found = _recent.get(key)
    if found is None:
        found = _recent[key] = (tables, build(a, *rest))
        while len(_recent) > REMEMBERED:
            _recent.popitem(last=False)
    return found[1]


def rows(x: np.ndarray, wide: np.dtype) -> np.ndarray:
    """`x` as [n, features] of the element type in which it is compared."""
    return (x if x.ndim == 2 else x.reshape(1, -1)).astype(wide)


def with_base(scores: np.ndarray, base: Sequence[float] | np.ndarray | None) -> np.ndarray:
    """Base values added, one a target."""
    values = np.asarray(() if base is None else base, scores.dtype)
    if values.size not in (0, scores.shape[1]):
        raise ValueError(f"{values.size} base values for {scores.shape[1]} targets, expected one each")
    return scores + values if values.size else scores
