"""Values that cross the borders between rooms. All are immutable; tensors in them are not to be written to."""

from vitdemo.types.forward import (
    Attribution,
    Box,
    Capture,
    LayerQueries,
    ModelOutput,
    PatchFeatures,
    PixelBatch,
    Reconstruct,
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
    "Reconstruct",
    "Reconstruction",
    "Segmentation",
    "View",
]
