r"""Temporal costs, priors, rewards and structures of two sequences, as plain NumPy arrays to pass to `solve`.

Conventions of the whole module. Frames are counted from 1 in the formulas: array row 0 is frame i = 1, and frame n of a
sequence of n frames sits at normalised time i/n = 1. n and m are the numbers of rows and columns of the array that is
returned. Where a function can include a sink (virtual frame), the sink is row 0 and column 0, and then n and m in the
formulas count it, as in the published codes of VAVA and OPEL.

    d_ij = |i/n - j/m|          offset from the diagonal (consistency)
    o_ij = |j/m - t_i/m|        offset from the nearest column t_i of row i (optimality; one-sided: rows to columns)
    s    = sqrt(1/n^2 + 1/m^2)  unit of the priors: two frames one step apart are about one unit apart
"""

from .priors import KINDS, diagonal_cost, gaussian_prior, idm_reward, laplace_prior, mixture_prior, optimality_offset
from .structures import band_structure, different_structure, far_structure, laplace_structure, segment_structure

__all__ = [
    "KINDS",
    "band_structure",
    "diagonal_cost",
    "different_structure",
    "far_structure",
    "gaussian_prior",
    "idm_reward",
    "laplace_prior",
    "laplace_structure",
    "mixture_prior",
    "optimality_offset",
    "segment_structure",
]
