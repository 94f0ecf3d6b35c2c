"""How the numbers from `low` to `high`, of which 0 is one, become u8: expressions of the step and of the zero point."""

from __future__ import annotations

STEP = "div(sub(high, low), f32(255))"  # 1 where both are equal
ZERO = "rint(div(neg(low), step))"
CLIPPED = "to_u8(minimum(maximum(zero, f32(0)), f32(255)))"
