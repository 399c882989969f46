"""What a comparison is measured with: calibration samples of every seed, evaluation samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import helper

from deployq.config import BuildConfig, example_config, load_config
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
    opened = open_experiment(replace(config, seed=5), seeds=3)
    assert opened.seeds == (5, 6, 7) and opened.warnings == ()
    drawn = [set(draw.raw[:, 0]) for draw in opened.draws]
    assert [len(found) for found in drawn] == [40, 40, 40], "without repetition"
    assert len(set(map(frozenset, drawn))) == 3
    again = open_experiment(replace(config, seed=6), seeds=2)
    np.testing.assert_array_equal(again.draws[0].raw, opened.draws[1].raw)


def test_agreement_is_measured_on_other_samples(tmp_path: Path) -> None:
    opened = open_experiment(numbered(tmp_path, 400), seeds=3)
    used = set().union(*(draw.raw[:, 0] for draw in opened.draws))
    measured = set(opened.evaluation.samples.raw[:, 0])
    assert measured == set(range(400)) - used
    assert opened.measure.kind == "agreement" and opened.measure.float_accuracy is None
    values = opened.evaluation.samples.raw
    best = (values @ random(3, 4)).argmax(axis=1)
    assert np.mean(opened.evaluation.answers == best) > 0.99


def test_agreement_on_the_calibration_samples_is_said(tmp_path: Path) -> None:
    opened = open_experiment(numbered(tmp_path, 120))
    assert len(opened.evaluation.samples) == 120
    assert opened.warnings == (
        "the agreement is measured on the calibration samples, too: there are no others",
    )


def test_seeds_without_a_choice_of_samples_are_said(tmp_path: Path) -> None:
    opened = open_experiment(numbered(tmp_path, 40), seeds=2)
    assert "hold 40 samples, which every seed uses" in opened.warnings[0]
    assert all(len(draw) == 40 for draw in opened.draws)
