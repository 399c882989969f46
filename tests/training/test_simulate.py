"""The torch forms of both networks against the definitions in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from deployq.alphabet import Alphabet
from deployq.errors import UsageError
from deployq.graph import Graph, Node, Quantization, run_graph
from deployq.graph import Tensor as GraphTensor
from deployq.ops import OPERATOR_MODULES, Case, IntegerOperator
from deployq.ops.clip import Clip, IntegerClip
from deployq.training import requantize, simulate
from deployq.training.floating import float_network
from deployq.training.simulate import TorchNetwork, quantization_of
from deployq.verify.reference import run_reference
from tests.integer_networks import (
    ALPHABETS,
    NETWORKS,
    mobile_network,
    operator_cases,
    residual_network,
    samples,
    single_node,
)

#: The simulation multiplies in float32, the reference with 31-bit integers: where the product is a
#: tie, either may be right. Additions of two codes have the most ties.
_LARGEST_SHARE_OF_TIES = 0.02

CASES = tuple(operator_cases())


def simulated_codes(graph: Graph, codes: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    quantization = quantization_of(graph, graph.output)
    with torch.no_grad():
        real = TorchNetwork.of(graph).run(torch.from_numpy(codes)).numpy()
    result = real / quantization.scale + quantization.zero_point
    assert np.abs(result - np.round(result)).max() < 1e-3
    return np.round(result).astype(np.int64)


@pytest.mark.parametrize("letters", ALPHABETS, ids=lambda letters: letters.name)
@pytest.mark.parametrize(("kind", "case"), CASES, ids=[f"{kind} {case.name}" for kind, case in CASES])
def test_every_operator_is_simulated_to_the_code(kind: str, case: Case, letters: Alphabet) -> None:
    rng = np.random.default_rng([len(kind), letters.bits])
    graph = single_node(case, letters, rng)
    codes = samples(graph, 12, rng)
    difference = np.abs(simulated_codes(graph, codes) - run_reference(graph, codes))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= max(1, _LARGEST_SHARE_OF_TIES * difference.size)


@pytest.mark.parametrize("letters", ALPHABETS, ids=lambda letters: letters.name)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_networks_are_simulated_to_the_code(
    network: Callable[[np.random.Generator, Alphabet], Graph], letters: Alphabet
) -> None:
    rng = np.random.default_rng(letters.bits)
    graph = network(rng, letters)
    codes = samples(graph, 12, rng)
    difference = np.abs(simulated_codes(graph, codes) - run_reference(graph, codes))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 0.002 * difference.size + 1


def test_every_operator_file_has_both_torch_forms() -> None:
    """A new operator must be added to the dispatch tables (affine maps have no integer form)."""
    from deployq.ops import FloatOperator
    from deployq.training import floating

    def defined(base: type) -> set[type]:
        members = (vars(module).values() for module in OPERATOR_MODULES)
        return {
            member
            for values in members
            for member in values
            if isinstance(member, type) and issubclass(member, base) and not member.__abstractmethods__
        }

    assert defined(FloatOperator) == set(floating._FORMS)
    assert defined(IntegerOperator) == set(simulate._FORMS)


FLOAT_CASES = [case for module in OPERATOR_MODULES for case in getattr(module, "cases", list)()]


@pytest.mark.parametrize("case", FLOAT_CASES, ids=[f"{case.op.kind} {case.name}" for case in FLOAT_CASES])
def test_the_float_network_is_that_of_numpy(case: Case) -> None:
    rng = np.random.default_rng(5)
    names = ("x", "clipped")[: len(case.shapes)]
    tensors = {name: GraphTensor(name, shape) for name, shape in zip(names, case.shapes, strict=True)}
    tensors["y"] = GraphTensor("y", case.op.output_shape(case.shapes))
    nodes = [Node("tested", case.op, names, "y")]
    if len(names) == 2:
        nodes.insert(0, Node("clip", Clip(-0.5, 0.7), ("x",), "clipped"))
    graph = Graph("one", "x", "y", tuple(nodes), tensors)
    batch = rng.normal(size=(4, *case.shapes[0])).astype(np.float32)
    result = float_network(graph).run(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(result, run_graph(graph, batch), rtol=1e-4, atol=1e-5)


class IntegerRotate(IntegerClip):
    kind: ClassVar[str] = "rotate"


def test_an_operator_without_a_torch_form_is_named() -> None:
    tensors = {name: GraphTensor(name, (4,), Quantization(0.1, 0)) for name in ("x", "y")}
    graph = Graph("g", "x", "y", (Node("n", IntegerRotate(-3, 4), ("x",), "y", "/rotate"),), tensors)
    with pytest.raises(UsageError, match=r"rotate(.|\n)*/rotate"):
        TorchNetwork.of(graph)


#: Large enough for float32 losses, small enough to cross few of the kinks of ReLU and the clamps.
_STEP = 1e-3


@pytest.mark.parametrize("network", [residual_network, mobile_network])
def test_gradients_are_those_of_the_network_without_rounding(
    network: Callable[[np.random.Generator, Alphabet], Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Central differences of the loss along random directions; only the rounding is taken out."""
    monkeypatch.setattr(requantize, "rounded", torch.clone)
    rng = np.random.default_rng(11)
    graph = network(rng, ALPHABETS[4])
    simulation = TorchNetwork.of(graph)
    codes = torch.from_numpy(samples(graph, 64, rng))
    weight = torch.from_numpy(rng.normal(size=graph.tensors[graph.output].shape).astype(np.float32))

    def loss() -> Tensor:
        return (simulation.run(codes) * weight).mean()

    parameters = simulation.parameters()
    gradients = torch.autograd.grad(loss(), parameters)
    for _ in range(4):
        directions = [
            torch.from_numpy(rng.choice([-1.0, 1.0], size=p.shape).astype(np.float32)) for p in parameters
        ]
        pairs = list(zip(gradients, directions, strict=True))
        expected = sum(float((gradient * direction).sum()) for gradient, direction in pairs)
        values = []
        for distance in (_STEP, -_STEP):
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.copy_(direction * distance)
                values.append(float(loss()))
        largest = sum(float(gradient.abs().sum()) for gradient in gradients)
        assert (values[0] - values[1]) / (2 * _STEP) == pytest.approx(expected, abs=0.01 * largest)


@pytest.mark.parametrize(
    "bounds", [(-7.0, 9.0), (torch.full((1, 3, 1, 1), -7.0), torch.full((1, 3, 1, 1), 9.0))]
)
def test_the_output_stage_passes_gradients_inside_its_bounds(bounds: tuple[requantize.Bound, ...]) -> None:
    rng = np.random.default_rng(0)
    summed = torch.from_numpy(rng.normal(size=(5, 3, 4, 2)) * 30).requires_grad_()
    gain = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64).reshape(1, 3, 1, 1).requires_grad_()
    offset = torch.tensor([1.5, -0.25, 0.0], dtype=torch.float64).reshape(1, 3, 1, 1).requires_grad_()
    outer = torch.from_numpy(rng.normal(size=(5, 3, 4, 2)))
    codes = requantize.AffineRequantize.apply(summed, gain, offset, *bounds)
    assert torch.equal(codes, codes.round())
    expected = torch.autograd.grad(
        ((summed * gain + offset).clamp(-7, 9) * outer).sum(), (summed, gain, offset)
    )
    for mine, true in zip(
        torch.autograd.grad((codes * outer).sum(), (summed, gain, offset)), expected, strict=True
    ):
        torch.testing.assert_close(mine, true)


def test_rounding_is_half_up() -> None:
    real = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.49])
    assert requantize.Requantize.apply(real, -128.0, 127.0).tolist() == [-1, 0, 1, 2, 2]


def test_what_is_tuned_changes_scales_and_biases_as_stated() -> None:
    graph = mobile_network(np.random.default_rng(1), ALPHABETS[2])
    shared = next(iter(TorchNetwork.of(graph, shared=True).tunables.values()))
    assert shared.log_scale.shape == (1,)
    layer = next(iter(TorchNetwork.of(graph).tunables.values()))
    weights = layer.accumulation.weights
    np.testing.assert_array_equal(layer.scales, weights.scales)
    np.testing.assert_array_equal(layer.bias, weights.bias)
    layer = replace(layer)
    with torch.no_grad():
        layer.log_scale.fill_(np.log(1.5))
        layer.shift.fill_(2.0)
    layer.unit = 0.25
    np.testing.assert_allclose(layer.scales, 1.5 * weights.scales, rtol=1e-6)
    np.testing.assert_allclose(layer.bias, weights.bias + 0.5)
