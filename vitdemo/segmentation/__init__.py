"""Unsupervised segmentation: pure functions from patch features and attention to masks."""

from vitdemo.segmentation.arrays import unit
from vitdemo.segmentation.cut import (
    ALL_ALIKE,
    MAX_EIGENVALUE,
    TAU,
    Foreground,
    Side,
    foreground,
    none_found,
    second_eigenvector,
)
from vitdemo.segmentation.edges import Refined, enlarge, refine
from vitdemo.segmentation.mass import keep_mass
from vitdemo.segmentation.outliers import clip_outliers, find_outliers
from vitdemo.segmentation.parts import Parts, find_parts
from vitdemo.segmentation.pca import Components, component_colours
from vitdemo.segmentation.similarity import (
    Correspondence,
    Match,
    best_matches,
    correspond,
    similarity_map,
    spread_out,
)
from vitdemo.segmentation.threshold import threshold_of

__all__ = [
    "ALL_ALIKE",
    "MAX_EIGENVALUE",
    "TAU",
    "Components",
    "Correspondence",
    "Foreground",
    "Match",
    "Parts",
    "Refined",
    "Side",
    "best_matches",
    "clip_outliers",
    "component_colours",
    "correspond",
    "enlarge",
    "find_outliers",
    "find_parts",
    "foreground",
    "keep_mass",
    "none_found",
    "refine",
    "second_eigenvector",
    "similarity_map",
    "spread_out",
    "threshold_of",
    "unit",
]
