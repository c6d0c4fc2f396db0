"""How a network works, in numbers to be drawn: pure functions on its weights and on what a forward pass recorded."""

from vitdemo.inspection.costs import Cost, Sizes, costs, tokens_of
from vitdemo.inspection.distance import attention_distance, receptive_field
from vitdemo.inspection.filters import filter_pictures, principal_filters
from vitdemo.inspection.positions import bias_pictures, position_similarity
from vitdemo.inspection.steps import HeadSteps, head_steps

__all__ = [
    "Cost",
    "HeadSteps",
    "Sizes",
    "attention_distance",
    "bias_pictures",
    "costs",
    "filter_pictures",
    "head_steps",
    "position_similarity",
    "principal_filters",
    "receptive_field",
    "tokens_of",
]
