"""The wheel works by itself: installed into a clean environment, away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.tools import needs_tools

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def run(*command: str | Path, directory: Path) -> str:
    """Run a command with nothing of this checkout on Python's path; its stdout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the build system that is already installed."""
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, directory=ROOT)
    (path,) = directory.glob("deployq-*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the programs of an environment with the wheel.

    The dependencies are those of the running Python, made visible by path, so that nothing is
    downloaded. A checkout installed there as editable does not come along: paths inside a path
    file are followed only for directories Python knows from the start.
    """
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", directory, directory=directory)
    variables = {"base": str(directory), "platbase": str(directory)}
    packages = Path(sysconfig.get_path("purelib", "venv", variables))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    programs = Path(sysconfig.get_path("scripts", "venv", variables))
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps")
    run(*pip, "--no-index", "--ignore-installed", "--quiet", wheel, directory=directory)
    return programs


def test_the_wheel_holds_the_resources(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for kind in ("templates", "targets"):
        for path in (ROOT / kind).rglob("*"):
            if path.is_file():
                assert f"deployq/_resources/{kind}/{path.relative_to(ROOT / kind).as_posix()}" in names
    for name in ("deployq.toml", "digits.onnx", "digits.npz", "main.c", "README.md"):
        assert f"deployq/_resources/examples/digits/{name}" in names
    assert "deployq/py.typed" in names
    assert not any(name.startswith(("tests/", "examples/")) for name in names)


@needs_tools("gcc")
def test_the_installed_command_builds_the_example(environment: Path, tmp_path: Path) -> None:
    place = run(environment / "python", "-c", "import deployq; print(deployq.__file__)", directory=tmp_path)
    assert Path(place.strip()).is_relative_to(environment.parent)
    out = run(environment / "deployq", "build", "--target", "host", "--json", directory=tmp_path)
    report = json.loads(out)
    assert report["name"] == "digits"
    assert report["accuracy"]["samples"] == 500
    assert report["verification"]["host"] == {"samples": 500, "mismatches": 0}
    assert (tmp_path / "deployq-out" / "firmware" / "digits.h").is_file()
    verified = run(environment / "deployq", "verify", "deployq-out", directory=tmp_path)
    assert "0 mismatching bytes" in verified


def test_the_installed_command_knows_its_version(environment: Path, tmp_path: Path) -> None:
    from importlib.metadata import version

    versions = run(environment / "deployq", "--version", directory=tmp_path)
    assert versions.startswith("deployq 0.1.0\n")
    assert f"onnx {version('onnx')}\n" in versions
