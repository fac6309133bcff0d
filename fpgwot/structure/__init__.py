"""Intra-domain structure matrices C1 (n, n) and C2 (m, m) as operators.

A solver asks a structure for products along an axis and for its elementwise square, never for its entries. With the square
loss that is all that Gromov-Wasserstein needs:

    E(T) = sum_ijkl (C1_ik - C2_jl)^2 T_ij T_kl = <s1 1' + 1 s2' - 2 A, T>,
    s1 = (C1*C1) T 1,   s2 = (C2*C2) T' 1,   A = C1 T C2'          (averaged with their transposed twins where asymmetric).

==============================  ================================  =========================  ===============================
class                           entry (i, k)                      cost of C X, per column    square
==============================  ================================  =========================  ===============================
Dense(array)                    any                               n^2 (BLAS)                 Dense
PowerDistance(n, power, scale)  scale |t_i - t_k|^power           n, power 1 or 2            power 2, or of rank 5
LaplaceKernel(n, scale)         offset + weight e^-lag/scale      n                          sum of two such kernels
Toeplitz(weights)               weights[|i - k|]                  n (band), n log n (FFT)    Toeplitz
LowRank(U, V), PointCloud(X)    U V', ||x_i - x_k||^2             n r, r = d + 2             of rank r^2, or Dense
==============================  ================================  =========================  ===============================
"""

from __future__ import annotations

from .base import KL_OFFSET, Dense, Structure, Transformed, kl_structures, loss_slopes
from .low_rank import LowRank, PointCloud
from .recognition import SCAN_FROM, as_structure
from .temporal import FFT_FROM, LaplaceKernel, PowerDistance, Toeplitz

__all__ = [
    "FFT_FROM", "KL_OFFSET", "SCAN_FROM", "Dense", "LaplaceKernel", "LowRank", "PointCloud", "PowerDistance", "Structure",
    "Toeplitz", "Transformed", "as_structure", "kl_structures", "loss_slopes",
]  # fmt: skip
