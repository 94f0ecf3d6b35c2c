"""Rules of the padding analysis for products, convolutions, pools, recurrent layers and attention."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..ops.linalg import parse_equation
from .site import Carried, Site, labelled, rule, trailing

Labels = Sequence[Hashable]


def _matrices(a: int, b: int) -> tuple[Labels, Labels, Labels]:
    """The labels of matmul's operands, of such ranks, and of its result: vectors are a row on the left, a column on the right."""
    left: Labels = [*trailing(a - 2), "m", "k"] if a > 1 else ["k"]
    right: Labels = [*trailing(b - 2), "k", "n"] if b > 1 else ["k"]
    batch = trailing(max(a, b, 2) - 2)
    return left, right, [*batch, *(["m"] if a > 1 else []), *(["n"] if b > 1 else [])]


@rule("matmul", "matmul_integer", "qlinear_matmul")
def matmul(site: Site) -> list[Carried]:
    second = 3 if site.node.op.name == "qlinear_matmul" else 1
    site.others_free(0, second)
    left, right, out = _matrices(len(site.dims(0)), len(site.dims(second)))
    return [labelled(site, [(0, left), (second, right)], out)]


@rule("gemm")
def gemm(site: Site) -> list[Carried]:
    a, b = ("km" if site.node.attr("transA") else "mk"), ("nk" if site.node.attr("transB") else "kn")
    added = [(2, "mn"[2 - len(site.dims(2)) :])] if site.has(2) else []
    return [labelled(site, [(0, a), (1, b), *added], "mn")]


@rule("einsum")
def einsum(site: Site) -> list[Carried]:
    """ "..." stands for axes counted from the end."""
    count = len(site.states)
    terms, result = parse_equation(site.node.attr("equation"), count)
    ranks = [len(site.dims(i)) - len(t) + 1 for i, t in enumerate(terms) if "..." in t]

    def opened(term: list[str], dots: int) -> Labels:
        return [x for label in term for x in (trailing(dots) if label == "..." else [label])]

    operands = [(i, opened(t, len(site.dims(i)) - len(t) + 1)) for i, t in enumerate(terms)]
    return [labelled(site, operands, opened(result, max(ranks, default=0)))]


@rule("matmul_nbits")
def matmul_nbits(site: Site) -> list[Carried]:
    site.others_free(0)
    site.apart(site.carried(0), [len(site.dims(0)) - 1], "sums over")
    return [site.carried(0)]


BY_BATCH: dict[str, tuple[int, ...]] = {  # operators whose axis 0 is the batch, in these operands and all results
    **dict.fromkeys(("conv", "conv_transpose", "conv_integer", "qlinear_conv"), (0,)),
    **dict.fromkeys(("average_pool", "max_pool", "lp_pool", "global_average_pool", "global_max_pool", "global_lp_pool"), (0,)),
    **dict.fromkeys(("instance_norm", "group_norm", "depth_to_space", "space_to_depth", "stft"), (0,)),
    "deform_conv": (0, 2, 4),
    "causal_conv_with_state": (0, 3),
    "grid_sample": (0, 1),
    "rotary_embedding": (0, 1, 2, 3),
    "linear_attention": (0, 1, 2, 3, 4, 5),
}


@rule(*BY_BATCH)
def by_batch(site: Site) -> list[Carried]:
    """One element of the batch after the other."""
    operands = BY_BATCH[site.node.op.name]
    site.others_free(*operands)
    return [_batch(site, operands)] * len(site.node.results)


def _batch(site: Site, operands: Sequence[int]) -> Carried:
    """How axis 0 carries rows, which no other axis does. Refuses where an operand has a batch of another kind, unless it is 1."""
    for i in operands:
        for a in site.carried(i):
            if a != 0:
                site.refuse(f"${site.name} is axis {a} of operand {i}, and only the batch (axis 0) is known to be kept apart")
    present = [i for i in operands if site.has(i) and (site.carried(i) or len(site.dims(i)) > 2)]
    return labelled(site, [(i, [0, *(None for _ in site.dims(i)[1:])]) for i in present], [0])


@rule("resize")
def resize(site: Site) -> list[Carried]:
    """Axes whose size stays are left as they are; nothing is known of others."""
    site.sizes_only(1, 2, 3)
    if site.node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        site.refuse("it crops")
    for a in site.carried(0):
        if site.shape()[a] != site.dims(0)[a]:
            site.refuse(f"it resizes ${site.name} (axis {a})")
    return [site.carried(0)]


@rule("dft")
def dft(site: Site) -> list[Carried]:
    site.others_free(0)
    rank, axis = len(site.dims(0)), site.ints(2) if site.has(2) else [-2]
    if axis is None:
        site.refuse("the axis that it transforms is not known")
    site.apart(site.carried(0), [axis[0] % rank, rank - 1], "sums over")
    return [site.carried(0)]


@rule("det", "inverse")
def matrices(site: Site) -> list[Carried]:
    rank = len(site.dims(0))
    site.apart(site.carried(0), [rank - 2, rank - 1], "sums over")
    return [site.carried(0)]


@rule("lstm", "gru", "rnn")
def recurrent(site: Site) -> list[Carried]:
    """The batch is kept apart, also in lengths of sequences and states that are given; along time states are carried on."""
    batch_first = bool(site.node.attr("layout"))
    x, state = ("bti", "bdh") if batch_first else ("tbi", "dbh")
    y = "btdh" if batch_first else "tdbh"
    operands: list[tuple[int, Labels]] = [(0, x), (4, "b"), (5, state)]
    if site.node.op.name == "lstm":
        operands.append((6, state))
    site.others_free(*(i for i, _ in operands), why=f"is weights, and depends on ${site.name}")
    if any(x[a] == "t" for a in site.carried(0)):
        site.refuse(f"its last state is that behind all of ${site.name}")
    given = [(i, labels) for i, labels in operands if site.has(i)]
    return [labelled(site, given, labels) for labels in (y, state, state)[: len(site.node.results)]]


@rule("attention")
def attention(site: Site) -> list[Carried]:
    """The batch is kept apart: axis 0 of queries, keys, values, what came before, and lengths; of a mask the axis of four from the
    end."""
    places = [(i, 0) for i in (0, 1, 2, 4, 5, 6) if site.has(i)]
    if site.has(3):
        places += [(3, len(site.dims(3)) - 4)] if len(site.dims(3)) >= 4 else []
        if len(site.dims(3)) < 4 and site.carried(3):
            site.refuse(f"its mask has ${site.name}, and is of rank {len(site.dims(3))}")
    labels: list[tuple[int, Labels]] = []
    for i, at in places:
        if any(a != at for a in site.carried(i)):
            site.refuse(f"it sums over ${site.name}, or has it elsewhere than as the batch (operand {i})")
        labels.append((i, ["b" if a == at else (i, a) for a in range(len(site.dims(i)))]))
    return [labelled(site, labels, ["b"])] * len(site.node.results)
