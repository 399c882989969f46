"""The compiler sees that functions write: it drops calls of a function that it takes for pure or constant.

gcc 12 has taken loops that write for pure. What it takes each function for is in the dumps of its passes, and
so is what every function stores, as seen before the passes that go wrong.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployq.targets import load_target
from tests.codegen.drawn_kernels import drawn_kernels, preprocessed, write_kernels
from tests.codegen.emulated import require_emulator

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

_COMPILER = "arm-none-eabi-gcc"

#: Passes that find functions without effect, the last two from the code that is about to be written.
_PASSES = ("tree-local-pure-const1", "ipa-pure-const", "ipa-modref", "tree-local-pure-const2", "tree-modref2")

#: The form in assembly, and that in C.
_FORMS = {core: ("", "-DDQ_NO_ASM") for core in ("cortex-m4", "cortex-m3", "cortex-m0plus")} | {
    "cortex-m55": ("", "-DDQ_NO_MVE")
}

#: What gcc 12 drops on a Cortex-M0+ at -Os: a kernel had two moving pointers, and now has indices.
_FORMER_MISTAKE = """
static __attribute__((noinline)) void sums(const int *weights, unsigned *column, int count)
{
    const unsigned *window = column;
    for (unsigned *const end = column + 12 * count; column < end; column += 12) {
        unsigned sum = 0;
        sum += (unsigned)weights[0] * window[0];
        sum += (unsigned)weights[1] * window[48];
        *column = sum;
        window += 24;
    }
}

void kernel(const int *weights, unsigned *columns, int count)
{
    for (int k = 0; k < 4; ++k) {
        sums(weights + 9 * k, columns + k, count);
    }
}
"""

_NOTHING_WRITTEN = """
static __attribute__((noinline)) int sum(const int *a, const int *b) { return *a + *b; }
static __attribute__((noinline)) void nothing(int *output, int value) { (void)output; (void)value; }

void kernel(const int *a, int *b)
{
    nothing(b, sum(a, b));
    *b = sum(a, b);
}
"""


@dataclass(frozen=True)
class Effects:
    """What the compiler makes of the functions of a file.

    Attributes:
        functions: all that are compiled.
        writing: those that return nothing or store something.
        without_effect: those it takes for pure or constant.
    """

    functions: frozenset[str]
    writing: frozenset[str]
    without_effect: frozenset[str]

    @property
    def mistaken(self) -> list[str]:
        """Functions whose calls it may drop although they write."""
        return sorted(self.writing & self.without_effect)


def effects(source: Path, flags: tuple[str, ...]) -> Effects:
    """Compile a file; what the dumps beside it say."""
    dumps = [f"-fdump-{name}" for name in (*_PASSES, "tree-modref1")]
    command = [_COMPILER, *flags, *dumps, "-S", str(source), "-o", str(source.with_suffix(".s"))]
    subprocess.run(command, check=True, capture_output=True)
    texts = {path.name.rsplit(".", 1)[-1]: path.read_text() for path in source.parent.glob("*.[0-9]*[ti].*")}
    found = re.findall(
        r"^Function found to be (?:looping )?(?:pure|const): (\w+)", "\n".join(texts.values()), re.M
    )
    names_and_bodies = re.split(r"^;; Function (\w+) .*$", texts["modref1"], flags=re.M)[1:]
    bodies = dict(zip(names_and_bodies[::2], names_and_bodies[1::2], strict=True))
    storing = {name for name, body in bodies.items() if re.search(r"^  stores:\n {4,}\S", body, re.M)}
    returning_nothing = set(re.findall(r"\bvoid\s+(?:naked\s+)?(\w+)\(", preprocessed(source, flags)))
    return Effects(
        frozenset(bodies), frozenset((storing | returning_nothing) & bodies.keys()), frozenset(found)
    )


@pytest.mark.parametrize("level", ["-O2", "-Os"])
@pytest.mark.parametrize(
    ("target", "form"), [(core, form) for core, forms in _FORMS.items() for form in forms]
)
def test_no_function_that_writes_is_taken_for_pure(
    target: str, form: str, level: str, tmp_path: Path
) -> None:
    require_emulator()
    source = write_kernels(target, tmp_path)
    flags = (*load_target(target).compiler_flags, level, *filter(None, [form]))
    found = effects(source, flags)
    called = {re.findall(r"(\w+)\(", prototype)[0] for prototype in drawn_kernels(target).prototypes}
    assert len(called) > 20 and called <= found.writing
    assert found.without_effect
    assert not found.mistaken


def test_a_function_that_does_nothing_is_found(tmp_path: Path) -> None:
    require_emulator()
    (tmp_path / "source.c").write_text(_NOTHING_WRITTEN)
    found = effects(tmp_path / "source.c", ("-mcpu=cortex-m4", "-mthumb", "-O2"))
    assert found.without_effect == {"sum", "nothing"}
    assert found.mistaken == ["nothing"]


def test_the_mistake_of_gcc_12_is_found(tmp_path: Path) -> None:
    require_emulator()
    version = subprocess.run([_COMPILER, "-dumpversion"], check=True, capture_output=True, text=True).stdout
    if version.split(".")[0] != "12":
        pytest.skip("only gcc 12 is known to make it")
    (tmp_path / "source.c").write_text(_FORMER_MISTAKE)
    found = effects(tmp_path / "source.c", ("-mcpu=cortex-m0plus", "-mthumb", "-Os"))
    assert found.mistaken == ["kernel", "sums"]
    assert "bl\tsums" not in (tmp_path / "source.s").read_text()
