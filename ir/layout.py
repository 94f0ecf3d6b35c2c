"""Physical layouts: a permutation of a tensor's logical axes, outermost first in memory."""

from __future__ import annotations

from dataclasses import dataclass

NAMED = {"nwc": (0, 2, 1), "nhwc": (0, 2, 3, 1), "ndhwc": (0, 2, 3, 4, 1)}
_NAMES = {perm: name for name, perm in NAMED.items()}


@dataclass(frozen=True, slots=True)
class Layout:
    """`perm[i]` is the logical axis that lies at physical position i. The identity is spelled None where a layout is optional."""

    perm: tuple[int, ...]

    def __str__(self) -> str:
        return _NAMES.get(self.perm) or ",".join(map(str, self.perm))

    @staticmethod
    def of(perm: tuple[int, ...]) -> Layout | None:
        """The layout of `perm`, or None for the identity."""
        if sorted(perm) != list(range(len(perm))):
            raise ValueError(f"{perm} is no permutation")
        return None if perm == tuple(range(len(perm))) else Layout(perm)

    @staticmethod
    def parse(text: str) -> Layout | None:
        """The layout that prints as `text`. Raises ValueError."""
        return Layout.of(NAMED[text] if text in NAMED else tuple(int(p) for p in text.split(",")))

    def inverse(self) -> tuple[int, ...]:
        """`inverse()[a]` is the physical position of the logical axis a."""
        out = [0] * len(self.perm)
        for i, a in enumerate(self.perm):
            out[a] = i
        return tuple(out)


def channels_last(rank: int) -> Layout | None:
    """N, spatial axes, C for tensors of rank 3 and above; None below."""
    return Layout.of((0, *range(2, rank), 1)) if rank >= 3 else None


def lies_alike(shape: tuple, layout: Layout | None, perm: tuple[int, ...], result: Layout | None) -> bool:
    """Whether a tensor of this shape, and its transpose by `perm` in the layout `result`, are the same bytes. Axes of size 1 lie
    anywhere."""
    before = range(len(shape)) if layout is None else layout.perm
    after = perm if result is None else [perm[a] for a in result.perm]
    return [a for a in before if shape[a] != 1] == [a for a in after if shape[a] != 1]


def physical(shape: tuple, layout: Layout | None) -> tuple:
    """The dims of `shape` in the order in which they lie in memory."""
    return shape if layout is None else tuple(shape[a] for a in layout.perm)


def views_alike(shape: tuple, layout: Layout | None, result_shape: tuple, result: Layout | None) -> bool:
    """Whether a tensor of this shape, reshaped to `result_shape` in the layout `result`, is the same bytes: both are row-major, or
    have their channels last and the same first two axes, behind which spatial axes are merged or split."""
    if layout is None or result is None:
        return layout is result
    last = layout == channels_last(len(shape)) and result == channels_last(len(result_shape))
    return last and shape[:2] == result_shape[:2]
