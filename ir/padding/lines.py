"""Rules of the padding analysis for what computes element by element, and for what takes lines of a tensor together."""

from __future__ import annotations

from collections.abc import Sequence

from .site import Carried, Site, labelled, rule, trailing


def elementwise(site: Site) -> list[Carried]:
    """Operands broadcast: axes go together from the last one on."""
    operands = [(i, trailing(len(site.dims(i)))) for i in range(len(site.states)) if site.has(i)]
    return [labelled(site, operands, trailing(len(site.shape())))]


def without(carried: Carried, axes: Sequence[int], keepdims: bool) -> Carried:
    """Rows behind axes that are taken together, none of which carries any."""
    return {a if keepdims else a - sum(b < a for b in axes): f for a, f in carried.items()}


def reduction(site: Site) -> list[Carried]:
    carried, rank = site.carried(0), len(site.dims(0))
    site.others_free(0)
    axes: Sequence[int] | None = site.ints(1) if site.has(1) else []
    if axes is None:
        site.refuse("the axes that it reduces are not known")
    if not axes:
        axes = () if site.node.attr("noop_with_empty_axes") else range(rank)
    axes = [a % rank for a in axes]
    site.apart(carried, axes, "reduces")
    return [without(carried, axes, bool(site.node.attr("keepdims")))]


@rule("arg_max", "arg_min")
def best(site: Site) -> list[Carried]:
    axes = [site.axis(site.node.attr("axis"), len(site.dims(0)))]
    site.apart(site.carried(0), axes, "compares rows of")
    return [without(site.carried(0), axes, bool(site.node.attr("keepdims")))]


@rule("softmax", "log_softmax", "hardmax")
def softmax(site: Site) -> list[Carried]:
    rank = len(site.dims(0))
    axis = site.axis(site.node.attr("axis"), rank)
    site.apart(site.carried(0), range(axis, rank) if site.node.attr("flatten") else [axis], "sums over")
    return [site.carried(0)]


@rule("layer_norm", "rms_norm")
def norm(site: Site) -> list[Carried]:
    """From an axis on; what layer_norm tells of mean and deviation has the axes before it."""
    rank = len(site.dims(0))
    site.others_free(0)
    site.apart(site.carried(0), range(site.axis(site.node.attr("axis"), rank), rank), "normalizes over")
    return [site.carried(0)] * len(site.node.results)


@rule("lp_norm")
def lp_norm(site: Site) -> list[Carried]:
    site.apart(site.carried(0), [site.axis(site.node.attr("axis"), len(site.dims(0)))], "normalizes over")
    return [site.carried(0)]


@rule("mean_variance_norm")
def mean_variance_norm(site: Site) -> list[Carried]:
    rank = len(site.dims(0))
    site.apart(site.carried(0), [a % rank for a in site.node.attr("axes")], "normalizes over")
    return [site.carried(0)]


@rule("lrn")
def lrn(site: Site) -> list[Carried]:
    site.apart(site.carried(0), [1], "sums over")
    return [site.carried(0)]


@rule("batch_norm")
def batch_norm(site: Site) -> list[Carried]:
    """With known mean and variance each element by itself, by its channel (before opset 9 also by its place)."""
    site.others_free(0)
    if site.node.attr("training_mode"):
        site.refuse(f"in training it takes mean and variance over ${site.name}")
    if len(site.node.results) > 1:
        site.refuse("it tells mean and variance")
    if not site.node.attr("spatial") and set(site.carried(0)) - {0}:
        site.refuse(f"${site.name} is not the batch")
    return [site.carried(0)]


@rule("cum_sum", "cum_prod")
def cumulative(site: Site) -> list[Carried]:
    """Forwards row r holds what stands up to it."""
    carried, axes = site.carried(0), site.ints(1)
    site.others_free(0)
    if axes is None:
        site.refuse("the axis that it sums along is not known")
    if site.node.attr("reverse"):
        site.apart(carried, [axes[0] % len(site.dims(0))], "sums from behind over")
    return [carried]


@rule("topk")
def topk(site: Site) -> list[Carried]:
    site.others_free(0)
    site.apart(site.carried(0), [site.axis(site.node.attr("axis"), len(site.dims(0)))], "sorts rows of")
    return [site.carried(0)] * 2


@rule("quantize_linear", "dequantize_linear")
def quantize(site: Site) -> list[Carried]:
    """By scales that are given, each element by itself (in blocks: by its place along their axis)."""
    site.others_free(0)
    if site.node.attr("block_size"):
        site.apart(site.carried(0), [site.axis(site.node.attr("axis"), len(site.dims(0)))], "has scales for blocks of")
    return [site.carried(0)]


@rule("dropout")
def dropout(site: Site) -> list[Carried]:
    if site.has(2):
        site.refuse("in training it draws random numbers")
    return [site.carried(0)] * len(site.node.results)
