from dataclasses import replace

import pytest

from deployq.config import METHODS, BuildConfig
from deployq.post_training import recipe_of, weight_settings
from deployq.quantizers import method_names
from deployq.recipes import AUTO, Recipe, recipe


@pytest.mark.parametrize("name", method_names())
def test_methods_of_the_literature_come_as_published(name: str) -> None:
    assert recipe(name, "1", 1024) == Recipe(name)


@pytest.mark.parametrize("samples", [1, 16, 100, 256, 1024, 4096, 20000])
@pytest.mark.parametrize("bits", ["1", "ternary", "2", "3", "4", "8", "auto"])
def test_the_recipe_of_auto_fits_any_number_of_samples(bits: str, samples: int) -> None:
    chosen = recipe(AUTO, bits, samples)
    assert chosen.method in method_names()
    assert chosen.copies >= 1 and chosen.copies * samples <= max(4096, samples)
    assert (chosen.tune == 0) == (bits in ("4", "8"))
    assert chosen.tune * samples < (82000 if bits == "ternary" else 41000) + samples


def test_many_samples_are_seen_often_at_ternary() -> None:
    assert [recipe(AUTO, "ternary", samples).tune for samples in (256, 1024, 4096, 20480)] == [96, 24, 20, 4]


def test_what_the_user_sets_wins() -> None:
    config = BuildConfig(method=AUTO, order="natural", refine=0, ridge=0.5, copies=1, tune=0)
    chosen = recipe_of(config, 1024)
    assert chosen == replace(recipe(AUTO, "2", 1024), order="natural", refine=0, ridge=0.5, copies=1, tune=0)
    settings = weight_settings(config, chosen)
    assert (settings.method, settings.refine, settings.compensate) == ("qronos", 0, True)
    assert (settings.options.order, settings.options.ridge) == ("natural", 0.5)


def test_the_width_where_none_is_given() -> None:
    assert {name: BuildConfig(method=name).bits for name in METHODS} == {
        name: "ternary" if name == "sparse-gpfq" else "2" for name in METHODS
    }
    assert BuildConfig(method="sparse-gpfq", bits="4").bits == "4"
    assert BuildConfig(method="sparse-gpfq", alphabet="midtread-3").bits == "3"


def test_every_method_can_be_configured() -> None:
    assert set(METHODS) == {AUTO, *method_names()}
    for name in METHODS:
        assert BuildConfig(method=name).method == name
