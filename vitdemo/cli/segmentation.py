"""`segment`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from vitdemo.cli.common import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    add_command,
    add_inference,
    pipeline_of,
    positive,
    print_json,
    source_of,
    specs_of,
    write,
)
from vitdemo.errors import EngineError, ImageError, OptionError
from vitdemo.options.segment import METHODS, RESOLUTION, SegmentRequest, parse_head
from vitdemo.registry import segmenting_model

if TYPE_CHECKING:
    from vitdemo.pipeline import Pipeline
    from vitdemo.types import ModelSpec, Photo, Segmentation

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Endings of the files in a folder that are taken for images."""

HELD = 100_000_000
"""Pixels of photos that are held in memory; the others are read from the disk again when they are needed."""


def add_commands(commands: Any) -> None:
    """Define the command."""
    segment = add_command(commands, "segment", run_segment, "split images into objects, parts and similar patches")
    segment.add_argument("images", nargs="+", metavar="IMAGE", help="path, folder, URL, or - for standard input")
    segment.add_argument(
        "--out-dir", type=Path, required=True, metavar="DIR", help="write one folder per image into this one"
    )
    own = SegmentRequest()
    segment.add_argument("--method", default=own.method, help=f"one of {', '.join(METHODS)} (default: {own.method})")
    segment.add_argument(
        "--threshold", type=float, default=own.threshold, help="for attention: share that is kept (default: 0.6)"
    )
    segment.add_argument("--head", default=own.head, help="for attention: mean, max, min, all, or a number from 0")
    segment.add_argument("--point", metavar="X,Y", help="for similarity: pixels of the upright first photo")
    segment.add_argument("--objects", type=int, default=own.objects, metavar="N", help="for foreground (default: 1)")
    segment.add_argument(
        "--tau",
        type=float,
        help="for foreground, parts and pca: cosine from which patches count as similar (default: suits model and photo)",
    )
    segment.add_argument("--matches", type=int, default=own.matches, metavar="N", help="for similarity (default: 5)")
    segment.add_argument("--parts", type=int, default=own.parts, metavar="N", help="for parts (default: 4)")
    segment.add_argument("--refine", action="store_true", help="let masks follow the edges of the photo")
    segment.add_argument("--clip-outliers", action="store_true", help="smooth over patches of huge features")
    segment.add_argument(
        "--whole", action="store_true", help="for parts and pca: all of the photo, not only its foreground"
    )
    segment.add_argument(
        "--resolution",
        type=positive,
        default=RESOLUTION,
        metavar="LONG_SIDE",
        help=f"enlarge the photo to this many pixels (default: {RESOLUTION})",
    )
    add_inference(segment)


def run_segment(options: argparse.Namespace) -> int:
    request = _request(options)
    if not options.model:
        options.model = [segmenting_model().name]
    specs, pipeline = specs_of(options, every=False), pipeline_of(options)
    if len(specs) > 1:
        raise OptionError("segment takes one model.")
    write(options.out_dir, lambda: options.out_dir.mkdir(parents=True, exist_ok=True))
    report = _Report(options, [*_expanded(options.images)])
    try:
        (_one_by_one if request.method in ("attention", "foreground") else _together)(
            pipeline, specs[0], request, report
        )
    finally:
        report.bar.close()
    if options.json:
        print_json(report.entries)
    return EXIT_OK if len(report.waiting) == len(report.entries) else EXIT_SOME_FAILED


def _request(options: argparse.Namespace) -> SegmentRequest:
    from vitdemo.options.explain import parse_point

    return SegmentRequest(
        method=options.method,
        threshold=options.threshold,
        head=parse_head(options.head),
        point=parse_point(options.point),
        objects=options.objects,
        parts=options.parts,
        tau=options.tau,
        matches=options.matches,
        refine=options.refine,
        clip=options.clip_outliers,
        within=not options.whole,
        resolution=options.resolution,
    )


def _expanded(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each image with "" or the reason why it is none; a folder is replaced by its images, in the order of their names."""
    for name in names:
        if not os.path.isdir(name):
            yield name, ""
            continue
        try:
            inside = sorted(Path(name).iterdir())
        except OSError:
            yield name, f'The folder "{Path(name).name}" cannot be read.'
            continue
        found = [path for path in inside if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
        if not found:
            yield name, f'There is no image in the folder "{Path(name).name}".'
        yield from ((str(path), "") for path in found)


def _readable(name: str) -> str:
    """A file name, which need not be text, as text."""
    return os.fsencode(name).decode(errors="replace")


class _Report:
    """The result of each image, in their order: files, an entry for JSON or text, a progress bar."""

    def __init__(self, options: argparse.Namespace, images: Sequence[tuple[str, str]]) -> None:
        from tqdm import tqdm

        from vitdemo.export.segmentation import folder_names

        self.options = options
        self.images = [(name, _readable(name), why) for name, why in images]
        self.folders = folder_names("stdin" if name == "-" else shown for name, shown, _ in self.images)
        self.entries: list[dict[str, Any]] = [{"image": shown} for _, shown, _ in self.images]
        self.bar = tqdm(total=len(images), unit="image", file=sys.stderr, disable=True if len(images) < 2 else None)
        for index, (_, _, why) in enumerate(self.images):
            if why:
                self.failed(index, why)

    @property
    def waiting(self) -> list[int]:
        """Numbers of the images that did not fail."""
        return [index for index, entry in enumerate(self.entries) if "error" not in entry]

    def open(self, pipeline: Pipeline, index: int) -> Photo:
        name, shown, _ = self.images[index]
        return replace(pipeline.open(source_of(pipeline, name)), name=Path(shown).name)

    def failed(self, index: int, why: str) -> None:
        self.entries[index]["error"] = why
        self.bar.update()
        if not self.options.json:
            self.bar.write(f"{self.images[index][1]}: {why}", file=sys.stderr)

    def done(
        self, index: int, photo: Photo, found: Segmentation, first: tuple[Photo, Segmentation] | None = None
    ) -> None:
        from vitdemo.export.results import segmentation_json
        from vitdemo.export.segmentation import files, is_own_file

        folder = self.options.out_dir / self.folders[index]
        made = files(photo, found, first=first)

        def save() -> None:
            folder.mkdir(exist_ok=True)
            for old in folder.iterdir():
                # From an earlier run that found more masks.
                if is_own_file(old.name) and old.name not in made:
                    old.unlink()
            for name, data in made.items():
                (folder / name).write_bytes(data)

        write(folder, save)
        self.entries[index] |= {**segmentation_json(found), "folder": _readable(str(folder))}
        self.bar.update()
        if self.options.json:
            return
        self.bar.write(f"{self.images[index][1]}  ->  {_readable(str(folder))}")
        self.bar.write(
            f"  {found.spec.name}  {found.method}  ({found.milliseconds:.0f} ms, {found.device}, {found.dtype})"
        )
        for name, area in zip(found.names, found.areas, strict=True):
            self.bar.write(f"    {area:6.1%}  {name}")
        for note in found.notes:
            self.bar.write(f"note: {note}", file=sys.stderr)


def _one_by_one(pipeline: Pipeline, spec: ModelSpec, request: SegmentRequest, report: _Report) -> None:
    from vitdemo.pipeline.segment import segment

    for index in report.waiting:
        try:
            photo = report.open(pipeline, index)
            (found,) = segment(pipeline, [photo], spec, request, dtype=report.options.dtype)
        except (ImageError, EngineError) as error:
            report.failed(index, str(error))
        else:
            report.done(index, photo, found)


def _together(pipeline: Pipeline, spec: ModelSpec, request: SegmentRequest, report: _Report) -> None:
    """All images together, with shared parts: one that fails is left out.

    Raises:
        OptionError: a patch of the first image is request for, and that one failed.
    """
    from vitdemo.pipeline.segment import segment_each

    photos = _Opened(pipeline, report)
    for index in report.waiting:
        try:
            photos.add(index)
        except ImageError as error:
            report.failed(index, str(error))
    if request.method == "similarity" and photos.numbers and 0 not in photos.numbers:
        raise OptionError(f"{report.images[0][1]}, whose patch is to be looked for, cannot be opened.")
    first: tuple[Photo, Segmentation] | None = None
    found = segment_each(pipeline, photos, spec, request, dtype=report.options.dtype)
    for index, photo, segmentation in zip(report.waiting, photos, found, strict=True):
        report.done(index, photo, segmentation, first)
        first = first or (photo, segmentation)


class _Opened(Sequence["Photo"]):
    """Opened photos. Those beyond what may be held are opened again whenever they are needed."""

    def __init__(self, pipeline: Pipeline, report: _Report) -> None:
        self.pipeline, self.report = pipeline, report
        self.numbers: list[int] = []
        self.held: dict[int, Photo] = {}
        self.room = HELD
        self.latest: tuple[int, Photo] | None = None

    def add(self, number: int) -> None:
        """Open an image.

        Raises:
            ImageError: it cannot be opened.
        """
        photo = self.report.open(self.pipeline, number)
        pixels = photo.size[0] * photo.size[1]
        # What cannot be read twice, such as standard input, is held in any case.
        if pixels <= self.room or not os.path.isfile(self.report.images[number][0]):
            self.held[number] = photo
            self.room -= pixels
        self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Photo: ...
    @overload
    def __getitem__(self, index: slice) -> list[Photo]: ...
    def __getitem__(self, index: int | slice) -> Photo | list[Photo]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        number = self.numbers[index]
        if number in self.held:
            return self.held[number]
        if self.latest is None or self.latest[0] != number:
            self.latest = number, self.report.open(self.pipeline, number)
        return self.latest[1]
