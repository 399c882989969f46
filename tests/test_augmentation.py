"""Augmentation of calibration images."""

from __future__ import annotations

import numpy as np
import pytest

from deployq.augmentation import AUGMENTATIONS, Augmentation, augmentation_for, augmented
from deployq.errors import UsageError


@pytest.fixture
def images() -> np.ndarray:  # type: ignore[type-arg]
    """Images whose values tell row, column and channel."""
    rows, columns = np.meshgrid(np.arange(16), np.arange(24), indexing="ij")
    image = np.stack([rows, columns, rows + columns]).astype(np.int8)
    return np.repeat(image[np.newaxis], 200, axis=0)


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("auto", (3, 32, 32), "flip"),
        ("auto", (1, 28, 28), "none"),
        ("auto", (3,), "mix"),
        ("auto", (784,), "mix"),
        ("mix", (784,), "mix"),
        ("mix", (3, 8, 8), "mix"),
        ("flip", (1, 28, 28), "flip"),
        ("shift", (3, 8, 8), "shift"),
        ("shift", (784,), "none"),
        ("none", (3, 32, 32), "none"),
    ],
)
def test_names_are_resolved_by_the_input(name: str, shape: tuple[int, ...], expected: str) -> None:
    assert augmentation_for(name, shape) == Augmentation(expected)


@pytest.mark.parametrize("shape", [(3, 8, 8), (8,)])
def test_an_unknown_name_is_the_users_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="unknown augmentation 'rotate'"):
        augmentation_for("rotate", shape)
    with pytest.raises(UsageError, match="auto"):
        Augmentation("auto")


@pytest.mark.parametrize("name", AUGMENTATIONS[1:])
def test_shape_type_and_memory_order(name: str, images: np.ndarray) -> None:  # type: ignore[type-arg]
    for batch in (images, images.astype(np.float32)):
        result = augmented(batch, Augmentation(name), rng())
        assert result.shape == batch.shape
        assert result.dtype == batch.dtype
    if name in ("shift", "flip"):
        assert result.transpose(0, 2, 3, 1).flags.c_contiguous


def test_none_and_vectors_stay(images: np.ndarray) -> None:  # type: ignore[type-arg]
    assert augmented(images, Augmentation("none"), rng()) is images
    vectors = images.reshape(len(images), -1)
    assert augmented(vectors, Augmentation("flip"), rng()) is vectors


def test_codes_and_reals_move_alike(images: np.ndarray) -> None:  # type: ignore[type-arg]
    codes = augmented(images, Augmentation("flip"), rng())
    reals = augmented(images.astype(np.float32) * 0.5, Augmentation("flip"), rng())
    np.testing.assert_array_equal(reals, codes * np.float32(0.5))


def test_shifts_by_up_to_an_eighth_repeating_the_border(images: np.ndarray) -> None:  # type: ignore[type-arg]
    result = augmented(images, Augmentation("shift"), rng())
    vertical = result[:, 0, 8, 12] - 8  # the row that came to stand in row 8
    horizontal = result[:, 1, 8, 12] - 12
    assert set(vertical) == set(range(-2, 3))
    assert set(horizontal) == set(range(-3, 4))
    assert len({*zip(vertical, horizontal, strict=True)}) > 25  # drawn independently
    for image, down, right in zip(result, vertical, horizontal, strict=True):
        np.testing.assert_array_equal(image[0, :, 0], np.clip(np.arange(16) + down, 0, 15))
        np.testing.assert_array_equal(image[1, 0, :], np.clip(np.arange(24) + right, 0, 23))
        np.testing.assert_array_equal(image[2], image[0] + image[1])


def test_every_second_image_is_mirrored(images: np.ndarray) -> None:  # type: ignore[type-arg]
    result = augmented(images, Augmentation("flip"), rng())
    mirrored = result[:, 1, 0, 8] > result[:, 1, 0, 16]
    assert 70 < mirrored.sum() < 130
    np.testing.assert_array_equal(np.sort(result[:, 1, 0, :], axis=1)[~mirrored], result[~mirrored, 1, 0, :])


def test_a_tiny_image_is_not_shifted() -> None:
    tiny = np.arange(2 * 3 * 5 * 5, dtype=np.int8).reshape(2, 3, 5, 5)
    np.testing.assert_array_equal(augmented(tiny, Augmentation("shift"), rng()), tiny)


def test_the_generator_decides(images: np.ndarray) -> None:  # type: ignore[type-arg]
    flip = Augmentation("flip")
    np.testing.assert_array_equal(augmented(images, flip, rng()), augmented(images, flip, rng()))
    other = augmented(images, flip, np.random.default_rng(4))
    assert not np.array_equal(augmented(images, flip, rng()), other)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
def test_mixtures_lie_between_two_samples(shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(0).normal(size=(300, *shape)).astype(np.float32)
    mixed = augmented(samples, Augmentation("mix"), rng())
    moved = (mixed - samples).reshape(300, -1).astype(np.float64)
    towards = (samples[None] - samples[:, None]).reshape(300, 300, -1)
    lengths = np.maximum((towards**2).sum(axis=2), 1e-30)
    shares = (towards * moved[:, None]).sum(axis=2) / lengths
    off = np.linalg.norm(moved[:, None] - shares[:, :, None] * towards, axis=2)
    partner = off.argmin(axis=1)
    share = shares[np.arange(300), partner]
    assert off.min(axis=1).max() < 1e-5, "on the line to another sample"
    assert share.min() > -1e-5 and share.max() < 1 + 1e-5
    assert len(set(partner)) > 150 and share.min() < 0.1 and share.max() > 0.9


def test_mixtures_of_codes_are_codes() -> None:
    codes = np.random.default_rng(0).integers(-128, 128, size=(200, 30)).astype(np.int8)
    mixed = augmented(codes, Augmentation("mix"), rng())
    real = augmented(codes.astype(np.float32), Augmentation("mix"), rng())
    np.testing.assert_array_equal(mixed, np.floor(real + 0.5))
    constant = np.full((50, 3), 127, dtype=np.int8)
    np.testing.assert_array_equal(augmented(constant, Augmentation("mix"), rng()), constant)


def test_mixtures_are_for_training_alone() -> None:
    assert not Augmentation("mix").lifelike.changes
    assert Augmentation("flip").lifelike == Augmentation("flip")
