"""Every parser of foreign input, with bytes drawn from nothing and from real ones changed.

The long form of this, led by what the code has covered, is `make fuzz`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("some of what is read is Linux's alone", allow_module_level=True)

from fuzz.generous import generous
from fuzz.targets import TARGETS

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

# What a parser may stumble over, whoever wrote it.
PIECES = [
    *(b"\0", b"\n", b"\r", b"\xff", b"\xc3", b" ", b"-", b"-1", b"+1", b"1_0", b"0x1", b"9" * 20),
    *(b"9" * 5000, b"f" * 400, b"(", b") ", b"[" * 3000, b"{", b"}", b'"', b"\\ud800", b"NaN"),
    *(b"1e999", b"true", b"null", "\u0663".encode(), "\u2028".encode(), b"\x1b[31m", b"<!--"),
    *(b"\x80\0\0\0", b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"&x;", b"]]>", b"/", b"%", b":", b"."),
]


@st.composite
def changed(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """One of *seeds*, changed in a few places."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.sampled_from([0, 0, 1, 1, 2, 4, 16]))
        new = draw(st.sampled_from(PIECES) | st.binary(max_size=4))
        data[at : at + gone] = new
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))])


def inputs(name: str) -> SearchStrategy[bytes]:
    """What a parser is given."""
    return changed(TARGETS[name].seeds) | st.binary(max_size=200)


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_keeps_its_word(name: str) -> None:
    """Some hundred inputs, the same in every run."""

    @generous
    @given(inputs(name))
    def check(data: bytes) -> None:
        TARGETS[name].check(data)

    for seed in TARGETS[name].seeds:
        TARGETS[name].check(seed)
    check()
