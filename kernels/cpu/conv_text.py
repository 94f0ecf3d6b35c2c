"""The fragments of kernel text that make a product of matrices (blocks.py) a convolution (see conv.py)."""

from __future__ import annotations

from ..operands import fill_in
from .blocks import insert

# ---- rows: addresses of output pixels -----------------------------------------------------------------------------------

_ZEROS = """
zeros = scratch + at_zero
for i in range(depth):
    st_CT(zeros, i, CT(0))
"""
_BATCH_CONV = """
group_index = batch
a = x + group_index * per_group * x_c
b = w + group_index * w_group
"""
# What a phase of a transposed convolution computes: results at fd + i * sd, ..., by the taps that reach them.
_BATCH_TRANSPOSED = """
group_index = batch // phases
a = x + group_index * per_group * x_c
b = w + group_index * w_group
phase = batch % phases
fw = phase % sw
fh = phase // sw % sh
fd = phase // sw // sh
nd = max(OD - fd + sd - 1, 0) // sd
nh = max(OH - fh + sh - 1, 0) // sh
nw = max(OW - fw + sw - 1, 0) // sw
rows = images * nd * nh * nw
segments = 0
for kd in range(KD):
    for kh in range(KH):
        for kw in range(KW):
            if (fd + pd - kd * dd) % sd == 0 and (fh + ph - kh * dh) % sh == 0 and (fw + pw - kw * dw) % sw == 0:
                st_i64(table_b, segments, ((kd * KH + kh) * KW + kw) * depth)
                st_i64(table_t, 3 * segments, kd)
                st_i64(table_t, 3 * segments + 1, kh)
                st_i64(table_t, 3 * segments + 2, kw)
                segments += 1
"""
# A segment is a line of the window where its numbers lie together (`taps` is then KW), else a tap.
_CONV_TAPS = """
table_t = table_b + segments * 8
segment = 0
for kd in range(KD):
    for kh in range(KH):
        for kw in range(KW // taps):
            st_i64(table_t, 3 * segment, kd)
            st_i64(table_t, 3 * segment + 1, kh)
            st_i64(table_t, 3 * segment + 2, kw)
            segment += 1
for i in range(segments):
    st_i64(table_b, i, i * depth)
"""
# The place of a block's first row, and of each row after the one before: divisions by what is not known are slow. The rows past
# the last repeat it.
_FIRST = """
t = row // NW
qw = row - t * NW
n = t // NH
qh = t - n * NH
t = n
n = t // ND
qd = t - n * ND
"""
_NEXT_LINE = """
qw = 0
qh += 1
if qh == NH:
    qh = 0
    qd += 1
    if qd == ND:
        qd = 0
        n += 1
"""
_NEXT = """
if i < count - 1:
    qw += 1
    if qw == NW:
        NEXT_LINE
"""
_PLACE = """
od = qd
oh = qh
ow = qw
"""
_PLACE_TRANSPOSED = """
od = fd + qd * sd
oh = fh + qh * sh
ow = fw + qw * sw
"""
# Pixels of one line of results at a time. The inputs of a segment are X_STEP pixels apart; those outside are zeros, and where a
# segment of several taps is partly outside, the end of the input's line is copied and continued by zeros.
_ADDRESSES = """
FIRST
i = 0
lines = 0
while i < count:
    run = min(NW - qw, count - i)
    PLACE
    at_image = a + n * x_n
    for s in range(segments):
        kd = ld_i64(table_t, 3 * s)
        kh = ld_i64(table_t, 3 * s + 1)
        kw = ld_i64(table_t, 3 * s + 2)
        z = IN_D
        y = IN_H
        v = IN_W
        at_line = at_image + z * x_d + y * x_h
        entries = table_a + (s * (block_rows + PAD) + i) * 8
        low = run
        high = run
        outer = zeros
        if z >= 0 and z < D and y >= 0 and y < H:
            low = min(max(-(v // X_STEP), 0), run)
            high = max(min((W - taps - v) // X_STEP + 1, run), low)
            BORDERS
        LEFT
        for k in range(low, high):
            st_i64(entries, k, at_line + (v + k * X_STEP) * x_w)
        RIGHT
    TABLES
    i += run
    lines += 1
    NEXT_LINE
for i in range(count, count + PAD):
    REPEAT
    for s in range(segments):
        st_i64(table_a, s * (block_rows + PAD) + i, ld_i64(table_a, s * (block_rows + PAD) + count - 1))
"""
_OUTSIDE = {"BORDERS": "", "LEFT": "for k in range(low):\n    st_i64(entries, k, zeros)",
            "RIGHT": "for k in range(high, run):\n    st_i64(entries, k, zeros)"}  # fmt: skip
_CONTINUED = {
    "BORDERS": """
if taps > 1:
    outer = scratch + at_buffer + (lines * segments + s) * 2 * border * CI
    for side in range(2):
        begin = v + high * X_STEP if side else v
        size = ((run - high if side else low) - 1) * X_STEP + taps
        if (run > high if side else low > 0):
            before = min(max(-begin, 0), size) * per_group
            behind = max(min(W - begin, size) * per_group, before)
            target = outer + side * border * CI
            for j in range(before):
                st_CT(target, j, CT(0))
            for j in range(before, behind):
                put_CT(target, j, get_T(at_line + begin * x_w, j))
            for j in range(behind, size * per_group):
                st_CT(target, j, CT(0))
""",
    "LEFT": """
apart = 0 if outer == zeros else X_STEP * x_w
for k in range(low):
    st_i64(entries, k, outer + k * apart)
""",
    "RIGHT": """
outer += 0 if outer == zeros else border * CI
for k in range(high, run):
    st_i64(entries, k, outer + (k - high) * apart)
""",
}
# Where every output pixel sees the one input pixel at its own place.
_POINTWISE = """
if KD * KH * KW * images * D * H * OD * OH * sw == 1 and pw == 0 and W == OW:
    for i in range(count + PAD):
        r = row + min(i, count - 1)
        st_i64(table_a, i, a + r * x_w)
        st_i64(table_c, i, result + r * out_channels * MI)
else:
    GENERAL
"""
_BUFFER = """
buffer = scratch + at_buffer
FIRST
for i in range(count + PAD):
    PLACE
    TABLES
    at_row = buffer + min(i, count - 1) * KD * KH * KW * per_group * CI
    for s in range(segments):
        st_i64(table_a, s * (block_rows + PAD) + i, at_row + s * depth * CI)
    if i < count:
        at_image = a + n * x_n
        COPY
    NEXT
"""
# A row of the window that lies together is copied in one run.
_COPY_CONV = """
together = dw == 1 and x_c == MI and x_w == per_group * MI
for kd in range(KD):
    for kh in range(KH):
        z = IN_D
        y = IN_H
        kw = 0
        v = IN_W
        source = at_image + z * x_d + y * x_h + v * x_w
        inside = z >= 0 and z < D and y >= 0 and y < H
        if inside and together:
            low = min(max(-v, 0), KW) * per_group
            high = max(min(W - v, KW) * per_group, low)
            for j in range(low):
                st_CT(at_row, j, CT(0))
            for j in range(low, high):
                put_CT(at_row, j, get_T(source, j))
            for j in range(high, KW * per_group):
                st_CT(at_row, j, CT(0))
        elif inside:
            for kw in range(KW):
                at_tap = at_row + kw * per_group * CI
                if v >= 0 and v < W:
                    for j in range(per_group):
                        put_CT(at_tap, j, get_T(source + j * x_c, 0))
                else:
                    for j in range(per_group):
                        st_CT(at_tap, j, CT(0))
                v += dw
                source += dw * x_w
        else:
            for j in range(KW * per_group):
                st_CT(at_row, j, CT(0))
        at_row += KW * per_group * CI
"""
_COPY_TRANSPOSED = """
for s in range(segments):
    kd = ld_i64(table_t, 3 * s)
    kh = ld_i64(table_t, 3 * s + 1)
    kw = ld_i64(table_t, 3 * s + 2)
    z = IN_D
    y = IN_H
    v = IN_W
    at_tap = at_row + s * per_group * CI
    if z >= 0 and z < D and y >= 0 and y < H and v >= 0 and v < W:
        source = at_image + z * x_d + y * x_h + v * x_w
        for j in range(per_group):
            put_CT(at_tap, j, get_T(source + j * x_c, 0))
    else:
        for j in range(per_group):
            st_CT(at_tap, j, CT(0))
"""
# The places of results: of one row, of a run of them, of the rows that repeat the last.
_TABLES_LAST = """
st_i64(table_c, i, result + (((n * OD + od) * OH + oh) * OW + ow) * out_channels * MI)
"""
_RUN_LAST = """
for k in range(run):
    st_i64(table_c, i + k, result + (((n * OD + od) * OH + oh) * OW + ow + k * Y_STEP) * out_channels * MI)
"""
_REPEAT_LAST = """
st_i64(table_c, i, ld_i64(table_c, count - 1))
"""
# A row-major result goes through a block in scratch, whose rows are all channels of a pixel.
_TABLES_MAJOR = """
st_i64(table_c, i, scratch + at_result + min(i, count - 1) * out_channels * MI)
st_i64(table_r, i, ((n * out_channels * OD + od) * OH + oh) * OW + ow)
"""
_RUN_MAJOR = """
for k in range(run):
    st_i64(table_c, i + k, scratch + at_result + (i + k) * out_channels * MI)
    st_i64(table_r, i + k, ((n * out_channels * OD + od) * OH + oh) * OW + ow + k * Y_STEP)
"""
_REPEAT_MAJOR = """
st_i64(table_c, i, ld_i64(table_c, count - 1))
st_i64(table_r, i, ld_i64(table_r, count - 1))
"""
_SCATTER = """
high = min(COLUMN_OF_LAST, columns)
for j in range(group_index * columns + COLUMN_OF_FIRST, group_index * columns + high):
    plane = result + j * OD * OH * OW * MI
    for i in range(count):
        put_T(plane, ld_i64(table_r, i), get_T(scratch + at_result + i * out_channels * MI, j))
"""
_PACK = """
for s in range(KD * KH * KW):
    for i in range(per_group):
        at_k = panel + (s * per_group + i) * padded * CI
        source = b + column * w_out + i * w_in + s * MI
        for j in range(width):
            put_CT(at_k, j, get_T(source + j * w_out, 0))
        for j in range(width, padded):
            st_CT(at_k, j, CT(0))
"""


def rows_fragments(transposed: bool, buffered: bool, y_last: bool, packed: bool) -> dict[str, str]:
    """The arguments of `nest_text` for a convolution whose rows are output pixels."""
    if transposed:
        inputs = {f"IN_{a.upper()}": f"(o{a} + p{a} - k{a} * d{a}) // s{a}" for a in "dhw"}
        words, place = {"ND": "nd", "NH": "nh", "NW": "nw"}, _PLACE_TRANSPOSED
    else:
        inputs = {f"IN_{a.upper()}": f"o{a} * s{a} - p{a} + k{a} * d{a}" for a in "dhw"}
        words, place = {"ND": "OD", "NH": "OH", "NW": "OW"}, _PLACE
    if buffered:
        copy, tables = _COPY_TRANSPOSED if transposed else _COPY_CONV, _TABLES_LAST if y_last else _TABLES_MAJOR
        fill = insert(_BUFFER, FIRST=_FIRST, NEXT=insert(_NEXT, NEXT_LINE=_NEXT_LINE), PLACE=place, TABLES=tables, COPY=copy)
    else:
        tables, repeat = (_RUN_LAST, _REPEAT_LAST) if y_last else (_RUN_MAJOR, _REPEAT_MAJOR)
        fill = insert(_ADDRESSES, FIRST=_FIRST, NEXT_LINE=_NEXT_LINE, PLACE=place, TABLES=tables, REPEAT=repeat,
                      **(_OUTSIDE if transposed else _CONTINUED))  # fmt: skip
        words |= {"X_STEP": "1", "Y_STEP": "sw"} if transposed else {"X_STEP": "sw", "Y_STEP": "1"}
    fill = fill_in(fill, **words)
    if y_last and not buffered and not transposed:
        fill = insert(_POINTWISE, GENERAL=fill)
    for word, expression in inputs.items():
        fill = fill.replace(word, expression)
    if transposed:
        setup = "table_t = table_b + KD * KH * KW * 8\n"
    else:
        setup = "st_i64(table_b, 0, 0)\n" if buffered else _CONV_TAPS
    setup += "" if buffered else _ZEROS
    return {
        "base": "b + column * total * CI" if packed else "scratch + at_panel + (column - first_column) * total * CI",
        "setup": setup,
        "batch": _BATCH_TRANSPOSED if transposed else _BATCH_CONV,
        "fill": fill,
        "pack_panel": "" if packed else _PACK,
        "after": "" if y_last else _SCATTER,
        "column_at": "group_index * columns + column",
    }


# ---- planes: windows of pixels packed into panels -----------------------------------------------------------------------

PLANES_BATCH = """
image = batch // group
group_index = batch % group
a = w + group_index * rows * depth * CI
source_all = x + (image * channels + group_index * per_group) * D * H * W * MI
c = result + batch * rows * columns * MI
"""
_PLANES_ROWS = """
for i in range(count + PAD):
    r = row + min(i, count - 1)
    st_i64(table_a, i, A_ROW)
    st_i64(table_c, i, c + r * columns * MI)
    st_i64(table_r, i, (group_index * rows + r) * MI)
"""
_PLANES_COPY = """
a = w + group_index * rows * depth * MI
buffer = scratch + at_buffer
for i in range(count):
    for k in range(depth):
        put_CT(buffer, i * depth + k, get_T(a + (row + i) * depth * MI, k))
"""
PLANES_FILL = {
    False: _PLANES_ROWS.replace("A_ROW", "a + r * depth * CI"),
    True: _PLANES_COPY + _PLANES_ROWS.replace("A_ROW", "buffer + min(i, count - 1) * depth * CI"),
}
# Pixels of one output row at a time: for each tap they are a run of an input row, cut off where the padding begins.
PLANES_PACK = """
done = 0
while done < width:
    t = (column + done) // OW
    ow = column + done - t * OW
    od = t // OH
    oh = t - od * OH
    run = min(OW - ow, width - done)
    for kd in range(KD):
        z = od * sd - pd + kd * dd
        for kh in range(KH):
            y = oh * sh - ph + kh * dh
            for kw in range(KW):
                v = ow * sw - pw + kw * dw
                low = run
                high = run
                if z >= 0 and z < D and y >= 0 and y < H:
                    low = min(max(-(v // sw), 0), run)
                    high = max(min(-((v - W) // sw), run), low)
                tap = (kd * KH + kh) * KW + kw
                for i in range(per_group):
                    target = panel + ((i * KD * KH * KW + tap) * padded + done) * CI
                    source = source_all + (((i * D + z) * H + y) * W + v) * MI
                    for j in range(low):
                        st_CT(target, j, CT(0))
                    if sw == 1:
                        for j in range(low, high):
                            put_CT(target, j, get_T(source, j))
                    else:
                        for j in range(low, high):
                            put_CT(target, j, get_T(source + j * sw * MI, 0))
                    for j in range(high, run):
                        st_CT(target, j, CT(0))
    done += run
if width < padded:
    for k in range(total):
        for j in range(width, padded):
            st_CT(panel, k * padded + j, CT(0))
"""
