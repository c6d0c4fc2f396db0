"""Attribution methods: pure functions from recorded tensors to one number per patch."""

from vitdemo.attribution.agreement import agreement_of, iou, overlap, rank_correlation
from vitdemo.attribution.attention import attention_map, fuse, patch_map
from vitdemo.attribution.describe import describe, of_single_patches, why_flat
from vitdemo.attribution.gradients import grad_cam, grad_rollout, legrad, relevance
from vitdemo.attribution.localization import (
    box_coverage,
    earth_movers_distance,
    energy_inside,
    mask_coverage,
    share_seen,
    top_patches_iou,
)
from vitdemo.attribution.rollout import rollout, rollout_vit_explain
from vitdemo.attribution.rows import attention_rows, mean_row, patch_attention
from vitdemo.attribution.similarity import similarity

__all__ = [
    "agreement_of",
    "attention_map",
    "attention_rows",
    "box_coverage",
    "describe",
    "earth_movers_distance",
    "energy_inside",
    "fuse",
    "grad_cam",
    "grad_rollout",
    "iou",
    "legrad",
    "mask_coverage",
    "mean_row",
    "of_single_patches",
    "overlap",
    "patch_attention",
    "patch_map",
    "rank_correlation",
    "relevance",
    "rollout",
    "rollout_vit_explain",
    "share_seen",
    "similarity",
    "top_patches_iou",
    "why_flat",
]
