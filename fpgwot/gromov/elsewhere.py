"""What `ot.gromov` has and this package has not: the name is there, and a call says whose function to use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

BAPG = "Bregman projections in turn end at a plan that breaks a marginal; for proximal steps that keep both pass solver='PPA'"
BARYCENTER = "barycentres are POT's; under fpgwot.accelerate() they run on our solvers"
ELSEWHERE = {
    "BAPG_fused_gromov_wasserstein": f"{BAPG} to entropic_fused_gromov_wasserstein",
    "BAPG_fused_gromov_wasserstein2": f"{BAPG} to entropic_fused_gromov_wasserstein2",
    "BAPG_gromov_wasserstein": f"{BAPG} to entropic_gromov_wasserstein",
    "BAPG_gromov_wasserstein2": f"{BAPG} to entropic_gromov_wasserstein2",
    **dict.fromkeys(
        (
            "entropic_fused_gromov_barycenters",
            "entropic_gromov_barycenters",
            "fgw_barycenters",
            "gromov_barycenters",
            "semirelaxed_fgw_barycenters",
            "semirelaxed_gromov_barycenters",
            "update_barycenter_feature",
            "update_barycenter_structure",
        ),
        BARYCENTER,
    ),
    **dict.fromkeys(
        (
            "GW_distance_estimation",
            "div_between_product",
            "div_to_product",
            "format_partitioned_graph",
            "format_partitioned_samples",
            "fused_gromov_wasserstein_dictionary_learning",
            "fused_gromov_wasserstein_linear_unmixing",
            "fused_unbalanced_across_spaces_cost",
            "fused_unbalanced_across_spaces_divergence",
            "get_graph_partition",
            "get_graph_representants",
            "get_partition_and_representants_samples",
            "gromov_wasserstein_dictionary_learning",
            "gromov_wasserstein_linear_unmixing",
            "lowrank_gromov_wasserstein_samples",
            "pointwise_gromov_wasserstein",
            "quantized_fused_gromov_wasserstein",
            "quantized_fused_gromov_wasserstein_partitioned",
            "quantized_fused_gromov_wasserstein_samples",
            "sampled_gromov_wasserstein",
            "semirelaxed_init_plan",
            "unbalanced_co_optimal_transport",
            "unbalanced_co_optimal_transport2",
            "uot_cost_matrix",
            "uot_parameters_and_measures",
        ),
        "not a problem of fpgwot.solve",
    ),
}


def not_covered(name: str) -> Callable[..., NoReturn]:
    """A function of that name which raises NotImplementedError."""

    def call(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"use ot.gromov.{name}: {ELSEWHERE[name]}")

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"Not covered: use `ot.gromov.{name}`; {ELSEWHERE[name]}."
    return call
