"""exp, log, erf, sin, ... for f32 without branches or tables, so that loops over them vectorise; f64 goes to the C library.

Coefficients are minimax fits (Lawson-weighted least squares over Chebyshev nodes) of the functions named beside them; the errors
are those of the fit, below half a unit in the last place of f32. Results are within 2-4 units of the last place for all finite
arguments; infinities, NaN and denormals give what IEEE and C say.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .conversions import convert, f32_bits
from .emit import Val, poly
from .tiling import fuses_products

LN2_HI, LN2_LO = 0.693145751953125, 1.428606765330187e-06
# (exp(r) - 1 - r) / r² on |r| <= ln(2)/2, error 5e-11
_EXP = [0.5000000078, 0.1666666686, 0.04166626826, 0.008333265164, 0.001394618972, 0.0001991797245]
# the same, error 3e-9
_SHORT_EXP = [0.4999999343, 0.166665204, 0.04166839079, 0.008368745118, 0.001381453998]
# (log1p(f) - 2s) / s³ in s² where s = f / (2 + f), |log2(1 + f)| <= 1/2, error 1e-11
_LOG = [0.666666656, 0.4000034557, 0.2853660287, 0.2359633325]
# erf(x)/x - 1 in x² up to 1.0625, error 3e-9; erf(t) in t - 2.5 on 1.0625 <= t <= 3.9375, error 4e-8, and 1 at the end
_ERF = [0.128379164, -0.3761261292, 0.1128342872, -0.02684692912, 0.005174729666, -0.0007887060664, 7.437690299e-05]
_ERF_FAR = [0.9995930781, 0.002178044065, -0.005447036846, 0.008353639195, -0.008612914033, 0.006102022717, -0.002823578396,
            0.000571855875, 0.0002919229064, -0.0002796762587, 5.941185612e-05, 2.118596618e-05, -8.703911202e-06]  # fmt: skip
# (erf(x)/x - 1/4) / (16 - x²) in x² - 8 for |x| <= 4, error of erf 3e-8
_ERF_WHOLE = [0.01294137319, -0.001141333128, 0.0001145140292, -1.198158118e-05, 1.254317501e-06, -1.283779445e-07,
              1.263351119e-08, -1.142422197e-09, 9.55579382e-11, -9.107210039e-12, 8.042871998e-13, -2.680157643e-14,
              4.614733279e-16, -4.051069541e-16, 3.123716913e-17]  # fmt: skip
# (sin(r)/r - 1) in r², over r²; (cos(r) - 1 + r²/2) / r⁴ in r²; |r| <= pi/4
_SIN = [-0.1666666664, 0.008333329374, -0.0001983933099, 2.718274388e-06]
_COS = [0.04166666662, -0.001388888374, 2.479951591e-05, -2.720989453e-07]
TWO_OVER_PI = 0x517CC1B727220A94FE13ABE8FA9A6EE06DB14ACC9E21C820FF2  # times 2^-203
_MAGIC = 1.5 * 2.0**23  # adding it leaves the nearest integer in the low bits of the sum


def _reduce_exp(x: Val) -> tuple[Val, Val, Val]:
    """n (as i32 and as a float) and r with x = n ln 2 + r, |r| <= ln(2)/2."""
    t = x.fma(1 / math.log(2), _MAGIC)
    n = t - _MAGIC
    r = n.fma(-LN2_LO, n.fma(-LN2_HI, x))
    return t.bits_as("i") - f32_bits(_MAGIC), n, r


def _power_of_two(n: Val) -> Val:
    """2^n for n in the range of normal exponents."""
    return ((n + 127) << 23).bits_as("f")


def exp(x: Val) -> Val:
    # Beyond these the result is 0 or infinity; comparisons are false for NaN, which thus stays.
    x = x.cmp("<", -104.0).pick(x.lift(-104.0), x)
    x = x.cmp(">", 89.0).pick(x.lift(89.0), x)
    n, _, r = _reduce_exp(x)
    p = poly(r, _EXP).fma(r * r, r) + 1.0
    half = n >> 1  # two factors, since 2^n itself may be denormal or infinite
    return p * _power_of_two(half) * _power_of_two(n - half)


def one_plus_exp(x: Val) -> Val:
    """1 + exp(x), to a unit of the last place up to x = 20 and three at the end: one factor does, since what is lost where it is 0
    is too little to be seen beside 1."""
    x = x.cmp("<", -88.0).pick(x.lift(-88.0), x)
    x = x.cmp(">", 89.0).pick(x.lift(89.0), x)
    return _exp_by_bits(x) + 1.0


def one_plus_erf(x: Val) -> Val:
    """1 + erf(x), to 2.3e-7: beside 1 a small erf(x) need not be exact to its own last place, so that one polynomial serves all
    arguments; at -4 and below its factor 16 - x² is 0, and so is the result."""
    x = x.cmp("<", -4.0).pick(x.lift(-4.0), x)
    x = x.cmp(">", 4.0).pick(x.lift(4.0), x)
    s = x.fma(x, -8.0)
    return poly(s, _ERF_WHOLE).fma(s.fma(-1.0, 8.0), 0.25).fma(x, 1.0)


def softmax_exp(x: Val) -> Val:
    """exp(x) for x <= 0, of which sums with a term of 1 are made: 0 where the result would be denormal. Off by 1 unit in the last
    place down to x = -20, by 5 at the end."""
    if x.t.bits == 64:
        return x.libm("exp")
    return _exp_by_bits(x.cmp("<", -88.0).pick(x.lift(-88.0), x))


def _exp_by_bits(x: Val) -> Val:
    """exp(x) for -88 <= x <= 89; 0 at the one end, where the bits of 2^n are those of 0, and infinity at the other."""
    t = x.fma(1 / math.log(2), _MAGIC + 127)  # its low bits, and so 2^n, need no further step
    n = t - (_MAGIC + 127)
    r = n.fma(-math.log(2), x) if fuses_products() else n.fma(-LN2_LO, n.fma(-LN2_HI, x))
    p = poly(r, _SHORT_EXP).fma(r * r, r) + 1.0
    return p * (t.bits_as("i") << 23).bits_as("f")


def expm1(x: Val) -> Val:
    y = x.cmp("<", -20.0).pick(x.lift(-20.0), x)
    y = y.cmp(">", 89.0).pick(y.lift(89.0), y)
    n, _, r = _reduce_exp(y)
    p = poly(r, _EXP).fma(r * r, r)
    scale = _power_of_two(n - 1)
    out = p.fma(scale, scale - 0.5) * 2.0
    out = n.cmp("==", 0).pick(p, out)
    return x.cmp("==", 0.0).pick(x, out)  # keeps -0


def log(x: Val) -> Val:
    tiny = x.cmp("<", 2.0**-126)
    y = tiny.pick(x * 2.0**23, x)
    from_root = y.bits_as("i") - f32_bits(math.sqrt(0.5))
    e = (from_root >> 23) - tiny.pick(from_root.lift(23), from_root.lift(0))
    f = ((from_root & 0x7FFFFF) + f32_bits(math.sqrt(0.5))).bits_as("f") - 1.0
    k = Val(x.b, x.b.sitofp(e.v, f.t.llvm), f.t)
    s = f / (f + 2.0)
    z = s * s
    square = f * f * 0.5
    out = k.fma(LN2_HI, f - (square - s.fma(square + z * poly(z, _LOG), k * LN2_LO)))
    out = x.cmp("==", 0.0).pick(x.lift(-math.inf), x.cmp("==", math.inf).pick(x, out))
    return x.cmp("<", 0.0).pick(x.lift(math.nan), x.cmp("uno", x).pick(x, out))


def log1p(x: Val) -> Val:
    u = x + 1.0
    # log(u) lacks what rounding took from 1 + x.
    lost = (x - (u - 1.0)) / u
    exact = u.cmp("==", math.inf) | u.cmp("==", 0.0)
    out = log(u) + exact.pick(u.lift(0.0), lost)
    return x.cmp("==", 0.0).pick(x, out)  # keeps -0


def erf(x: Val) -> Val:
    t = x.intrinsic("fabs")
    near = poly(x * x, _ERF).fma(x, x)
    capped = t.cmp(">", 3.9375).pick(t.lift(3.9375), t) - 2.5
    square = capped * capped
    far = poly(square, _ERF_FAR[1::2]).fma(capped, poly(square, _ERF_FAR[::2])).intrinsic("copysign", x)
    return t.cmp("<", 1.0625).pick(near, far)


def tanh(x: Val) -> Val:
    t = x.intrinsic("fabs")
    capped = t.cmp(">", 10.0).pick(t.lift(10.0), t)
    e = expm1(capped + capped)
    return (e / (e + 2.0)).intrinsic("copysign", x)


def _quarter_turns(x: Val) -> tuple[Val, Val]:
    """x in quarter turns: the nearest integer modulo 4 (an i32) and the rest r in radians, for any finite x.

    2/pi comes in pieces of 29 bits, so that their products with the 24 bits of x are exact in f64; of each the multiples of 4 are
    dropped (Payne and Hanek's idea, without integers).
    """
    wide = convert(x, "f", 64)
    turns, rest = wide.lift(0.0), wide.lift(0.0)
    for i in range(7):
        piece = TWO_OVER_PI >> (174 - 29 * i) & (1 << 29) - 1
        rest = rest + _modulo_4(wide * (piece * 2.0 ** (-29 * (i + 1))))
        whole = rest.intrinsic("rint")
        turns, rest = turns + whole, rest - whole
    angle = convert(rest * (math.pi / 2), "f", 32)
    finite = turns.cmp("==", turns)
    t = turns.t.of("i", 32)
    return Val(x.b, x.b.fptosi(finite.pick(turns, 0.0).v, t.llvm), t), angle


def _modulo_4(x: Val) -> Val:
    return x - (x * 0.25).intrinsic("rint") * 4.0


def _sin_and_cos(r: Val) -> tuple[Val, Val]:
    z = r * r
    return (r * z).fma(poly(z, _SIN), r), (z * z).fma(poly(z, _COS), z.fma(-0.5, 1.0))


def _trigonometric(turn: int) -> Callable[[Val], Val]:
    def code(x: Val) -> Val:
        n, r = _quarter_turns(x)
        n = n + turn
        s, c = _sin_and_cos(r)
        out = (n & 1).cmp("!=", 0).pick(c, s)
        out = (n & 2).cmp("!=", 0).pick(-out, out)
        return out if turn else x.cmp("==", 0.0).pick(x, out)  # keeps -0

    return code


def tan(x: Val) -> Val:
    n, r = _quarter_turns(x)
    s, c = _sin_and_cos(r)
    odd = (n & 1).cmp("!=", 0)
    return x.cmp("==", 0.0).pick(x, odd.pick(-c, s) / odd.pick(s, c))  # keeps -0


FUNCTIONS: dict[str, Callable[[Val], Val]] = {
    "exp": exp, "expm1": expm1, "log": log, "log1p": log1p, "erf": erf, "tanh": tanh,
    "sin": _trigonometric(0), "cos": _trigonometric(1), "tan": tan,
}  # fmt: skip
LIBM = frozenset({*FUNCTIONS, "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"})


def function(name: str) -> Callable[[Val], Val]:
    """The emitter of a unary function of floats."""
    if name == "sqrt":
        return lambda x: x.intrinsic("sqrt")
    ours = FUNCTIONS.get(name)
    return lambda x: ours(x) if ours is not None and x.t.bits == 32 else x.libm(name)
