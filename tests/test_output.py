"""Output directories are complete or untouched, and nothing that is not deployq's is lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, write_library
from deployq.config import BuildConfig
from deployq.config_file import load_config
from deployq.errors import UsageError, VerificationError
from deployq.output import (
    MARKER,
    QUANTIZATION_FILES,
    STAGING_PREFIX,
    check_inputs_stay,
    check_replaceable,
    staged_directory,
)
from deployq.pipeline import build_from_config
from deployq.quantization import quantize_from_options, quantize_to_directory
from deployq.targets import load_target
from tests.integer_networks import residual_network

REPORT = '{"schema_version": 1, "tool_version": "0", "name": "net"}'


def own(directory: Path, *more: str) -> Path:
    """A directory as a build leaves it, with some files besides."""
    (directory / "firmware").mkdir(parents=True, exist_ok=True)
    (directory / MARKER).write_text(REPORT)
    for name in ("model.onnx", "firmware/net.c", "firmware/net_weights.h", "firmware/main.c", *more):
        (directory / name).write_text("old")
    return directory


def write_again(output: Path, **options: Any) -> None:
    """Replace a directory by one with a new report."""
    with staged_directory(output, **options) as staging:
        (staging / MARKER).write_text(REPORT.replace('"0"', '"1"'))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_finished_directory_replaces_the_old_one(tmp_path: Path) -> None:
    output = own(tmp_path / "out")
    write_again(output)
    assert '"1"' in (output / MARKER).read_text()
    assert names(tmp_path) == ["out"] and names(output) == [MARKER]


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path) -> None:
    output = own(tmp_path / "out")
    with pytest.raises(RuntimeError), staged_directory(output) as staging:
        (staging / "half").write_text("")
        raise RuntimeError("stop")
    assert (output / "model.onnx").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_failure_leaves_no_new_parents(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staged_directory(tmp_path / "a" / "b" / "out"):
        raise RuntimeError("stop")
    assert names(tmp_path) == []
    write_again(tmp_path / "a" / "b" / "out")
    assert names(tmp_path / "a" / "b") == ["out"]


def test_foreign_directories_are_refused(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new", force=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        check_replaceable(tmp_path, force=False)
    check_replaceable(tmp_path, force=True)
    with pytest.raises(UsageError, match="is a file"):
        check_replaceable(tmp_path / "notes.txt", force=True)


def test_a_report_of_another_tool_is_not_ours(tmp_path: Path) -> None:
    for text in ('{"jest": 1}', "[]", "[" * 100_000, "\udcff"):
        (tmp_path / MARKER).write_text(text, errors="surrogateescape")
        with pytest.raises(UsageError, match="not written by deployq"):
            check_replaceable(tmp_path, force=False)
    (tmp_path / MARKER).write_text(REPORT)
    check_replaceable(tmp_path, force=False)


@pytest.mark.parametrize(
    "name",
    ["precious.txt", "firmware/mine.c", "firmware/other_weights.c", "firmware/build/x", "docs/x", ".git/x"],
)
def test_files_of_the_user_are_found_at_every_level(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    own(tmp_path, name)
    with pytest.raises(UsageError, match="it also holds") as caught:
        check_replaceable(tmp_path, force=False)
    assert name.split("/")[0] in caught.value.why
    check_replaceable(tmp_path, force=True)


@pytest.mark.parametrize("single_file", [False, True])
def test_every_generated_file_is_known(tmp_path: Path, single_file: bool) -> None:
    graph = residual_network(np.random.default_rng(1), alphabet("ternary"))
    library = generate(graph, load_target("cortex-m4"), EmitOptions("net", single_file=single_file))
    write_library(library, tmp_path / "firmware")
    (tmp_path / MARKER).write_text(REPORT)
    check_replaceable(tmp_path, force=False)


def test_a_build_is_not_replaced_by_another_command(tmp_path: Path) -> None:
    own(tmp_path)
    with pytest.raises(UsageError, match=r"no quantization\.json"):
        check_replaceable(tmp_path, force=False, files=QUANTIZATION_FILES)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("n" * 256, "too long"),
        ("file/out", "Not a directory"),
        ("a\nb", "line break"),
        ("a\0b", "null"),
        ("a\udcff", "surrogates"),
        ("nowhere", "does not exist"),
        ("loop", "symbolic link"),
        ("/proc/self/out", "No such file"),
        ("/", "mount point"),
        ("/dev/shm", "mount point"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, name: str, why: str
) -> None:
    if name == "/dev/shm" and not os.path.ismount(name):
        pytest.skip("/dev/shm is no mount point here")
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "loop").symlink_to("loop")
    before = names(tmp_path)
    with pytest.raises(UsageError) as caught, staged_directory(tmp_path / name, force=True):
        pytest.fail("the work began")
    assert why in caught.value.why
    assert names(tmp_path) == before


def test_a_link_stays_and_the_directory_behind_it_is_replaced(tmp_path: Path) -> None:
    real, link = own(tmp_path / "real"), tmp_path / "link"
    link.symlink_to("real")
    write_again(link)
    assert link.is_symlink() and names(real) == [MARKER] and names(tmp_path) == ["link", "real"]
    (real / "precious").write_text("")
    with pytest.raises(UsageError, match="not written by deployq"):
        write_again(link)


def test_what_appears_during_the_work_stays(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for force in (False, True):
        with pytest.raises(UsageError, match="is a file"), staged_directory(output, force=force):
            output.write_text("thesis")
        assert output.read_text() == "thesis"
        output.unlink()
    with pytest.raises(UsageError, match="not written by deployq"), staged_directory(output):
        output.mkdir()
        (output / "thesis").write_text("")
    assert names(output) == ["thesis"] and names(tmp_path) == ["out"]
    (output / "thesis").unlink()
    with pytest.raises(UsageError, match="also holds"), staged_directory(output):
        own(output, "firmware/thesis.c")
    assert (output / "firmware" / "thesis.c").is_file()


def test_an_interruption_between_the_renames_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, rename = own(tmp_path / "out"), Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_again(output)
    assert (output / "model.onnx").read_text() == "old" and names(tmp_path) == ["out"]


def _build_repeatedly(output: Path, barrier: Any, failures: Any) -> None:
    for _ in range(20):
        try:
            with staged_directory(output) as staging:
                (staging / MARKER).write_text(REPORT)
                (staging / "model.onnx").write_text("")
                barrier.wait(timeout=60)
        except Exception as error:  # reported to the test, which fails
            failures.put(repr(error))
        barrier.wait(timeout=60)
        if sorted(path.name for path in output.iterdir()) != ["model.onnx", MARKER]:
            failures.put("incomplete")
        barrier.wait(timeout=60)


def test_builds_that_end_at_the_same_instant(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, failures = context.Barrier(2), context.SimpleQueue()
    both = [
        context.Process(target=_build_repeatedly, args=(tmp_path / "out", barrier, failures))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=120)
    assert [process.exitcode for process in both] == [0, 0]
    assert failures.empty(), failures.get()
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("given", ["model", "calibration", "evaluation"])
def test_inputs_are_never_deleted(tmp_path: Path, given: str, force: bool) -> None:
    inputs = tmp_path / "data"
    inputs.mkdir()
    for name in ("m.onnx", "x.npz", "y.npy"):
        (inputs / name).write_text("")
    (tmp_path / "link").symlink_to(inputs / "x.npz")
    specs = {
        "model": inputs / "m.onnx",
        "calibration": f"{tmp_path}/link:key",
        "evaluation": f"x.npy,{inputs}/y.npy",
    }
    everything: dict[str, Any] = {"model": Path("m"), "calibration": "c", given: specs[given]}
    steps: list[str] = []
    for output in (inputs, tmp_path, inputs / "m.onnx" / ".."):
        config = BuildConfig(output=output, force=force, **everything)
        with pytest.raises(UsageError, match="holds an input"):
            build_from_config(config, steps.append)
        with pytest.raises(UsageError, match="holds an input"):
            quantize_to_directory(config, steps.append)
    assert steps == [] and names(inputs) == ["m.onnx", "x.npz", "y.npy"]


def test_a_folder_of_samples_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for output in (tmp_path, tmp_path / "images"):
        with pytest.raises(UsageError, match="holds an input"):
            check_inputs_stay(output, [tmp_path / "images"])
    check_inputs_stay(tmp_path / "images" / "out", [tmp_path / "images"])
    check_inputs_stay(tmp_path / "images-out", [tmp_path / "images"])


def test_the_configuration_file_is_an_input(tmp_path: Path) -> None:
    settings = tmp_path / "deployq.toml"
    settings.write_text('output = "."\nforce = true\n')
    with pytest.raises(UsageError, match="holds an input"):
        load_config({}, config_file=settings)
    again = tmp_path / "build.toml"  # is written again, with the same settings
    again.write_text('output = "."\n')
    assert load_config({}, config_file=again).output == tmp_path
    with pytest.raises(UsageError, match="holds an input"):
        quantize_from_options({"output": str(tmp_path), "force": True}, again)


def test_errors_name_the_place_the_user_gave(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(VerificationError) as caught, staged_directory(output) as staging:
        raise VerificationError("it failed", where=f"{staging}/firmware", why=f"gcc -I{staging}/firmware")
    assert caught.value.where == f"{output}/firmware"
    assert caught.value.why == f"gcc -I{output}/firmware"
    assert STAGING_PREFIX not in str(caught.value)


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="cannot write") as caught,
        staged_directory(tmp_path / "out") as staging,
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(staging / "model.onnx"))
    assert caught.value.where == str(tmp_path / "out" / "model.onnx")
    assert caught.value.why == "No space left on device"
    with pytest.raises(FileNotFoundError), staged_directory(tmp_path / "out"):
        (tmp_path / "missing").read_text()
    assert names(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("request_to_end", ["SIGTERM", "SIGHUP"])
def test_a_signal_removes_what_is_half_written(tmp_path: Path, request_to_end: str) -> None:
    """The installed command, with a build that gets the signal in the middle of its work."""
    program = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from deployq import cli\n"
        "from deployq.output import staged_directory\n"
        "def build(*arguments):\n"
        "    with staged_directory(Path('out')) as staging:\n"
        "        (staging / 'half').write_text('')\n"
        f"        os.kill(os.getpid(), signal.{request_to_end})\n"
        "        time.sleep(0.2)\n"
        "        sys.stdout.write('went on')\n"
        "    raise SystemExit(0)\n"
        "cli.build_from_config = build\n"
        "sys.argv = ['deployq', 'build', '--quiet']\n"
        "cli.entry_point()\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (130, ""), run.stderr
    assert names(tmp_path) == []
    if request_to_end == "SIGHUP":  # under nohup it means nothing
        command = ["nohup", sys.executable, "-c", program]
        ignored = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (ignored.returncode, ignored.stdout) == (0, "went on"), ignored.stderr
