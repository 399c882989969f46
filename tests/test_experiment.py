"""What a comparison is measured with: calibration samples of every seed, evaluation samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from deployq.config import BuildConfig
from deployq.config_file import example_config, load_config
from deployq.errors import UsageError
from deployq.evaluation import explained_variance, integer_outputs
from deployq.experiment import open_experiment
from deployq.steps import prepare
from tests.frontends.models import model_bytes, random


def test_one_seed_uses_the_samples_of_build() -> None:
    config = replace(load_config({}, config_file=example_config()), calibration_limit=50)
    assert config.model is not None and config.calibration is not None
    built = prepare(config.model, config.calibration, config).samples.raw
    for evaluation in (config.evaluation, None):
        (draw,) = open_experiment(replace(config, evaluation=evaluation)).draws
        np.testing.assert_array_equal(draw.raw, built)


def numbered(directory: Path, count: int) -> BuildConfig:
    """A linear network with `count` samples that can be told apart by their first value."""
    (directory / "m.onnx").write_bytes(
        model_bytes([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": random(3, 4)}, ["n", 3])
    )
    values = np.stack([np.arange(count), np.ones(count), random(count)], axis=1).astype(np.float32)
    np.save(directory / "x.npy", values)
    return BuildConfig(model=directory / "m.onnx", calibration=str(directory / "x.npy"), calibration_limit=40)


def test_every_seed_draws_other_samples(tmp_path: Path) -> None:
    config = numbered(tmp_path, 400)
    config = replace(config, task="classification")
    opened = open_experiment(replace(config, seed=5), seeds=3)
    assert opened.seeds == (5, 6, 7) and opened.warnings == ()
    drawn = [set(draw.raw[:, 0]) for draw in opened.draws]
    assert [len(found) for found in drawn] == [40, 40, 40], "without repetition"
    assert len(set(map(frozenset, drawn))) == 3
    again = open_experiment(replace(config, seed=6), seeds=2)
    np.testing.assert_array_equal(again.draws[0].raw, opened.draws[1].raw)


def test_agreement_is_measured_on_other_samples(tmp_path: Path) -> None:
    opened = open_experiment(replace(numbered(tmp_path, 400), task="classification"), seeds=3)
    used = set().union(*(draw.raw[:, 0] for draw in opened.draws))
    measured = set(opened.evaluation.samples.raw[:, 0])
    assert measured == set(range(400)) - used
    assert opened.measure.kind == "agreement" and opened.measure.float_accuracy is None
    values = opened.evaluation.samples.raw
    best = (values @ random(3, 4)).argmax(axis=1)
    assert np.mean(opened.evaluation.answers == best) > 0.99


@pytest.mark.parametrize("task", ["auto", "regression"])
def test_what_is_not_known_to_classify_is_compared_by_values(tmp_path: Path, task: str) -> None:
    config = replace(numbered(tmp_path, 400), task=task, bits="8")
    opened = open_experiment(config)
    assert opened.measure.kind == "explained variance" and opened.measure.float_accuracy is None
    values = opened.evaluation.samples.raw
    np.testing.assert_allclose(opened.evaluation.answers, values @ random(3, 4), rtol=1e-5, atol=1e-4)
    measured = opened.run(config, 0)
    assert 99 < measured.trial.score < 100
    outputs = integer_outputs(measured.network.graph, opened.evaluation.samples)
    error = np.sum((outputs - opened.evaluation.answers) ** 2)
    spread = np.sum((opened.evaluation.answers - opened.evaluation.answers.mean(axis=0)) ** 2)
    assert measured.trial.score == pytest.approx(100 - 100 * error / spread)
    assert len(opened.warnings) == (task == "auto")
    assert all("--task classification" in warning for warning in opened.warnings)


def test_variance_of_constant_outputs() -> None:
    wanted = np.ones((5, 2), dtype=np.float32)
    assert explained_variance(wanted, wanted) == 100
    assert explained_variance(wanted + 1, wanted) == 0


def test_a_score_on_the_calibration_samples_is_said(tmp_path: Path) -> None:
    opened = open_experiment(replace(numbered(tmp_path, 120), task="classification"))
    assert len(opened.evaluation.samples) == 120
    assert opened.warnings == ("the score is measured on the calibration samples, too: there are no others",)


def test_copies_of_vectors_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 copies") as caught:
        open_experiment(replace(numbered(tmp_path, 120), copies=4))
    assert caught.value.where == "--copies" and "vectors" in caught.value.why


def test_seeds_without_a_choice_of_samples_are_said(tmp_path: Path) -> None:
    opened = open_experiment(numbered(tmp_path, 40), seeds=2)
    assert "hold 40 samples, which every seed uses" in opened.warnings[0]
    assert all(len(draw) == 40 for draw in opened.draws)
