"""Target files and their checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployq.errors import DeployqError, UsageError
from deployq.resources import resource_directory
from deployq.targets import load_target, read_target, target_names

_GOOD = """
description = "a core"
architecture = "armv7-m"
toolchain_prefix = "arm-none-eabi-"
compiler_flags = ["-mcpu=cortex-m3"]
features = []
arena_alignment = 8
[[machines]]
name = "mps2-an385"
flash = { origin = 0, bytes = 1024 }
ram = { origin = 0x20000000, bytes = 1024 }
"""


def test_the_shipped_targets_load() -> None:
    assert target_names() == (
        "cortex-m0plus",
        "cortex-m3",
        "cortex-m33",
        "cortex-m4",
        "cortex-m55",
        "cortex-m7",
        "host",
    )
    for name in target_names():
        target = load_target(name)
        assert target.name == name
        assert target.is_host == (name == "host")
        assert target.is_host == (not target.machines)


def test_m0plus_prefers_the_microbit_and_falls_back_to_a_larger_board() -> None:
    machines = load_target("cortex-m0plus").machines
    assert [machine.name for machine in machines] == ["microbit", "mps2-an385"]
    assert (machines[0].flash.bytes, machines[0].ram.bytes) == (256 * 1024, 16 * 1024)


def test_features_follow_the_cores() -> None:
    with_dsp = {name for name in target_names() if "dsp" in load_target(name).features}
    assert with_dsp == {"cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"}
    assert {name for name in target_names() if "mve" in load_target(name).features} == {"cortex-m55"}
    assert load_target("cortex-m55").arena_alignment == 16


def test_an_unknown_target_is_a_usage_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="cortex-m4"):
        load_target("cortex-m99")


@pytest.mark.parametrize("name", ["../targets/host", ""])
def test_a_target_name_is_not_a_path(name: str) -> None:
    with pytest.raises(UsageError, match="unknown target"):
        load_target(name)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "core.toml"
    path.write_text(_GOOD)
    target = read_target(path)
    assert (target.name, target.arena_alignment, target.machines[0].vectors) == ("core", 8, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arena_alignment = 8", "", '"arena_alignment" is missing'),
        ("arena_alignment = 8", "arena_alignment = 12", "not a power of two"),
        ("arena_alignment = 8", "arena_alignment = true", "must be an integer"),
        ("arena_alignment = 8", "arena_alignment = 8\ncolour = 1", '"colour" is unknown'),
        ("features = []", 'features = "dsp"', "must be a list of texts"),
        ('"a core"', '""', '"description" must be a text'),
        ("{ origin = 0, bytes = 1024 }", "1024", '"flash" must be a table'),
        (
            "origin = 0x20000000, bytes = 1024",
            "origin = 0xFFFFFF00, bytes = 1024",
            '"bytes" must be an integer',
        ),
        ("origin = 0x20000000, bytes", "origin = 0x20000000, size = 1, bytes", '"size" is unknown'),
        ("[[machines]]", "machines = []\n[other]", '"other" is unknown'),
        ('"arm-none-eabi-"', "oops", "cannot read a target file"),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in _GOOD
    path = tmp_path / "core.toml"
    path.write_text(_GOOD.replace(old, new))
    with pytest.raises(DeployqError, match=message) as caught:
        read_target(path)
    assert str(path) in caught.value.where


def test_a_core_without_a_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "core.toml"
    path.write_text(_GOOD.split("[[machines]]")[0] + "machines = []\n")
    with pytest.raises(DeployqError, match="machines"):
        read_target(path)


def test_the_resources_are_found() -> None:
    assert (resource_directory("targets") / "host.toml").is_file()
    assert (resource_directory("templates") / "harness" / "qemu" / "main.c").is_file()
