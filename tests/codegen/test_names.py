"""Nothing from outside reaches C unescaped."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.codegen.names import c_string, check_prefix, comment_block, comment_text
from deployq.errors import UsageError
from deployq.verify.runner import harness_flags, library_flags, library_sources
from deployq.verify.toolchain import harness_directory, run_tool
from tests.tools import needs_tools
from tests.verify.tiny_library import INPUT_SIZE, OUTPUT_SIZE, write_tiny_library


@pytest.mark.parametrize("prefix", ["m", "digits", "Net2", "resnet8_v1", "model"])
def test_good_prefixes(prefix: str) -> None:
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "2net",
        "_net",
        "a-b",
        "a b",
        "nät",
        "int",
        "class",
        "dq_net",
        "dq",
        "stdint",
        "main",
        "a\n",
        "x" * 41,
    ],
)
def test_bad_prefixes(prefix: str) -> None:
    with pytest.raises(UsageError):
        check_prefix(prefix)


_STANDARD = """assert ctype errno float inttypes limits locale math setjmp signal stdarg stdbool stddef stdint
stdio
stdlib string time wchar""".split()


@pytest.mark.parametrize("compiler", ["gcc", "clang", "arm-none-eabi-gcc"])
def test_headers_of_the_c_library_are_no_prefixes(compiler: str, tmp_path: Path) -> None:
    """What a program that includes standard headers reads by a name without a folder."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / "program.c"
    source.write_text("".join(f"#include <{name}.h>\n" for name in _STANDARD))
    for flags in ([], ["-D_GNU_SOURCE"]):
        command = [compiler, *flags, "-H", "-fsyntax-only", str(source)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        headers = [Path(path) for path in re.findall(r"^\.+ (\S+\.h)$", printed, re.M)]
        # Folders of an include directory are read as <sys/types.h>, which no prefix can be.
        found = {path.stem for path in headers if path.parent.name.startswith("include") and path.is_file()}
        assert "stdint" in found
        for name in filter(str.isidentifier, found):
            if not name.startswith("_"):
                with pytest.raises(UsageError, match="prefix"):
                    check_prefix(name)


def _named_library(directory: Path, prefix: str) -> Path:
    """The tiny library under another name."""
    directory.mkdir()
    for path in write_tiny_library(directory).iterdir():
        text = path.read_text().replace("tiny", prefix).replace("TINY", prefix.upper())
        path.unlink()
        (directory / path.name.replace("tiny", prefix)).write_text(text)
    return directory


@needs_tools("gcc")
def test_no_file_of_the_harness_hides_one_of_the_library(tmp_path: Path) -> None:
    files = harness_directory().rglob("*.*")
    stems = sorted({path.name.split(".")[0] for path in files if path.is_file()} - {"main"})
    assert {"counter", "layers", "dq_library"} <= set(stems)
    # Where a prefix is refused because users would suffer, the harness does not.
    for prefix in [stem for stem in stems if not stem.startswith("dq_")] + ["library", "features", "strings"]:
        firmware = _named_library(tmp_path / prefix, prefix)
        names = harness_flags(firmware, prefix, input_size=INPUT_SIZE, output_size=OUTPUT_SIZE, layers=True)
        host = ("-D_POSIX_C_SOURCE=200112L", "-DDQ_GUARD_BYTES=0u", "-DDQ_BLOCK_ALIGN=64")
        for flags, sources in (
            (library_flags(firmware, layers=True), library_sources(firmware, prefix)),
            ((*names, *host), (harness_directory() / "host" / "main.c",)),
            (names, tuple(harness_directory() / "qemu" / name for name in ("main.c", "layers.c"))),
        ):
            command = ["gcc", "-std=c99", "-Wall", "-Werror", "-Wno-pointer-to-int-cast", *flags]
            run_tool([*command, "-fsyntax-only", *map(str, sources)], f"{prefix} does not compile")


@given(st.text(max_size=60))
def test_comments_cannot_be_left(text: str) -> None:
    safe = comment_text(text)
    assert safe.isascii() and safe.isprintable()
    assert not any(token in safe for token in ("*/", "/*", "//", "??", "\\"))
    block = comment_block(text)
    assert block.count("*/") == 1 and block.endswith("*/")


def test_a_hostile_name() -> None:
    assert comment_text('*/ #include "x" \\\n??/') == '* / #include "x" <005C><000A>? ?/'


@given(st.text(max_size=40))
def test_strings_read_back(text: str) -> None:
    literal = c_string(text)
    assert literal.isascii() and literal.count('"') == 2
    assert eval("b" + literal) == text.encode()
