"""Device functions that the kernels share: tiles of planar images, GELU, 1x1 convolutions, LayerNorm.

A tile is P consecutive pixels of one image (rows follow one another) by all C channels, in float32.  Widths
such as 36 and 48 are no powers of two, so a tile is a tuple of pieces [P, 64], [P, 32], [P, 16] whose sum is
C rounded up to 16: 48 is 32 + 16, without waste; 36 pays for 48 channels instead of 64.  Channels beyond C
and pixels outside the image are 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

# ---- pieces of a width -------------------------------------------------------------------------------------


@triton.constexpr_function
def pieces(c):
    rest, sizes = -(-c // 16) * 16, []
    for size in (64, 32, 16):
        sizes += [size] * (rest // size)
        rest %= size
    return sizes


@triton.constexpr_function
def count(c):
    return len(pieces(c))


@triton.constexpr_function
def size(c, i):
    return pieces(c)[i]


@triton.constexpr_function
def start(c, i):
    return sum(pieces(c)[:i])


@triton.jit
def channels(C: tl.constexpr, i: tl.constexpr):
    """The numbers of the channels of piece i."""
    return start(C, i) + tl.arange(0, size(C, i))  # [piece]


# ---- loads and stores --------------------------------------------------------------------------------------


@triton.jit
def load(ptr, plane, pixels, inside, C: tl.constexpr):
    """Tile of the image at ``ptr`` [C, plane]; pixels, inside: [P]."""
    out = ()
    for i in tl.static_range(count(C)):
        c = channels(C, i)
        address = (ptr + c.to(tl.int64) * plane)[None, :] + pixels[:, None]
        value = tl.load(address, mask=inside[:, None] & (c < C)[None, :], other=0.0)
        out = out + (value.to(tl.float32),)
    return out


@triton.jit
def store(ptr, plane, pixels, inside, tile, C: tl.constexpr):
    for i in tl.static_range(count(C)):
        c = channels(C, i)
        address = (ptr + c.to(tl.int64) * plane)[None, :] + pixels[:, None]
        tl.store(address, tile[i].to(ptr.dtype.element_ty), mask=inside[:, None] & (c < C)[None, :])


@triton.jit
def load_vector(ptr, C: tl.constexpr):
    """Parameters [C] at ``ptr`` as a tuple of [piece]."""
    out = ()
    for i in tl.static_range(count(C)):
        c = channels(C, i)
        out = out + (tl.load(ptr + c, mask=c < C, other=0.0).to(tl.float32),)
    return out


@triton.jit
def store_vector(ptr, vector, C: tl.constexpr):
    for i in tl.static_range(count(C)):
        c = channels(C, i)
        tl.store(ptr + c, vector[i], mask=c < C)


@triton.jit
def neighbours(pixels, inside, y, x, H, W):
    """Pixels y rows below and x columns to the right, and which of them are in the image: [P], [P]."""
    row, column = pixels // W + y, pixels % W + x
    return pixels + (y * W + x), inside & (row >= 0) & (row < H) & (column >= 0) & (column < W)


# ---- arithmetic on tiles -----------------------------------------------------------------------------------


@triton.jit
def gelu(x):
    """GELU by docs/architecture.md's form max(x, 0) - |x| 2^p(|x|): absolute error 8.4e-7."""
    a = tl.minimum(tl.abs(x), 16.0)  # 2^p is 0 from there on; infinity must not meet it
    p = -0.00047329405 * a + 0.0070844615
    p = p * a - 0.05182717
    p = p * a - 0.45999264
    p = p * a - 1.1507878
    p = p * a - 1.0000376
    return tl.where(x < 0, 0.0, x) - a * tl.exp2(p)  # so that NaN stays


@triton.jit
def gelu_gradient(x):
    """GELU'(x) = Phi(x) + x phi(x): absolute error 6e-7.

    Phi(-|x|) = 2^p(|x|), p fitted to make its absolute error smallest (3e-7); `gelu`'s p, fitted to |x|
    Phi(-|x|), errs by 1.3e-5 near 0.
    """
    a = tl.minimum(tl.abs(x), 16.0)
    p = -0.000518858836 * a + 0.00738720184
    p = p * a - 0.0525380183
    p = p * a - 0.459276684
    p = p * a - 1.15108314
    p = p * a - 1.00000084
    left = tl.exp2(p) - a * (0.3989422804014327 * tl.exp2(-0.7213475204444817 * a * a))  # GELU'(-a)
    return tl.where(x < 0, left, 1.0 - left) + (x - x)  # NaN stays


@triton.jit
def add(a, b, C: tl.constexpr):
    out = ()
    for i in tl.static_range(count(C)):
        out = out + (a[i] + b[i],)
    return out


@triton.jit
def multiply(a, b, C: tl.constexpr):
    out = ()
    for i in tl.static_range(count(C)):
        out = out + (a[i] * b[i],)
    return out


@triton.jit
def gelu_tile(a, C: tl.constexpr):
    out = ()
    for i in tl.static_range(count(C)):
        out = out + (gelu(a[i]),)
    return out


@triton.jit
def through_gelu(gradient, z, C: tl.constexpr):
    """gradient * GELU'(z)."""
    out = ()
    for i in tl.static_range(count(C)):
        out = out + (gradient[i] * gelu_gradient(z[i]),)
    return out


@triton.jit
def zeros(C: tl.constexpr):
    """A tuple of [piece], to add column sums to."""
    out = ()
    for i in tl.static_range(count(C)):
        out = out + (tl.zeros((size(C, i),), tl.float32),)
    return out


@triton.jit
def add_columns(sums, tile, C: tl.constexpr):
    """sums + the tile's sum over its pixels."""
    out = ()
    for i in tl.static_range(count(C)):
        out = out + (sums[i] + tl.sum(tile[i], 0),)
    return out


@triton.jit
def over_channels(tile, C: tl.constexpr):
    """Sum over the channels: [P]."""
    out = tl.sum(tile[0], 1)
    for i in tl.static_range(1, count(C)):
        out += tl.sum(tile[i], 1)
    return out


@triton.jit
def normalise(tile, inside, eps, C: tl.constexpr):
    """(x - mean) / sqrt(variance + eps) over the channels, and the root's reciprocal [P].

    Pixels that are not ``inside`` stay 0 even where eps is: their products are summed too.
    """
    mean = over_channels(tile, C) / C
    centred = ()
    for i in tl.static_range(count(C)):
        real = (channels(C, i) < C)[None, :]
        centred = centred + (tl.where(real, tile[i] - mean[:, None], 0.0),)
    rstd = 1.0 / tl.sqrt(over_channels(multiply(centred, centred, C), C) / C + tl.where(inside, eps, 1.0))
    out = ()
    for i in tl.static_range(count(C)):
        out = out + (centred[i] * rstd[:, None],)
    return out, rstd


@triton.jit
def affine(tile, scale, shift, C: tl.constexpr):
    """tile * scale + shift, both tuples of [piece]."""
    out = ()
    for i in tl.static_range(count(C)):
        out = out + (tile[i] * scale[i][None, :] + shift[i][None, :],)
    return out


@triton.jit
def through_normalise(gradient, normal, rstd, scale, C: tl.constexpr):
    """Gradient of the input of ``affine(normalise(x), scale, shift)`` from that of its result."""
    inner = ()
    for i in tl.static_range(count(C)):
        inner = inner + (gradient[i] * scale[i][None, :],)
    mean = over_channels(inner, C) / C
    slope = over_channels(multiply(inner, normal, C), C) / C
    out = ()
    for i in tl.static_range(count(C)):
        out = out + ((inner[i] - mean[:, None] - normal[i] * slope[:, None]) * rstd[:, None],)
    return out


@triton.jit
def taps3x3(ptr, plane, pixels, inside, weight, bias, H, W, C: tl.constexpr):
    """Depthwise 3x3 convolution of the image at ``ptr`` [C, H, W] by weight [C, 3, 3], bias [C]."""
    shift = load_vector(bias, C)
    out = ()
    for i in tl.static_range(count(C)):
        c = channels(C, i)
        column = ptr + c.to(tl.int64) * plane
        value = tl.zeros((pixels.shape[0], size(C, i)), tl.float32) + shift[i][None, :]
        for tap in range(9):  # a loop: unrolled, the taps' addresses would not fit the registers
            there, known = neighbours(pixels, inside, tap // 3 - 1, tap % 3 - 1, H, W)
            mask = known[:, None] & (c < C)[None, :]
            source = tl.load(column[None, :] + there[:, None], mask=mask, other=0.0).to(tl.float32)
            value += source * tl.load(weight + c * 9 + tap, mask=c < C, other=0.0).to(tl.float32)[None, :]
        out = out + (value,)
    return out


# ---- 1x1 convolutions --------------------------------------------------------------------------------------


@triton.jit
def load_matrix(weight, row, column, CO: tl.constexpr, CI: tl.constexpr, DOT: tl.constexpr):
    """weight[o * row + i * column] as a tuple of pieces [ci, co] of dtype DOT.

    To be loaded before a loop: inside, the compiler keeps the addresses of all its elements in registers.
    """
    out = ()
    for o in tl.static_range(count(CO)):
        for i in tl.static_range(count(CI)):
            co, ci = channels(CO, o), channels(CI, i)
            address = weight + (ci[:, None] * column + co[None, :] * row)
            out = out + (tl.load(address, mask=(ci < CI)[:, None] & (co < CO)[None, :], other=0.0).to(DOT),)
    return out


@triton.jit
def linear_onto(
    sums, tile, w, CO: tl.constexpr, CI: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr
):
    """sums + the 1x1 convolution of tile by w = `load_matrix`: a tile of CO channels from one of CI."""
    out = ()
    for o in tl.static_range(count(CO)):
        piece = sums[o]
        for i in tl.static_range(count(CI)):
            piece = tl.dot(tile[i].to(DOT), w[o * count(CI) + i], piece, input_precision=PRECISION)
        out = out + (piece,)
    return out


@triton.jit
def zero_tile(TILE: tl.constexpr, C: tl.constexpr):
    out = ()
    for i in tl.static_range(count(C)):
        out = out + (tl.zeros((TILE, size(C, i)), tl.float32),)
    return out


@triton.jit
def linear(tile, w, CO: tl.constexpr, CI: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """`linear_onto` zeros."""
    return linear_onto(zero_tile(tile[0].shape[0], CO), tile, w, CO, CI, DOT, PRECISION)


@triton.jit
def linear_back(tile, w, CO: tl.constexpr, CI: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """The transposed convolution: a tile of CI channels from one of CO."""
    out = ()
    for i in tl.static_range(count(CI)):
        piece = tl.zeros((tile[0].shape[0], size(CI, i)), tl.float32)
        for o in tl.static_range(count(CO)):
            piece = tl.dot(tile[o].to(DOT), tl.trans(w[o * count(CI) + i]), piece, input_precision=PRECISION)
        out = out + (piece,)
    return out


@triton.jit
def add_bias(tile, bias, C: tl.constexpr):
    """tile + bias, bias: pointer to [C]."""
    vector = load_vector(bias, C)
    out = ()
    for i in tl.static_range(count(C)):
        out = out + (tile[i] + vector[i][None, :],)
    return out


@triton.jit
def zero_matrix(CO: tl.constexpr, CI: tl.constexpr):
    """A tuple of pieces [co, ci], to add `outer` products to."""
    out = ()
    for o in tl.static_range(count(CO)):
        for i in tl.static_range(count(CI)):
            out = out + (tl.zeros((size(CO, o), size(CI, i)), tl.float32),)
    return out


@triton.jit
def outer(sums, a, b, CO: tl.constexpr, CI: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """sums + a^T b over the pixels: a tile of CO channels, b of CI."""
    out = ()
    for o in tl.static_range(count(CO)):
        for i in tl.static_range(count(CI)):
            left = tl.trans(a[o].to(DOT))
            out = out + (tl.dot(left, b[i].to(DOT), sums[o * count(CI) + i], input_precision=PRECISION),)
    return out


@triton.jit
def store_matrix(ptr, matrix, CO: tl.constexpr, CI: tl.constexpr, step: tl.constexpr = 1):
    """matrix -> [CO, CI, step][..., 0] at ``ptr``."""
    for o in tl.static_range(count(CO)):
        for i in tl.static_range(count(CI)):
            co, ci = channels(CO, o), channels(CI, i)
            mask = (co < CO)[:, None] & (ci < CI)[None, :]
            address = ptr + (co[:, None] * CI + ci[None, :]) * step
            tl.store(address, matrix[o * count(CI) + i], mask=mask)
