"""Structures that assembly reads by numeric offsets: the layout of each is asserted, member by member."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deployq.errors import DeployqError
from deployq.targets import load_target
from deployq.verify.toolchain import compile_objects
from tests.codegen.drawn_kernels import naked_functions, preprocessed, write_kernels
from tests.codegen.emulated import require_emulator

pytestmark = pytest.mark.qemu

_TARGETS = ("cortex-m4", "cortex-m3", "cortex-m0plus", "cortex-m55")

#: So many structures at least are read by the assembly of each core.
_STRUCTURES = {"cortex-m4": 5, "cortex-m3": 4, "cortex-m0plus": 5, "cortex-m55": 4}

#: Swapped in the test that sees the assertions fail: two neighbours of one type.
_NEIGHBOURS = {
    "cortex-m4": ("zero_point", "odd"),
    "cortex-m3": ("row_rest", "bytes"),
    "cortex-m0plus": ("skip", "stride"),
    "cortex-m55": ("first_taps", "vectors"),
}


def _structures(text: str) -> dict[str, str]:
    """Declarations of the members of every structure."""
    return {name: body for body, name in re.findall(r"typedef struct \{([^{}]*)\} (\w+);", text)}


def _members(body: str) -> list[str]:
    return [re.findall(r"\w+", re.sub(r"\[.*", "", line))[-1] for line in body.split(";") if line.strip()]


def _read_by_assembly(text: str, structures: Mapping[str, str]) -> Iterator[str]:
    """Structures that naked functions take a pointer to, and those that these point to."""
    waiting = [name for each in naked_functions(text).values() for name in re.findall(r"(\w+) \*", each)]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in structures and name not in found:
            found.add(name)
            yield name
            waiting += re.findall(r"(\w+) \*", structures[name])


def _unasserted(text: str) -> list[str]:
    """Members, of structures that assembly reads, whose offset is not asserted."""
    asserted = set(re.findall(r"offsetof\s*\((\w+), (\w+)\) == ", text))
    structures = _structures(text)
    return [
        f"{name}.{member}"
        for name in sorted(_read_by_assembly(text, structures))
        for member in _members(structures[name])
        if (name, member) not in asserted
    ]


@pytest.mark.parametrize("target", _TARGETS)
def test_every_member_that_assembly_could_read_is_asserted(target: str, tmp_path: Path) -> None:
    require_emulator()
    text = preprocessed(write_kernels(target, tmp_path), load_target(target).compiler_flags)
    assert len(list(_read_by_assembly(text, _structures(text)))) >= _STRUCTURES[target]
    assert _unasserted(text) == []


@pytest.mark.parametrize("target", _TARGETS)
def test_other_orders_of_members_do_not_compile(target: str, tmp_path: Path) -> None:
    require_emulator()
    source = write_kernels(target, tmp_path)
    flags = load_target(target).compiler_flags
    assert compile_objects("arm-none-eabi-gcc", flags, (source,), tmp_path)
    text, (first, second) = source.read_text(), _NEIGHBOURS[target]
    lines = rf"(int32_t |uint32_t ){first};(.*\n +)(int32_t |uint32_t ){second};"
    swapped, count = re.subn(lines, rf"\g<3>{second};\g<2>\g<1>{first};", text, count=1)
    assert count == 1
    source.write_text(swapped)
    with pytest.raises(DeployqError, match="negative"):
        compile_objects("arm-none-eabi-gcc", flags, (source,), tmp_path)


def test_a_member_without_assertion_is_found(tmp_path: Path) -> None:
    require_emulator()
    (tmp_path / "source.c").write_text("""
typedef struct { const int *a; int b[2]; } inner;
typedef struct { inner *first; int last; } job;
typedef struct { int only; } other;
typedef struct { int unknown_to_assembly; } params;
typedef char job_first_offset[__builtin_offsetof (job, first) == (0) ? 1 : -1];
typedef char inner_b_offset[__builtin_offsetof (inner, b) == (4) ? 1 : -1];
__attribute__((naked, aligned(4))) __attribute__((cold))
static void f(__attribute__((unused)) const job *j) { }
static void __attribute__((naked)) g(other *o __attribute__((unused))) { }
static __attribute__((noinline)) void h(params *p) { p->unknown_to_assembly = 1; }
""")
    text = preprocessed(tmp_path / "source.c", ())
    assert naked_functions(text).keys() == {"f", "g"}
    assert _unasserted(text) == ["inner.a", "job.last", "other.only"]
