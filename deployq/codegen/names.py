"""Names and text from outside on their way into C: the prefix is checked, everything else is a comment."""

from __future__ import annotations

import re
import textwrap

from deployq.errors import UsageError

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LONGEST_PREFIX = 40

#: Keywords of C23 and C++23 that match the pattern above.
_KEYWORDS = frozenset(
    """
    alignas alignof and and_eq asm atomic_cancel atomic_commit atomic_noexcept auto bitand bitor bool break
    case catch char char8_t char16_t char32_t class co_await co_return co_yield compl concept const const_cast
    consteval constexpr constinit continue decltype default delete do double dynamic_cast else enum explicit
    export extern false float for friend goto if inline int long mutable namespace new noexcept not not_eq
    nullptr operator or or_eq private protected public reflexpr register reinterpret_cast requires restrict
    return short signed sizeof static static_assert static_cast struct switch synchronized template this
    thread_local throw true try typedef typeid typename typeof typeof_unqual union unsigned using virtual void
    volatile wchar_t while xor xor_eq
    """.split()
)

#: Standard headers that `<prefix>.h` would hide, those that the C libraries' own headers include by such
#: a name (glibc, newlib), intrinsics, and the example's own file.
_RESERVED_FILES = frozenset(
    """
    alloca arm_acle arm_mve arm_mve_types endian features malloc memory newlib reent strings syslimits unistd
    xlocale
    assert complex ctype errno fenv float inttypes iso646 limits locale main math setjmp signal stdalign
    stdarg stdatomic stdbit stdbool stdckdint stddef stdint stdio stdlib stdnoreturn string tgmath threads
    time uchar wchar wctype
    """.split()
)


def check_prefix(prefix: str) -> str:
    """The prefix itself, if it can name C functions and files.

    Raises:
        UsageError: not a C identifier, a keyword, reserved, or the name of a standard header.
    """

    def refuse(why: str) -> UsageError:
        return UsageError(
            f"the name {prefix!r} cannot be the prefix of the generated C",
            where="--name",
            why=why,
            hint="letters, digits and underscores, starting with a letter, e.g. --name digits",
        )

    if not _IDENTIFIER.fullmatch(prefix):
        raise refuse("it is not a C identifier that starts with a letter")
    if len(prefix) > _LONGEST_PREFIX:
        raise refuse(f"it has more than {_LONGEST_PREFIX} characters")
    if prefix in _KEYWORDS:
        raise refuse("it is a keyword of C or C++")
    if prefix.lower() == "dq" or prefix.lower().startswith("dq_"):
        raise refuse("dq, and names that start with dq_, belong to the kernels")
    if prefix.lower() in _RESERVED_FILES:
        raise refuse(f"{prefix}.h or {prefix}.c would collide with a standard header or the example")
    return prefix


def comment_text(text: str, limit: int = 200) -> str:
    """Text from a model as one harmless line of a C comment.

    Anything but plain printable ASCII becomes its code point as ``<XXXX>``; comment delimiters,
    backslashes (line splices) and trigraphs cannot occur in the result.
    """
    safe = "".join(
        char if char.isascii() and char.isprintable() and char != "\\" else f"<{ord(char):04X}>"
        for char in text[:limit]
    )
    for token in ("*/", "/*", "//", "??"):
        while token in safe:
            safe = safe.replace(token, f"{token[0]} {token[1]}")
    return safe + ("..." if len(text) > limit else "")


def comment_block(text: str, indent: int = 0) -> str:
    """A whole C comment of wrapped lines; `indent` spaces stand before every line but the first."""
    margin = " " * indent
    safe = comment_text(text, limit=2000)
    if len(safe) + indent <= 100:
        return f"/* {safe} */"
    lines = textwrap.wrap(safe, 100 - indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(["/*", *(f"{margin} * {line}" for line in lines), f"{margin} */"])


def c_string(text: str) -> str:
    """A C string literal; bytes outside printable ASCII, quotes and backslashes as octal escapes."""
    return '"' + "".join(_string_character(byte) for byte in text.encode()) + '"'


def _string_character(byte: int) -> str:
    plain = 0x20 <= byte < 0x7F and chr(byte) not in '"\\?'
    return chr(byte) if plain else f"\\{byte:03o}"
