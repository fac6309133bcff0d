"""POT's Gromov-Wasserstein functions on fpgwot's solvers: `import fpgwot.gromov as gromov` in place of `from ot import gromov`.

Names, argument order, defaults, return shapes and log keys are those of POT 0.9.7; docs/drop_in.md lists every difference.
No function holds an algorithm: each is one call of `fpgwot.solve`, or a sequence of them. What is not covered raises
NotImplementedError and names POT's function; `fpgwot.accelerate` hands it to POT.
"""

from __future__ import annotations

from typing import Any

from . import elsewhere
from .balanced import (
    fused_gromov_wasserstein,
    fused_gromov_wasserstein2,
    gromov_wasserstein,
    gromov_wasserstein2,
)
from .entropic import (
    entropic_fused_gromov_wasserstein,
    entropic_fused_gromov_wasserstein2,
    entropic_gromov_wasserstein,
    entropic_gromov_wasserstein2,
)
from .helpers import (
    gwggrad,
    gwloss,
    init_matrix,
    init_matrix_semirelaxed,
    solve_gromov_linesearch,
    solve_partial_gromov_linesearch,
    solve_semirelaxed_gromov_linesearch,
    tensor_product,
)
from .partial import (
    entropic_partial_fused_gromov_wasserstein,
    entropic_partial_fused_gromov_wasserstein2,
    entropic_partial_gromov_wasserstein,
    entropic_partial_gromov_wasserstein2,
    partial_fused_gromov_wasserstein,
    partial_fused_gromov_wasserstein2,
    partial_gromov_wasserstein,
    partial_gromov_wasserstein2,
)
from .semirelaxed import (
    entropic_semirelaxed_fused_gromov_wasserstein,
    entropic_semirelaxed_fused_gromov_wasserstein2,
    entropic_semirelaxed_gromov_wasserstein,
    entropic_semirelaxed_gromov_wasserstein2,
    semirelaxed_fused_gromov_wasserstein,
    semirelaxed_fused_gromov_wasserstein2,
    semirelaxed_gromov_wasserstein,
    semirelaxed_gromov_wasserstein2,
)
from .unified import (
    fused_unbalanced_gromov_wasserstein,
    fused_unbalanced_gromov_wasserstein2,
    solve_gromov,
    solve_gromov_batch,
)

__all__ = [
    "entropic_fused_gromov_wasserstein",
    "entropic_fused_gromov_wasserstein2",
    "entropic_gromov_wasserstein",
    "entropic_gromov_wasserstein2",
    "entropic_partial_fused_gromov_wasserstein",
    "entropic_partial_fused_gromov_wasserstein2",
    "entropic_partial_gromov_wasserstein",
    "entropic_partial_gromov_wasserstein2",
    "entropic_semirelaxed_fused_gromov_wasserstein",
    "entropic_semirelaxed_fused_gromov_wasserstein2",
    "entropic_semirelaxed_gromov_wasserstein",
    "entropic_semirelaxed_gromov_wasserstein2",
    "fused_gromov_wasserstein",
    "fused_gromov_wasserstein2",
    "fused_unbalanced_gromov_wasserstein",
    "fused_unbalanced_gromov_wasserstein2",
    "gromov_wasserstein",
    "gromov_wasserstein2",
    "gwggrad",
    "gwloss",
    "init_matrix",
    "init_matrix_semirelaxed",
    "partial_fused_gromov_wasserstein",
    "partial_fused_gromov_wasserstein2",
    "partial_gromov_wasserstein",
    "partial_gromov_wasserstein2",
    "semirelaxed_fused_gromov_wasserstein",
    "semirelaxed_fused_gromov_wasserstein2",
    "semirelaxed_gromov_wasserstein",
    "semirelaxed_gromov_wasserstein2",
    "solve_gromov",
    "solve_gromov_batch",
    "solve_gromov_linesearch",
    "solve_partial_gromov_linesearch",
    "solve_semirelaxed_gromov_linesearch",
    "tensor_product",
]


def __getattr__(name: str) -> Any:
    """Names of POT's that are not covered can be imported, and raise when they are called."""
    if name in elsewhere.ELSEWHERE:
        return elsewhere.not_covered(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
