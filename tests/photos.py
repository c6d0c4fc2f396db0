"""Labelled photos that a network learns in a few steps, in class folders and in archives of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

FOLDERS = ("blue_sky", "green", "red")
CLASSES = ("blue sky", "green", "red")
"""Their names, in the order of the outputs."""


def picture(channel: int, seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """Noise with one channel that stands out."""
    pixels = np.random.default_rng([channel, seed, 5]).integers(0, 70, (height, width, 3))
    pixels[:, :, channel] += 110
    return Image.fromarray(pixels.astype(np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def files(counts: Mapping[str, int]) -> dict[str, bytes]:
    """`CLASS/FILE` and its bytes: so many photos of each folder; the channels follow the order of the folders."""
    return {
        f"{folder}/{index:03}.png": png(picture((2 - place) % 3, index))
        for place, (folder, count) in enumerate(counts.items())
        for index in range(count)
    }


def in_folder(root: Path, content: Mapping[str, bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def in_zip(path: Path, content: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def in_tar(path: Path, content: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
