"""Folders of images as uint8 arrays; Pillow is imported only when one is read."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from deployq.errors import DeployqError, ToolMissingError, UsageError
from deployq.graph import Shape

Pixels = npt.NDArray[np.uint8]

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".gif", ".webp", ".tif", ".tiff"))
#: Largest image that is decoded, in pixels; a small file can claim to be huge.
_LARGEST_IMAGE = 2**26
Item = TypeVar("Item")

_MODES = {1: "L", 3: "RGB"}


def image_folder(folder: Path, input_shape: Shape, limit: int | None, *, resize: bool) -> Pixels:
    """All images of a folder, in sorted order, as (N, C, H, W).

    Args:
        folder: its images; subfolders are not searched.
        input_shape: (C, H, W); one channel means greyscale, three mean RGB.
        limit: read at most so many, evenly spread.
        resize: resize images of another size (bilinear) instead of refusing them.

    Raises:
        UsageError: no image, one that cannot be read or is of another size, or a shape that is not an image.
        ToolMissingError: Pillow is not installed.
    """
    return _load(_spread(_images(folder), limit), input_shape, resize=resize)


def labelled_image_folder(
    folder: Path, input_shape: Shape, limit: int | None, *, resize: bool
) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """One subfolder per class, numbered in sorted order; arguments and errors as `image_folder`."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise UsageError(
            "the folder has no subfolder", where=str(folder), why="one subfolder per class is expected"
        )
    pairs = [(path, label) for label, entry in enumerate(classes) for path in _images(entry)]
    chosen = _spread(pairs, limit)
    pixels = _load([path for path, _ in chosen], input_shape, resize=resize)
    return pixels, np.array([label for _, label in chosen], dtype=np.int64)


def _images(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not paths:
        raise UsageError(
            "the folder contains no images",
            where=str(folder),
            why=f"looked for {' '.join(sorted(_SUFFIXES))}",
        )
    return paths


def _spread(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    if limit is None or limit >= len(items):
        return items
    return [items[index * len(items) // limit] for index in range(limit)]


def _load(paths: Sequence[Path], input_shape: Shape, *, resize: bool) -> Pixels:
    if len(input_shape) != 3 or input_shape[0] not in _MODES:
        why = "images are (1, H, W) or (3, H, W)"
        raise UsageError(
            f"images cannot feed a network input of shape {input_shape}", where=str(paths[0].parent), why=why
        )
    pillow = _pillow()
    pixels = np.empty((len(paths), *input_shape), dtype=np.uint8)
    for index, path in enumerate(paths):
        pixels[index] = _read(pillow, path, input_shape, resize=resize)
    return pixels


def _pillow() -> ModuleType:
    try:
        return import_module("PIL.Image")
    except ImportError as error:
        hint = "pip install pillow, or give the samples as .npy"
        raise ToolMissingError("reading images needs Pillow", hint=hint) from error


def _read(pillow: ModuleType, path: Path, input_shape: Shape, *, resize: bool) -> Pixels:
    channels, height, width = input_shape
    try:
        with pillow.open(path) as image:
            if image.width * image.height > _LARGEST_IMAGE:
                raise UsageError(
                    f"an image of {image.width}x{image.height} pixels is too large", where=str(path)
                )
            if (image.width, image.height) != (width, height) and not resize:
                what = f"the image is {image.width}x{image.height}, the network takes {width}x{height}"
                raise UsageError(what, where=str(path), hint="--resize")
            converted = _eight_bits(pillow, image, path).convert(_MODES[channels])
            if converted.size != (width, height):
                converted = converted.resize((width, height), pillow.Resampling.BILINEAR)
            values = np.asarray(converted, dtype=np.uint8)
    except DeployqError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes of them
        raise UsageError(
            "the image cannot be read", where=str(path), why=str(error) or type(error).__name__
        ) from error
    return values[np.newaxis] if channels == 1 else values.transpose(2, 0, 1)


def _eight_bits(pillow: ModuleType, image: Any, path: Path) -> Any:
    """The image with bytes as pixels: 16-bit greyscale is scaled, where Pillow would saturate it at 255.

    Raises:
        UsageError: 32-bit pixels, whose range nothing tells.
    """
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        return pillow.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode[0] in "IF":
        raise UsageError(
            f"the image has pixels of mode {image.mode}",
            where=str(path),
            why="pixels of 8 or 16 bits are expected; nothing tells the range of others",
            hint="convert it to 8 bits, or give the samples as .npy",
        )
    return image
