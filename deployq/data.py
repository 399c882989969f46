"""Calibration and evaluation data: arrays and folders of images, as the firmware will see them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.arithmetic import INT8_MAX, INT8_MIN, round_half_up, saturate
from deployq.array_files import read_array, split_key, split_labelled
from deployq.errors import UsageError
from deployq.graph import Graph, Node, Quantization, Shape
from deployq.images import image_folder, labelled_image_folder
from deployq.ops.affine import Affine

Array = npt.NDArray[Any]
Float32Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Factor = float | tuple[float, ...]

LAYOUTS = ("nchw", "nhwc")
_ALL = slice(None)
#: Labels are kept as int64; an unsigned one beyond it would become negative.
_LARGEST_LABEL = np.iinfo(np.int64).max
#: Samples looked at together when searching for NaN.
_BLOCK = 256


@dataclass(frozen=True)
class Preprocessing:
    """What turns stored values into network input: real = (stored * scale - mean) / std.

    Attributes:
        layout: axis order of stored images, "nchw" or "nhwc".
        scale: one factor, e.g. 1 / 255.
        mean: one value or one per channel.
        std: one positive value or one per channel.
    """

    layout: str = "nchw"
    scale: float = 1.0
    mean: Factor = 0.0
    std: Factor = 1.0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UsageError(f"unknown layout {self.layout!r}", where="--layout", hint="nchw or nhwc")
        for name, factor in (("scale", self.scale), ("mean", self.mean), ("std", self.std)):
            values = np.atleast_1d(np.asarray(factor, dtype=np.float64))
            if not values.size or not np.all(np.isfinite(values)) or (name != "mean" and np.any(values <= 0)):
                why = "it must be finite" if name == "mean" else "it must be finite and positive"
                raise UsageError(f"{name} is {factor}", where=f"--{name}", why=why)
        self._check_float32()

    def _check_float32(self) -> None:
        """Refuse factors that the float32 of the firmware and of ONNX cannot hold."""
        try:
            with np.errstate(all="ignore"):
                gain, offset = self.affine()
        except ValueError:  # different numbers of channels, refused with the input's shape
            return
        fits = np.finfo(np.float32)
        if np.any(gain < fits.tiny) or np.any(gain > fits.max / 255) or np.any(np.abs(offset) > fits.max):
            raise UsageError(
                f"scale {self.scale}, mean {self.mean} and std {self.std} together",
                where="--scale",
                why=f"scale / std must be in {fits.tiny:.2g} .. {fits.max / 255:.2g}, mean / std within "
                f"{fits.max:.2g}: they are float32 in the firmware",
            )

    def affine(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(gain, offset) of real = stored * gain + offset; shape (1,) or (channels,), the same for both."""
        mean, std = np.atleast_1d(np.asarray(self.mean, float)), np.atleast_1d(np.asarray(self.std, float))
        gain, offset = np.broadcast_arrays(self.scale / std, -mean / std)
        return gain, offset

    def check(self, input_shape: Shape) -> None:
        """Refuse factors per channel that do not fit an input shape.

        Raises:
            UsageError: mean and std do not agree with the channels or with each other.
        """
        channels = input_shape[0]
        for name, factor in (("mean", self.mean), ("std", self.std)):
            count = len(factor) if isinstance(factor, tuple) else 1
            if count not in (1, channels):
                what = f"{count} values of {name} for an input of {channels} channels"
                raise UsageError(what, where=f"--{name}", hint=f"give one value, or {channels}")


@dataclass(frozen=True)
class Samples:
    """Samples in the order of the network input, converted only where they are used.

    Attributes:
        raw: stored values (N, *input_shape), a view of the file's array; uint8 or any real type.
        preprocessing: turns them into network input.
    """

    raw: Array = field(repr=False)
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def is_pixels(self) -> bool:
        """Whether the stored values are bytes, so that the firmware can take them as they are."""
        return self.raw.dtype == np.uint8

    @property
    def unprocessed(self) -> Samples:
        """The same samples for a graph that preprocesses by itself, see `fold_preprocessing`."""
        return replace(self, preprocessing=Preprocessing(self.preprocessing.layout))

    def take(self, indices: npt.NDArray[np.integer[Any]]) -> Samples:
        """Some of the samples, in the order of their indices (n,)."""
        return replace(self, raw=self.raw[indices])

    def real(self, part: slice | npt.NDArray[np.integer[Any]] = _ALL) -> Float32Array:
        """Network input (n, *input_shape) of some samples, float32."""
        stored = self.raw[part].astype(np.float32)
        trailing = (1,) * (stored.ndim - 2)
        gain, offset = (values.reshape(1, -1, *trailing) for values in self.preprocessing.affine())
        return np.ascontiguousarray(stored * gain + offset, dtype=np.float32)

    def quantized(
        self, quantization: Quantization, part: slice | npt.NDArray[np.integer[Any]] = _ALL
    ) -> npt.NDArray[np.int8]:
        """The int8 input of the firmware (n, *input_shape), NCHW.

        Pixels whose quantization is that of `pixel_quantization` are pixel - 128, with no rounding.
        """
        if self.is_pixels and quantization == pixel_quantization(self.preprocessing):
            shifted = self.raw[part].astype(np.int16) - 128
            return np.ascontiguousarray(shifted, dtype=np.int8)
        steps = self.real(part) / np.float64(quantization.scale) + quantization.zero_point
        steps = np.clip(steps, INT8_MIN - 1, INT8_MAX + 1)  # larger ones do not fit the integers they become
        return saturate(round_half_up(steps), INT8_MIN, INT8_MAX).astype(np.int8)


def pixel_quantization(preprocessing: Preprocessing) -> Quantization | None:
    """The quantization under which the int8 input is pixel - 128, if there is one.

    real = (pixel * scale - mean) / std = scale / std * (q + 128 - mean / scale), so the zero point
    mean / scale - 128 must be an integer within int8, the same for all channels.
    """
    gain, offset = preprocessing.affine()
    if np.any(gain != gain[0]) or np.any(offset != offset[0]):
        return None
    zero_point = -offset[0] / gain[0] - 128
    if not INT8_MIN - 1 < zero_point < INT8_MAX + 1:
        return None
    nearest = int(round_half_up(zero_point))
    if abs(zero_point - nearest) > 1e-6 or not INT8_MIN <= nearest <= INT8_MAX:
        return None
    return Quantization(float(gain[0]), nearest)


#: Quantization of the input of a graph that takes raw pixels, see `fold_preprocessing`.
RAW_PIXELS = Quantization(1.0, -128)


def fold_preprocessing(graph: Graph, preprocessing: Preprocessing) -> Graph:
    """The graph that takes stored values and preprocesses them itself, by an Affine at its input.

    To be simplified afterwards. With `Samples.unprocessed` and RAW_PIXELS, firmware input is pixel - 128
    also where `pixel_quantization` finds nothing.

    Raises:
        UsageError: the preprocessing does not fit the input shape.
    """
    shape = graph.tensors[graph.input].shape
    preprocessing.check(shape)
    gain, offset = (np.broadcast_to(values, shape[:1]).copy() for values in preprocessing.affine())
    name, taken = "preprocessing", {*graph.tensors, *(node.name for node in graph.nodes)}
    while name in taken:
        name += "'"
    affine = Node(name, Affine(gain, offset), (graph.input,), name, "preprocessing of the samples")
    rest = [
        replace(node, inputs=tuple(name if source == graph.input else source for source in node.inputs))
        for node in graph.nodes
    ]
    return graph.with_nodes([affine, *rest])


def load_samples(
    spec: str,
    preprocessing: Preprocessing,
    input_shape: Shape,
    limit: int | None = None,
    *,
    resize: bool = False,
) -> Samples:
    """Samples without labels.

    Args:
        spec: `file.npy`, `file.npz`, `file.npz:key`, or a folder of images.
        preprocessing: layout and scaling.
        input_shape: (C, H, W) or (features,) of the network.
        limit: use at most so many, evenly spread over the file.
        resize: resize images of another size instead of refusing them.

    Raises:
        UsageError: the file is missing, unreadable or empty, its shape does not fit, or values are
            NaN or infinite.
    """
    preprocessing.check(input_shape)
    if Path(spec).is_dir():
        return Samples(image_folder(Path(spec), input_shape, limit, resize=resize), preprocessing)
    path, key = split_key(spec)
    return _samples(_spread(read_array(path, key), limit), spec, preprocessing, input_shape)


def samples_of_array(
    values: Array, preprocessing: Preprocessing, input_shape: Shape, limit: int | None = None
) -> Samples:
    """Samples of an array (N, ...) of stored values, checked as those of a file.

    Raises:
        UsageError: the shape does not fit, the array is empty, or values are NaN or infinite.
    """
    preprocessing.check(input_shape)
    where = "the array of samples"
    return _samples(_spread(as_array(values, where), limit), where, preprocessing, input_shape)


def as_array(values: Any, where: str) -> Array:
    """An array of what a caller from Python gives: an array, a list of numbers, or a tensor.

    Raises:
        UsageError: it is none of these.
    """
    if hasattr(values, "detach"):  # a torch tensor, which may ask for gradients or be on another device
        values = values.detach().cpu()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError("an array is expected", where=where, why=str(error)) from error
    if array.dtype.kind not in "buif" or not array.ndim:
        kind = type(values).__name__
        raise UsageError(
            "an array of numbers is expected",
            where=where,
            why=f"found a {kind} of type {array.dtype} and shape {array.shape}",
            hint="an array (N, ...), or a data specification as text",
        )
    return array


def load_labelled(
    spec: str,
    preprocessing: Preprocessing,
    input_shape: Shape,
    limit: int | None = None,
    *,
    resize: bool = False,
) -> tuple[Samples, Labels]:
    """Samples and their class numbers (N,).

    Args:
        spec: `file.npz:x_key,y_key`, `x.npy,y.npy`, or a folder with one subfolder of images per class
            (classes are numbered in the sorted order of their names).
        preprocessing: layout and scaling.
        input_shape: (C, H, W) or (features,) of the network.
        limit: use at most so many, evenly spread over the file.
        resize: resize images of another size instead of refusing them.

    Raises:
        UsageError: as `load_samples`, or the labels do not fit the samples.
    """
    preprocessing.check(input_shape)
    if Path(spec).is_dir():
        images, classes = labelled_image_folder(Path(spec), input_shape, limit, resize=resize)
        return Samples(images, preprocessing), classes
    (path, key), (label_path, label_key) = split_labelled(spec)
    values, labels = read_array(path, key), read_array(label_path, label_key)
    checked = checked_labels(labels, len(values) if values.ndim else 0, spec)
    samples = _samples(_spread(values, limit), spec, preprocessing, input_shape)
    return samples, _spread(checked, limit)


def _spread(values: Array, limit: int | None) -> Array:
    """At most `limit` rows, evenly spread, so that data sorted by class keep all their classes."""
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} samples", hint="give a positive number")
    if limit is None or not values.ndim or limit >= len(values):
        return values
    return values[np.arange(limit) * len(values) // limit]


def _samples(values: Array, where: str, preprocessing: Preprocessing, input_shape: Shape) -> Samples:
    if values.dtype.kind not in "uif":
        raise UsageError(f"samples of type {values.dtype}", where=where, why="numbers are expected")
    if not values.size:
        raise UsageError(
            "the data contain no samples", where=where, why=f"the array has shape {values.shape}"
        )
    arranged = _arranged(values, where, preprocessing.layout, input_shape)
    samples = Samples(arranged, preprocessing)
    if not samples.is_pixels:
        _check_finite(samples, where)
    return samples


def _check_finite(samples: Samples, where: str) -> None:
    """Refuse NaN and infinity, stored or made by the preprocessing."""
    for first in range(0, len(samples), _BLOCK):
        with np.errstate(all="ignore"):
            finite = np.all(np.isfinite(samples.real(slice(first, first + _BLOCK))))
        if not finite:
            what = f"NaN or infinity among the samples {first} to {min(first + _BLOCK, len(samples)) - 1}"
            raise UsageError(what, where=where, why="stored, or beyond float32 after the preprocessing")


def _arranged(values: Array, where: str, layout: str, input_shape: Shape) -> Array:
    """View of the values as (N, *input_shape)."""
    found = values.shape[1:]
    if len(input_shape) == 1:
        if values.ndim > 1 and prod(found) == input_shape[0]:
            return values.reshape(len(values), -1)
        raise _misfit(values.shape, where, input_shape, "")
    channels, height, width = input_shape
    stored = input_shape if layout == "nchw" else (height, width, channels)
    if (found == (height, width) and channels == 1) or found == (prod(input_shape),):
        found, values = stored, values.reshape(len(values), *stored)
    if found == stored:
        return values if layout == "nchw" else values.transpose(0, 3, 1, 2)
    other = "nhwc" if layout == "nchw" else "nchw"
    fits_other = found == ((height, width, channels) if other == "nhwc" else input_shape)
    raise _misfit(values.shape, where, stored, f"--layout {other}" if fits_other else "")


def _misfit(found: Shape, where: str, expected: Shape, hint: str) -> UsageError:
    why = f"expected (N, {', '.join(map(str, expected))}), found {found}"
    return UsageError("the samples do not fit the network input", where=where, why=why, hint=hint)


def checked_labels(values: Array, count: int, where: str) -> Labels:
    """Class numbers, checked."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values.reshape(-1)
    if values.ndim != 1 or values.dtype.kind not in "ui":
        why = f"found {values.dtype} of shape {values.shape}"
        raise UsageError(
            "labels must be integers of shape (N,)", where=where, why=why, hint="e.g. argmax of one-hot"
        )
    if len(values) != count:
        raise UsageError(f"{len(values)} labels for {count} samples", where=where)
    if values.size and values.min() < 0:
        raise UsageError(f"the label {values.min()} is negative", where=where)
    if values.size and values.max() > _LARGEST_LABEL:
        raise UsageError(
            f"the label {values.max()} is too large",
            where=where,
            why="labels are class numbers from 0",
            hint="-1 stored as uint64 looks like this",
        )
    return values.astype(np.int64)
