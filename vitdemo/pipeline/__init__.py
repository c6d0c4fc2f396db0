"""From a photo and a request to predictions, maps and masks."""

from vitdemo.pipeline.pipeline import Pipeline

__all__ = ["Pipeline"]
