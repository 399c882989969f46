"""Calibration data: shapes, layouts, input quantization, errors."""

from __future__ import annotations

import numpy as np
import pytest

from deployq.data import (
    RAW_PIXELS,
    Preprocessing,
    Samples,
    fold_preprocessing,
    load_labelled,
    load_samples,
    pixel_quantization,
)
from deployq.errors import ToolMissingError, UsageError
from deployq.graph import Graph, Node, Quantization, Tensor, run_graph
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.window import Window
from deployq.passes import simplify

RNG = np.random.default_rng(0)
NHWC = Preprocessing("nhwc")


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, size=shape, dtype=np.uint8)


def saved(path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


@pytest.mark.parametrize(
    ("stored", "layout", "shape"),
    [
        ((6, 3, 4, 5), "nchw", (3, 4, 5)),
        ((6, 4, 5, 3), "nhwc", (3, 4, 5)),
        ((6, 4, 5), "nchw", (1, 4, 5)),
        ((6, 4, 5), "nhwc", (1, 4, 5)),
        ((6, 20), "nchw", (1, 4, 5)),
        ((6, 4, 5), "nchw", (20,)),
        ((6, 20), "nchw", (20,)),
    ],
)
def test_shapes(tmp_path, stored, layout, shape):
    array = pixels(*stored)
    samples = load_samples(saved(tmp_path / "x.npy", array), Preprocessing(layout), shape)
    assert samples.raw.shape == (6, *shape) and len(samples) == 6 and samples.is_pixels
    expected = array.transpose(0, 3, 1, 2) if len(stored) == 4 and layout == "nhwc" else array
    np.testing.assert_array_equal(samples.real(), expected.reshape(6, *shape))
    np.testing.assert_array_equal(samples.real(slice(2, 4)), expected.reshape(6, *shape)[2:4])
    assert samples.real().dtype == np.float32


def test_preprocessing_per_channel(tmp_path):
    array = pixels(5, 4, 4, 3)
    preprocessing = Preprocessing("nhwc", 1 / 255, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    samples = load_samples(saved(tmp_path / "x.npy", array), preprocessing, (3, 4, 4))
    expected = (array / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.25, 0.3])
    np.testing.assert_allclose(samples.real(), expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        (Preprocessing(), Quantization(1.0, -128)),
        (Preprocessing(scale=1 / 255), Quantization(1 / 255, -128)),
        (Preprocessing(mean=128.0), Quantization(1.0, 0)),
        (Preprocessing(mean=128.0, std=128.0), Quantization(1 / 128, 0)),
        (Preprocessing(mean=(128.0,) * 3, std=(2.0,) * 3), Quantization(0.5, 0)),
        (Preprocessing(scale=1 / 255, mean=0.5), None),
        (Preprocessing(mean=300.0), None),
        (Preprocessing(mean=-1.0), None),
        (Preprocessing(mean=(1.0, 2.0, 3.0)), None),
        (Preprocessing(std=(1.0, 2.0, 3.0)), None),
    ],
)
def test_pixel_quantization(preprocessing, expected):
    found = pixel_quantization(preprocessing)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert found.zero_point == expected.zero_point and found.scale == pytest.approx(expected.scale)
    raw = np.arange(256, dtype=np.uint8).reshape(256, 1)
    samples = Samples(raw, preprocessing if not isinstance(preprocessing.mean, tuple) else Preprocessing())
    choice = pixel_quantization(samples.preprocessing)
    np.testing.assert_array_equal(samples.quantized(choice)[:, 0], np.arange(-128, 128))
    reals = choice.scale * (samples.quantized(choice).astype(float) - choice.zero_point)
    np.testing.assert_allclose(reals, samples.real(), atol=1e-5)


def test_quantized_rounds_half_up_and_saturates():
    samples = Samples(
        np.array([[-1.5], [-0.5], [0.5], [1.5], [1e9], [-1e9]], dtype=np.float32), Preprocessing()
    )
    assert not samples.is_pixels
    quantized = samples.quantized(Quantization(1.0, 3))
    assert quantized.dtype == np.int8
    np.testing.assert_array_equal(quantized[:, 0], [2, 3, 4, 5, 127, -128])


@pytest.mark.parametrize("pad", [0, 1])
def test_fold_preprocessing_lets_the_graph_take_pixels(pad):
    preprocessing = Preprocessing("nhwc", 1 / 255, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    weight = RNG.normal(size=(2, 3, 3, 3)).astype(np.float32)
    op = Conv2d(weight, RNG.normal(size=2), Window((3, 3), pads=(pad,) * 4))
    empty = Graph("g", "x", "x", (), {"x": Tensor("x", (3, 6, 6))})
    graph = empty.with_nodes([Node("preprocessing", op, ("x",), "y")], output="y")
    samples = Samples(pixels(4, 3, 6, 6), preprocessing)
    folded = simplify(fold_preprocessing(graph, preprocessing))
    assert len(folded.nodes) == 1 + pad
    expected = run_graph(graph, samples.real())
    np.testing.assert_allclose(run_graph(folded, samples.unprocessed.real()), expected, rtol=1e-3, atol=1e-3)
    bytes_in = samples.unprocessed.quantized(RAW_PIXELS).astype(np.int16)
    np.testing.assert_array_equal(bytes_in, samples.raw.astype(np.int16) - 128)


@pytest.mark.filterwarnings("error")
def test_a_mean_far_outside_is_no_quantization_of_pixels():
    assert pixel_quantization(Preprocessing(scale=1e-30, mean=1e30)) is None


def test_quantized_saturates_whatever_the_steps(tmp_path):
    values = np.array([[3e38, -3e38]], dtype=np.float32)
    samples = load_samples(saved(tmp_path / "x.npy", values), Preprocessing(), (2,))
    np.testing.assert_array_equal(samples.quantized(Quantization(1e-3, 0)), [[127, -128]])


@pytest.mark.filterwarnings("error")
def test_samples_that_preprocessing_makes_infinite_are_refused(tmp_path):
    path = saved(tmp_path / "x.npy", np.full((300, 2), 1e30, dtype=np.float32))
    with pytest.raises(UsageError, match="NaN or infinity among the samples 0 to 255"):
        load_samples(path, Preprocessing(scale=1e20), (2,))


def test_fold_scalar_preprocessing_of_a_vector():
    op = Linear(RNG.normal(size=(2, 7)).astype(np.float32), RNG.normal(size=2))
    graph = Graph("g", "x", "x", (), {"x": Tensor("x", (7,))}).with_nodes(
        [Node("n", op, ("x",), "y")], output="y"
    )
    preprocessing = Preprocessing(scale=1 / 255, mean=0.5, std=0.5)
    samples = Samples(pixels(4, 7), preprocessing)
    folded = simplify(fold_preprocessing(graph, preprocessing))
    assert [node.op.kind for node in folded.nodes] == ["linear"]
    np.testing.assert_allclose(
        run_graph(folded, samples.unprocessed.real()), run_graph(graph, samples.real()), rtol=1e-3, atol=1e-3
    )


def test_npz_keys_and_names_with_colons(tmp_path):
    array = pixels(3, 4)
    one, two = tmp_path / "one.npz", tmp_path / "two:x.npz"
    np.savez(one, only=array)
    np.savez(two, x=array, y=np.arange(3))
    for spec in (f"{one}", f"{one}:only", f"{two}:x"):
        np.testing.assert_array_equal(load_samples(spec, Preprocessing(), (4,)).raw, array)
    with pytest.raises(UsageError, match=r"it holds x, y"):
        load_samples(str(two), Preprocessing(), (4,))
    with pytest.raises(UsageError, match="there is no array 'z'"):
        load_samples(f"{two}:z", Preprocessing(), (4,))


def test_labelled(tmp_path):
    array, labels = pixels(5, 4), np.array([0, 2, 1, 1, 0], dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=array, y=labels, column=labels[:, None])
    x, y = saved(tmp_path / "x,1.npy", array), saved(tmp_path / "y.npy", labels)
    archive = tmp_path / "d.npz"
    for spec in (f"{archive}:x,y", f"{archive}:x,column", f"{x},{y}", f"{archive}:x,{y}"):
        samples, found = load_labelled(spec, Preprocessing(), (4,))
        np.testing.assert_array_equal(samples.raw, array)
        np.testing.assert_array_equal(found, labels)
        assert found.dtype == np.int64


def test_limit_is_spread_over_sorted_data(tmp_path):
    labels = np.repeat(np.arange(5), 20)
    np.savez(tmp_path / "d.npz", x=np.repeat(labels[:, None], 4, axis=1).astype(np.uint8), y=labels)
    samples, found = load_labelled(f"{tmp_path / 'd.npz'}:x,y", Preprocessing(), (4,), limit=10)
    np.testing.assert_array_equal(found, np.repeat(np.arange(5), 2))
    np.testing.assert_array_equal(samples.raw[:, 0], found)
    with pytest.raises(UsageError, match="limit of 0"):
        load_samples(f"{tmp_path / 'd.npz'}:x", Preprocessing(), (4,), limit=0)


@pytest.mark.parametrize(
    ("array", "shape", "message"),
    [
        (pixels(2, 4, 5, 3), (3, 4, 5), "--layout nhwc"),
        (pixels(2, 3, 4, 6), (3, 4, 5), r"expected \(N, 3, 4, 5\), found \(2, 3, 4, 6\)"),
        (pixels(2, 5), (4,), "do not fit"),
        (pixels(4), (4,), "do not fit"),
        (pixels(0, 4), (4,), "no samples"),
        (np.array(3.0), (4,), "do not fit"),
        (np.full((300, 4), np.nan), (4,), "NaN or infinity among the samples 0 to 255"),
        (np.array([[1.0, 2, 3, np.inf]]), (4,), "NaN or infinity"),
        (np.array([["a", "b"]]), (2,), "numbers are expected"),
        (np.ones((3, 4), dtype=bool), (4,), "numbers are expected"),
    ],
)
def test_arrays_that_are_refused(tmp_path, array, shape, message):
    with pytest.raises(UsageError, match=message):
        load_samples(saved(tmp_path / "x.npy", array), Preprocessing(), shape)


def test_files_that_are_refused(tmp_path):
    (tmp_path / "garbage.npy").write_bytes(b"garbage")
    (tmp_path / "garbage.npz").write_bytes(b"PK\3\4garbage")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("garbage.npy", "garbage.npz", "pickle.npy"):
        with pytest.raises(UsageError, match="cannot be read") as caught:
            load_samples(str(tmp_path / name), Preprocessing(), (4,))
        assert name in caught.value.where
    with pytest.raises(UsageError, match="no such data file"):
        load_samples(str(tmp_path / "missing.npy"), Preprocessing(), (4,))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(4), "4 labels for 5 samples"),
        (np.zeros((5, 3), dtype=int), "must be integers of shape"),
        (np.zeros(5), "must be integers"),
        (np.arange(5) - 1, "negative"),
        ((np.arange(5) - 1).astype(np.uint64), "the label 18446744073709551615 is too large"),
    ],
)
def test_labels_that_are_refused(tmp_path, labels, message):
    np.savez(tmp_path / "d.npz", x=pixels(5, 4), y=labels)
    with pytest.raises(UsageError, match=message):
        load_labelled(f"{tmp_path / 'd.npz'}:x,y", Preprocessing(), (4,))


def test_labelled_specs_that_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=pixels(5, 4), y=np.arange(5))
    for spec in (str(tmp_path / "d.npz"), str(tmp_path / "missing.npy"), f"{tmp_path / 'd.npz'}:x"):
        with pytest.raises(UsageError, match="x_key,y_key"):
            load_labelled(spec, Preprocessing(), (4,))


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"layout": "chwn"}, "--layout"),
        ({"scale": 0.0}, "--scale"),
        ({"std": (1.0, 0.0)}, "--std"),
        ({"mean": float("nan")}, "--mean"),
        ({"mean": ()}, "--mean"),
        ({"scale": 1e-300}, "--scale"),
        ({"scale": 1e-40}, "--scale"),
        ({"scale": 1e37}, "--scale"),
        ({"std": (1.0, 1e-310)}, "--scale"),
        ({"mean": 1e300}, "--scale"),
        ({"mean": 1e300, "std": 1e-310}, "--scale"),
    ],
)
def test_preprocessing_that_is_refused(arguments, option):
    with pytest.raises(UsageError) as caught:
        Preprocessing(**arguments)
    assert caught.value.where == option


def test_factors_that_do_not_fit_the_channels(tmp_path):
    path = saved(tmp_path / "x.npy", pixels(2, 3, 4, 4))
    with pytest.raises(UsageError, match="2 values of mean for an input of 3 channels"):
        load_samples(path, Preprocessing(mean=(1.0, 2.0)), (3, 4, 4))


def write_images(folder, count: int, size: tuple[int, int] = (5, 4), first: int = 0) -> None:
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image.new("RGB", size, (first + index, 100, 200)).save(folder / f"{index}.png")


def test_image_folder(tmp_path):
    write_images(tmp_path / "images", 3)
    samples = load_samples(str(tmp_path / "images"), NHWC, (3, 4, 5))
    assert samples.raw.shape == (3, 3, 4, 5) and samples.is_pixels
    np.testing.assert_array_equal(samples.raw[:, :, 0, 0], [[0, 100, 200], [1, 100, 200], [2, 100, 200]])
    assert load_samples(str(tmp_path / "images"), NHWC, (1, 4, 5)).raw.shape == (3, 1, 4, 5)
    assert len(load_samples(str(tmp_path / "images"), NHWC, (3, 4, 5), limit=2)) == 2
    with pytest.raises(UsageError, match="the image is 5x4, the network takes 8x8"):
        load_samples(str(tmp_path / "images"), NHWC, (3, 8, 8))
    assert load_samples(str(tmp_path / "images"), NHWC, (3, 8, 8), resize=True).raw.shape == (3, 3, 8, 8)
    for shape in ((60,), (2, 4, 5)):
        with pytest.raises(UsageError, match="cannot feed"):
            load_samples(str(tmp_path / "images"), NHWC, shape)


def test_labelled_image_folder(tmp_path):
    write_images(tmp_path / "b", 2, first=50)
    write_images(tmp_path / "a", 1)
    samples, labels = load_labelled(str(tmp_path), NHWC, (3, 4, 5))
    np.testing.assert_array_equal(labels, [0, 1, 1])
    np.testing.assert_array_equal(samples.raw[:, 0, 0, 0], [0, 50, 51])


def test_greyscale_of_16_bits_is_scaled(tmp_path):
    image = pytest.importorskip("PIL.Image")
    values = np.array([[0, 128, 129, 257, 1000], [32767, 63000, 65278, 65407, 65535]], dtype=np.uint16)
    image.fromarray(values).save(tmp_path / "a.png")
    samples = load_samples(str(tmp_path), NHWC, (1, 2, 5))
    np.testing.assert_array_equal(samples.raw[0, 0], np.round(values / 257))
    np.testing.assert_array_equal(load_samples(str(tmp_path), NHWC, (3, 2, 5)).raw[0, 1], samples.raw[0, 0])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(dtype, tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((4, 5), 70000, dtype=dtype)).save(tmp_path / "a.tif")
    with pytest.raises(UsageError, match="nothing tells the range") as caught:
        load_samples(str(tmp_path), NHWC, (1, 4, 5))
    assert caught.value.where.endswith("a.tif")


def test_image_folders_that_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no images"):
        load_samples(str(tmp_path), NHWC, (3, 4, 5))
    with pytest.raises(UsageError, match="no subfolder"):
        load_labelled(str(tmp_path), NHWC, (3, 4, 5))
    (tmp_path / "broken.png").write_bytes(b"not an image")
    pytest.importorskip("PIL")
    with pytest.raises(UsageError, match="cannot be read"):
        load_samples(str(tmp_path), NHWC, (3, 4, 5))


def test_missing_pillow(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ToolMissingError, match="Pillow"):
        load_samples(str(tmp_path), NHWC, (3, 4, 5))
