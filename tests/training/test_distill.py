"""Tuning scales and biases by distillation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deployq.alphabet import alphabet
from deployq.augmentation import Augmentation
from deployq.calibrate import RangeMethod, calibrate
from deployq.errors import UsageError
from deployq.graph import Graph, Node, Tensor, run_graph
from deployq.layerwise import IntegerModel, WeightSettings, dequantize, quantize_graph, quantize_values
from deployq.ops import QuantizedWeights
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.output_stage import Bounds
from deployq.ops.reshape import Reshape
from deployq.ops.softmax import Softmax
from deployq.ops.window import Window
from deployq.passes import simplify
from deployq.random_streams import Purpose, stream
from deployq.training.distill import is_worse, tune
from deployq.training.hints import Hints
from deployq.training.objective import TuningObjective
from deployq.training.repeatable import THREADS, repeatable
from deployq.training.settings import TuneSettings, split_samples
from deployq.verify.reference import run_reference
from tests.integer_networks import flattening_network, residual_network
from tests.test_layerwise import residual_graph

RELU = Bounds(np.array(0.0), np.array(np.inf))


def graph_of(shape: tuple[int, ...], *operators: object) -> Graph:
    """A chain of operators."""
    nodes, tensors = [], {"x": Tensor("x", shape)}
    name = "x"
    for index, operator in enumerate(operators):
        output = f"t{index}"
        nodes.append(Node(f"node {index}", operator, (name,), output))  # type: ignore[arg-type]
        tensors[output] = Tensor(output, operator.output_shape([tensors[name].shape]))  # type: ignore[attr-defined]
        name = output
    return Graph("chain", "x", name, tuple(nodes), tensors)


def classifier(*, softmax: bool = False) -> Graph:
    """Two convolutions, global average, six classes."""
    rng = np.random.default_rng(0)

    def conv(out: int, inputs: int) -> Conv2d:
        weight = rng.normal(size=(out, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))
        return Conv2d(
            weight.astype(np.float32),
            0.1 * rng.normal(size=out),
            Window((3, 3), pads=(1, 1, 1, 1)),
            bounds=RELU,
        )

    last = Linear(4 * rng.normal(size=(6, 12)).astype(np.float32), rng.normal(size=6))
    pool = (AveragePool2d(Window((8, 8))), Reshape((12,)))
    return graph_of((3, 8, 8), conv(8, 3), conv(12, 8), *pool, last, *([Softmax()] if softmax else []))


def regression() -> Graph:
    """An autoencoder of vectors."""
    rng = np.random.default_rng(1)

    def linear(out: int, inputs: int, bounds: Bounds) -> Linear:
        weight = rng.normal(size=(out, inputs)) / np.sqrt(inputs)
        return Linear(weight.astype(np.float32), 0.1 * rng.normal(size=out), bounds)

    return graph_of((20,), linear(32, 20, RELU), linear(20, 32, Bounds.none()))


def calibration(graph: Graph, count: int = 256) -> np.ndarray:  # type: ignore[type-arg]
    """Smooth random images, or vectors."""
    rng = np.random.default_rng(2)
    samples = rng.normal(size=(count, *graph.tensors[graph.input].shape))
    if samples.ndim == 4:
        samples += 2 * rng.normal(size=(count, samples.shape[1], 1, 1))
    return samples.astype(np.float32)


def quantized(graph: Graph, name: str, count: int = 256) -> tuple[IntegerModel, np.ndarray]:  # type: ignore[type-arg]
    """The integer network and the int8 calibration samples; those that judge are not fitted to."""
    batch = calibration(graph, count)
    quantizations = calibrate(graph, lambda: [batch], RangeMethod(), None)
    codes = quantize_values(batch, quantizations[graph.input])
    fitted, _ = split_samples(count, TuneSettings(1))
    pairs = [(dequantize(codes[fitted], quantizations[graph.input]), codes[fitted])]
    return quantize_graph(graph, quantizations, pairs, WeightSettings(alphabet(name))), codes


def weights(model: IntegerModel) -> list[QuantizedWeights]:
    return [node.op.accumulation.weights for node in model.graph.nodes if hasattr(node.op, "accumulation")]


def difference(graph: Graph, model: IntegerModel, codes: np.ndarray) -> float:  # type: ignore[type-arg]
    """The objective, written down again in numpy."""
    objective = TuningObjective.of(
        graph, "classification" if graph.tensors[graph.output].size == 6 else "auto"
    )
    cut = objective.cut(model.graph)
    quantization = cut.tensors[cut.output].quantization
    source = cut.tensors[cut.input].quantization
    assert quantization is not None
    assert source is not None
    integer = dequantize(run_reference(cut, codes), quantization).astype(np.float64)
    real = run_graph(objective.cut(graph), dequantize(codes, source)).astype(np.float64)
    if objective.loss == "squares":
        return float(((integer - real) ** 2).sum() / ((real - real.mean(axis=0)) ** 2).sum())
    softness = objective.softened(torch.from_numpy(real)).temperature
    log_p, log_q = (
        v / softness - np.log(np.exp(v / softness).sum(axis=1, keepdims=True)) for v in (real, integer)
    )
    return softness**2 * float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("augmentation", ["none", "flip"])
def test_tuning_brings_a_classifier_nearer_to_its_float_network(softmax: bool, augmentation: str) -> None:
    graph = classifier(softmax=softmax)
    model, codes = quantized(graph, "binary")
    tuned = tune(
        graph,
        model,
        codes,
        TuneSettings(task="classification", passes=20, augmentation=Augmentation(augmentation)),
    )
    assert tuned.kept
    assert tuned.divergence_after < 0.85 * tuned.divergence_before
    assert f"{tuned.divergence_after:.4g}" in tuned.note
    fresh = codes[:, :, ::-1]  # upside down: none of these was trained on
    assert difference(graph, tuned.network, fresh) < difference(graph, model, fresh)


def test_the_reported_divergences_are_those_of_the_integer_networks() -> None:
    graph = classifier(softmax=True)
    model, codes = quantized(graph, "ternary")
    settings = TuneSettings(task="classification", passes=4)
    tuned = tune(graph, model, codes, settings)
    order = stream(Purpose.TUNING_SPLIT, settings.seed).permutation(len(codes))
    held_out = codes[order[:25]]  # the samples are split by the seed
    assert TuningObjective.of(graph, "auto").tensor == "t4"
    expected = [difference(graph, network, held_out) for network in (model, tuned.network)]
    assert [tuned.divergence_before, tuned.divergence_after] == pytest.approx(expected, rel=1e-3)


def test_codes_quantizations_and_everything_else_stay() -> None:
    graph = classifier()
    model, codes = quantized(graph, "binary")
    model = replace(model, source_sha256="abc", takes_pixels=True)
    tuned = tune(graph, model, codes, TuneSettings(task="classification", passes=20)).network
    for old, new in zip(weights(model), weights(tuned), strict=True):
        np.testing.assert_array_equal(old.levels, new.levels)
        assert np.any(old.scales != new.scales)
        assert np.any(old.bias != new.bias)
    assert tuned.graph.tensors == model.graph.tensors
    assert replace(tuned, graph=model.graph) == model


def test_a_scale_per_layer_stays_one() -> None:
    graph = classifier()
    batch = calibration(graph)
    quantizations = calibrate(graph, lambda: [batch], RangeMethod(), None)
    codes = quantize_values(batch, quantizations[graph.input])
    settings = WeightSettings(alphabet("binary"), granularity="layer")
    model = quantize_graph(graph, quantizations, [(batch, codes)], settings)
    tuned = tune(graph, model, codes, TuneSettings(task="classification", passes=10, granularity="layer"))
    assert tuned.kept
    for layer in weights(tuned.network):
        np.testing.assert_allclose(layer.scales, layer.scales[0])


def test_an_autoencoder_is_compared_by_squares() -> None:
    graph = regression()
    model, codes = quantized(graph, "ternary")
    tuned = tune(graph, model, codes, TuneSettings(40))
    assert tuned.kept
    assert tuned.divergence_after < tuned.divergence_before
    assert "squared error" in tuned.note
    assert difference(graph, tuned.network, codes) < difference(graph, model, codes)


def test_what_does_not_help_is_not_kept() -> None:
    graph = classifier()
    model, codes = quantized(graph, "symmetric-8")
    tuned = tune(graph, model, codes, TuneSettings(task="classification", passes=2, rate=3.0))
    assert not tuned.kept
    assert tuned.network is model
    assert tuned.divergence_after == tuned.divergence_before > 0
    assert "not kept" in tuned.note


def test_only_what_is_worse_beyond_the_error_is_refused() -> None:
    rng = np.random.default_rng(0)
    before, noise = rng.gamma(1.0, size=200), rng.normal(size=100)
    noise -= noise.mean()
    error = noise.std() / 10
    for increase, worse in ((-1.0, False), (0.9 * error, False), (1.1 * error, True), (np.nan, True)):
        assert is_worse(before[:100], before[:100] + noise + increase, 100) == worse
        # Copies that say the same are no further evidence.
        assert is_worse(before, before + np.tile(noise + increase, 2), 100) == worse
    assert not is_worse(before, before, 200)


def test_divergence_is_survived() -> None:
    graph = classifier()
    model, codes = quantized(graph, "ternary")
    tuned = tune(graph, model, codes, TuneSettings(task="classification", passes=10, rate=10.0))
    assert tuned.network is model
    assert "diverged" in tuned.note


@pytest.mark.parametrize(("passes", "count", "why"), [(0, 256, "no passes"), (5, 50, "50 were given")])
def test_tuning_is_skipped_and_says_so(passes: int, count: int, why: str) -> None:
    graph = classifier()
    model, codes = quantized(graph, "binary", count)
    tuned = tune(graph, model, codes, TuneSettings(task="classification", passes=passes))
    assert tuned.network is model
    assert not tuned.kept
    assert math.isnan(tuned.divergence_before)
    assert why in tuned.note


def test_the_seed_decides_and_nothing_global_changes() -> None:
    graph = classifier()
    model, codes = quantized(graph, "binary")
    settings = TuneSettings(task="classification", passes=2, augmentation=Augmentation("flip"))
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    lines: list[str] = []
    first, second = (tune(graph, model, codes, settings, lines.append) for _ in range(2))
    other = tune(graph, model, codes, replace(settings, seed=1))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert all(line.startswith("tune") for line in lines)
    assert lines
    for a, b, c in zip(weights(first.network), weights(second.network), weights(other.network), strict=True):
        assert a.scales.tobytes() == b.scales.tobytes()
        assert a.bias.tobytes() == b.bias.tobytes()
        assert a.scales.tobytes() != c.scales.tobytes()


def test_tuning_works_inside_inference_mode() -> None:
    graph = classifier()
    model, codes = quantized(graph, "binary")
    with torch.inference_mode():
        assert tune(graph, model, codes, TuneSettings(task="classification", passes=20)).kept


def test_torch_is_left_as_it_was() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.raises(RuntimeError, match="inside"), repeatable():
            assert torch.get_num_threads() == THREADS
            assert torch.are_deterministic_algorithms_enabled()
            raise RuntimeError("inside")
        assert torch.get_num_threads() == 1
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.set_num_threads(threads)


def test_hints_are_relative_squared_differences_at_the_ends_of_blocks() -> None:
    rng = np.random.default_rng(0)
    graph = residual_network(rng, alphabet("ternary"))
    (tensor,) = Hints.tensors(graph)
    assert graph.producer(tensor).op.kind == "add"  # type: ignore[union-attr]
    scale = graph.tensors[tensor].quantization.scale  # type: ignore[union-attr]
    codes = torch.from_numpy(rng.integers(-100, 100, size=(5, *graph.tensors[tensor].shape))).float()
    real = codes * scale + torch.from_numpy(rng.normal(size=codes.shape)).float()
    hints = Hints.of(graph, {tensor: real}, 0.3)
    expected = 0.3 * ((codes * scale - real) ** 2).mean() / real.var(correction=0)
    torch.testing.assert_close(hints.measure({tensor: codes}, {tensor: real}), expected)
    assert not Hints.of(graph, {tensor: torch.ones_like(real)}, 0.3).weights  # constant: no hint
    assert float(Hints.of(graph, {}, 0.3).measure({}, {})) == 0
    assert Hints.tensors(flattening_network(rng, alphabet("binary"))) == ()  # the sum is the output itself


def test_hints_bring_blocks_nearer() -> None:
    """Where hints count far more than the output, the end of the block gets nearer."""
    rng = np.random.default_rng(4)
    graph = simplify(residual_graph(rng))
    batch = rng.normal(size=(512, 3, 6, 6)).astype(np.float32)
    quantizations = calibrate(graph, lambda: [batch], RangeMethod(), None)
    codes = quantize_values(batch, quantizations["x"])
    fitted, _ = split_samples(len(codes), TuneSettings(1))
    pairs = [(batch[fitted], codes[fitted])]
    model = quantize_graph(graph, quantizations, pairs, WeightSettings(alphabet("binary")))
    (tensor,) = Hints.tensors(model.graph)

    def error(hints: float) -> float:
        tuned = tune(graph, model, codes, TuneSettings(task="classification", passes=20, hints=hints)).network
        cut = tuned.graph.with_nodes(tuned.graph.nodes, output=tensor)
        real = run_graph(graph.with_nodes(graph.nodes, output=tensor), batch)
        return float(((dequantize(run_reference(cut, codes), quantizations[tensor]) - real) ** 2).mean())

    assert error(1.0) < 0.95 * error(0.0)


def test_the_objective_follows_the_output() -> None:
    logits, probabilities = classifier(), classifier(softmax=True)
    assert TuningObjective.of(logits, "auto") == TuningObjective("t4", "squares")
    assert TuningObjective.of(logits, "classification") == TuningObjective("t4", "divergence")
    assert TuningObjective.of(probabilities, "auto") == TuningObjective("t4", "divergence")
    assert TuningObjective.of(probabilities, "regression") == TuningObjective("t5", "squares")
    assert probabilities.nodes[:-1] == TuningObjective("t4", "divergence").cut(probabilities).nodes
    assert TuningObjective.of(regression(), "auto") == TuningObjective("t1", "squares")
    assert TuningObjective.of(regression(), "classification") == TuningObjective("t1", "divergence")
    one = graph_of((20,), Linear(np.ones((1, 20), np.float32), np.zeros(1)))
    assert TuningObjective.of(one, "auto").loss == "squares"


def test_a_network_that_is_sure_of_its_answers_is_softened() -> None:
    objective = TuningObjective("t4", "divergence")
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 10)))
    found = [objective.softened(size * logits).temperature for size in (1, 10, 20, 40, 1e6)]
    assert found == sorted(found) and found[0] == 1 and found[-1] == 16 and len(set(found)) >= 4
    assert TuningObjective("t4", "squares").softened(1e6 * logits).temperature == 1
    soft = replace(objective, temperature=4.0)
    other = logits + 0.1 * torch.from_numpy(np.random.default_rng(1).normal(size=(500, 10)))
    expected = 16 * objective.measure(other / 4, logits / 4)
    torch.testing.assert_close(soft.measure(other, logits), expected)
    # At a high temperature it is the squared difference of logits about their means, over twice their number.
    squares = (other - logits - (other - logits).mean(dim=1, keepdim=True)).square().sum(dim=1).mean() / 20
    hot = replace(objective, temperature=1000.0).measure(other, logits)
    assert float(hot) == pytest.approx(float(squares), rel=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        {"passes": -1},
        {"batch": 0},
        {"rate": 0.0},
        {"rate": math.nan},
        {"rate": 11.0},
        {"held_out": 0.0},
        {"held_out": 1.0},
        {"granularity": "tensor"},
        {"task": "labels"},
        {"hints": -0.1},
        {"hints": math.inf},
    ],
)
def test_wrong_settings_are_the_users_error(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TuneSettings(**({"passes": 1} | wrong))  # type: ignore[arg-type]
