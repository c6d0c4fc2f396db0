"""Values that cross the borders between rooms. All are immutable; tensors in them are not to be written to."""

from vitdemo.types.forward import (
    Attribution,
    Box,
    Capture,
    Grid,
    LayerQueries,
    ModelOutput,
    PatchFeatures,
    PixelBatch,
    View,
)
from vitdemo.types.models import FUSIONS, Fusion, ModelSpec, Photo, Processor, Readout
from vitdemo.types.results import (
    Agreement,
    AttributionMap,
    Comparison,
    Explanation,
    Faithfulness,
    Label,
    Pair,
    Prediction,
    Reconstruction,
    Segmentation,
)

__all__ = [
    "FUSIONS",
    "Agreement",
    "Attribution",
    "AttributionMap",
    "Box",
    "Capture",
    "Comparison",
    "Explanation",
    "Faithfulness",
    "Fusion",
    "Grid",
    "Label",
    "LayerQueries",
    "ModelOutput",
    "ModelSpec",
    "Pair",
    "PatchFeatures",
    "Photo",
    "PixelBatch",
    "Prediction",
    "Processor",
    "Readout",
    "Reconstruction",
    "Segmentation",
    "View",
]
