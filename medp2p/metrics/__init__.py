"""How far a predicted image is from its reference: arrays in, numbers out.

A number means little without its definition, so every metric is computed under a named
`Profile`: the two SynthRAD challenges' definitions for CT (`PROFILES`), or a stated range of
values for any other image (`range_profile`). ``docs/metrics.md`` has the definitions in full.

`measure` computes everything for one case. `compute_metrics` computes the few numbers that
training's validation looks at.
"""

from medp2p.metrics.consistency import flicker
from medp2p.metrics.curves import (
    Curve,
    Histogram2D,
    bland_altman_histogram,
    error_by_slice,
    joint_histogram,
)
from medp2p.metrics.information import mutual_information
from medp2p.metrics.interfaces import depth_mm, error_by_depth, error_by_interface_distance
from medp2p.metrics.labels import LABEL_SETS
from medp2p.metrics.measure import (
    Measures,
    available_metrics,
    compute_metrics,
    measure,
    metric_names,
    voxel_metrics,
)
from medp2p.metrics.overlap import (
    SURFACE_TOLERANCE_MM,
    label_scores,
    overlap_scores,
    tissue_overlap,
)
from medp2p.metrics.profiles import (
    HU_RANGE_SYNTHRAD2023,
    HU_RANGE_SYNTHRAD2025,
    PICTURE_PROFILE,
    PROFILES,
    Profile,
    choose_profile,
    range_profile,
)
from medp2p.metrics.sharpness import edge_width_ratio, power_ratio, tissue_depth_mm
from medp2p.metrics.structure import (
    MARGIN,
    MS_SSIM_MINIMUM_SIZE,
    MS_SSIM_WEIGHTS,
    STRUCTURE_METRICS,
    WINDOW,
    ms_ssim,
    ssim,
    ssim_2d,
)
from medp2p.metrics.tissues import TISSUES_HU, Tissues, in_tissue, tissue_metrics
from medp2p.metrics.voxels import VOXEL_METRICS, masked_bias, masked_mae, ncc, psnr, rmse
from medp2p.metrics.wepl import (
    STOPPING_POWER,
    WeplDifference,
    relative_stopping_power,
    wepl_difference,
)

__all__ = [
    "HU_RANGE_SYNTHRAD2023",
    "HU_RANGE_SYNTHRAD2025",
    "LABEL_SETS",
    "MARGIN",
    "MS_SSIM_MINIMUM_SIZE",
    "MS_SSIM_WEIGHTS",
    "PICTURE_PROFILE",
    "PROFILES",
    "STOPPING_POWER",
    "STRUCTURE_METRICS",
    "SURFACE_TOLERANCE_MM",
    "TISSUES_HU",
    "VOXEL_METRICS",
    "WINDOW",
    "Curve",
    "Histogram2D",
    "Measures",
    "Profile",
    "Tissues",
    "WeplDifference",
    "available_metrics",
    "bland_altman_histogram",
    "choose_profile",
    "compute_metrics",
    "depth_mm",
    "edge_width_ratio",
    "error_by_depth",
    "error_by_interface_distance",
    "error_by_slice",
    "flicker",
    "in_tissue",
    "joint_histogram",
    "label_scores",
    "masked_bias",
    "masked_mae",
    "measure",
    "metric_names",
    "ms_ssim",
    "mutual_information",
    "ncc",
    "overlap_scores",
    "power_ratio",
    "psnr",
    "range_profile",
    "relative_stopping_power",
    "rmse",
    "ssim",
    "ssim_2d",
    "tissue_depth_mm",
    "tissue_metrics",
    "tissue_overlap",
    "voxel_metrics",
    "wepl_difference",
]
