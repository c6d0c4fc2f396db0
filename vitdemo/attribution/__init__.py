"""Where a model looked: tensors in, one number a patch out. Nothing here runs a network."""

from vitdemo.attribution.agreement import rank_correlation
from vitdemo.attribution.attention import FUSIONS, attention_map, fuse, resolve_head, resolve_layer
from vitdemo.attribution.describe import describe
from vitdemo.attribution.gradients import grad_cam, grad_rollout, legrad, relevance
from vitdemo.attribution.rollout import LayerQueries, rollout, streamed_rollout
from vitdemo.attribution.rows import attention_rows, mean_row
from vitdemo.attribution.similarity import similarity

__all__ = [
    "FUSIONS",
    "LayerQueries",
    "attention_map",
    "attention_rows",
    "describe",
    "fuse",
    "grad_cam",
    "grad_rollout",
    "legrad",
    "mean_row",
    "rank_correlation",
    "relevance",
    "resolve_head",
    "resolve_layer",
    "rollout",
    "similarity",
    "streamed_rollout",
]
