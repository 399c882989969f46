"""Nothing from outside reaches C unescaped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.codegen.names import c_string, check_prefix, comment_block, comment_text
from deployq.errors import UsageError


@pytest.mark.parametrize("prefix", ["m", "digits", "Net2", "resnet8_v1", "model"])
def test_good_prefixes(prefix: str) -> None:
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize(
    "prefix",
    ["", "2net", "_net", "a-b", "a b", "nät", "int", "class", "dq_net", "stdint", "main", "a\n", "x" * 41],
)
def test_bad_prefixes(prefix: str) -> None:
    with pytest.raises(UsageError):
        check_prefix(prefix)


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
