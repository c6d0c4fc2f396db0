"""Objects and their parts: features and attention of patches in, masks out. Nothing here runs a network."""

from vitdemo.segmentation.contours import Outline, areas, outlines
from vitdemo.segmentation.cut import Foreground, Side, affinity, foreground, second_eigenvector
from vitdemo.segmentation.edges import Refined, enlarge, refine
from vitdemo.segmentation.mass import fused_mass, keep_mass
from vitdemo.segmentation.outliers import Outliers, clip_outliers, find_outliers
from vitdemo.segmentation.parts import Parts, find_parts
from vitdemo.segmentation.pca import Components, component_colours, component_foreground
from vitdemo.segmentation.similarity import Correspondence, Match, best_matches, correspond, similarity_map

__all__ = [
    "Components",
    "Correspondence",
    "Foreground",
    "Match",
    "Outliers",
    "Outline",
    "Parts",
    "Refined",
    "Side",
    "affinity",
    "areas",
    "best_matches",
    "clip_outliers",
    "component_colours",
    "component_foreground",
    "correspond",
    "enlarge",
    "find_outliers",
    "find_parts",
    "foreground",
    "fused_mass",
    "keep_mass",
    "outlines",
    "refine",
    "second_eigenvector",
    "similarity_map",
]
