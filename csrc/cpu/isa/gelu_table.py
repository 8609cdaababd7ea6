"""Writes gelu_table.h: t * Phi(-t) on [0, 8) as 32 quartics, for gelu.h's AVX-512 GELU.

Run as ``python csrc/cpu/isa/gelu_table.py > csrc/cpu/isa/gelu_table.h``; the header is committed, so a
build needs no Python.  Segment j is centred on t = j / 4 and holds for |u| <= 1/8, u = t - j / 4.  Chebyshev
nodes give a near-minimax fit (largest error 1.2e-8); segment 0 is pinned to 0 at t = 0, so GELU(0) = 0.
"""

import math

import numpy as np


def tail(t: np.ndarray) -> np.ndarray:
    """t * Phi(-t): what GELU(x) falls short of max(x, 0) by, at t = |x|."""
    return t * np.array([0.5 * math.erfc(v / math.sqrt(2)) for v in t])


def quartic(segment: int) -> np.ndarray:
    """Ascending coefficients in u of the segment's quartic."""
    nodes = 0.125 * np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    if segment == 0:  # only u >= 0 occurs, and the value at 0 is exact
        nodes = 0.0625 * (1 + nodes / 0.125)
        powers = nodes[:, None] ** np.arange(1, 5)
        fit = np.linalg.lstsq(powers, tail(nodes), rcond=None)[0]
        return np.concatenate([[0.0], fit])
    return (
        np.polynomial.chebyshev.Chebyshev.fit(nodes, tail(segment / 4 + nodes), 4)
        .convert(kind=np.polynomial.Polynomial)
        .coef
    )


table = np.stack([quartic(j) for j in range(32)], axis=1)  # [5 powers, 32 segments]
print("// Made by gelu_table.py; [power of u][segment].")
print("// clang-format off")
print("alignas(64) static const float kGeluTail[5][32] = {")
for row in table:
    print("    {")
    for start in range(0, 32, 4):
        print("        " + " ".join(f"{v:.9e}f," for v in row[start : start + 4]))
    print("    },")
print("};")
print("// clang-format on")
