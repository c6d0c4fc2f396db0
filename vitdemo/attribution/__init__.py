"""Where a model looked: tensors in, one number a patch out. Nothing here runs a network."""

from vitdemo.attribution.agreement import rank_correlation
from vitdemo.attribution.attention import METHODS, attention_map, fuse, resolve_head, resolve_layer
from vitdemo.attribution.describe import describe

__all__ = ["METHODS", "attention_map", "describe", "fuse", "rank_correlation", "resolve_head", "resolve_layer"]
