"""Maps and pictures as text, for browsers."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def quantised(rows: NDArray[np.float32]) -> dict[str, Any]:
    """`[L, H, h, w]` as bytes: square roots of the share of the way from 0, or a lowest value below that, to each map's peak.

    At most 0.4% of the peak wrong, and least where values are small, so that patches keep their order.
    """
    peaks, floor = rows.max(axis=(2, 3)), float(min(0.0, rows.min()))
    shares = (rows - floor) / np.maximum(peaks - floor, 1e-12)[:, :, None, None]
    return {
        "data": base64_of(np.rint(np.sqrt(shares) * 255).astype(np.uint8)),
        "peaks": [float(f"{peak:.6g}") for peak in peaks.ravel()],
        "floor": float(f"{floor:.6g}"),
    }


def base64_of(values: NDArray[np.uint8]) -> str:
    """An array's memory as text."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def photo_url(image: Image.Image, side: int) -> str:
    """A picture as JPEG, its long side at most `side` pixels."""
    # `thumbnail` would turn a 1 x 5000 photo into one of 0 columns.
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return data_url(image.resize(size, Image.Resampling.LANCZOS).convert("RGB"), "JPEG", quality=88)


def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    """A picture as a file of this kind."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
