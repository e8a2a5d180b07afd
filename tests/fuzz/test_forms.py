"""Forms of portlease's own, and of test runners, with something odd in each of their fields.

Bytes drawn at random seldom get past a form's outside; here the outside is right.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("the rows are Linux's", allow_module_level=True)

from fuzz.generous import generous
from fuzz.targets import TARGETS
from portlease import _registry, _trail
from portlease._findings import _baseline
from portlease._findings._finding import Finding
from portlease._states import State

if TYPE_CHECKING:
    from collections.abc import Callable

texts = st.text(st.characters(), max_size=30)
NUMBERS = [
    "-1",
    "0",
    "00",
    "1_0",
    "+1",
    " 1",
    "0x1",
    "\u0663",
    "9" * 30,
    "f" * 30,
    "1e3",
    "",
    "nan",
]
odd_numbers = st.sampled_from(NUMBERS)

OUR_PIDS = f"{Path('/proc/self/ns/pid').stat().st_ino:x}"
"""Of a row of another PID namespace the process id means nothing to us, and is not told."""

# --- rows -----------------------------------------------------------------------------------------


def odd_or(*good: str) -> st.SearchStrategy[str]:
    """Mostly what is right."""
    return st.sampled_from(good) | st.sampled_from(good) | odd_numbers


rows = st.tuples(
    odd_or("20000"),
    odd_or("t", "b"),
    odd_or("h", "o", "g", "x", "r"),
    odd_or("1", "4194304", "4194305"),
    odd_or(OUR_PIDS),
    st.lists(odd_or("18c2a", "1"), min_size=2, max_size=4).map(".".join),
    odd_or("*", "127.0.0.1,::1"),
    texts,
)


@generous
@given(rows)
def test_a_row_that_cannot_be_is_none(fields: tuple[str, ...]) -> None:
    """Whatever a stranger writes, `leases()` shows only what a lease can be."""
    TARGETS["row"].check("/".join(fields).encode("utf-8", "surrogatepass"))


@generous
@given(
    st.sampled_from([state for state in State if state is not State.RELEASED]),
    st.none() | st.text(st.characters(), max_size=200),
    st.sampled_from(["*", "127.0.0.1", ",".join(f"2001:db8::{n:x}" for n in range(20))]),
)
def test_what_we_write_we_read(state: State, label: str | None, scope: str) -> None:
    """A row of ours, whatever its label: 95 bytes at most, and the rest of it whole."""
    name = _registry.encode(65535, "both", state, _registry.birth(), scope, label)
    assert len(name) <= _registry.NAME_BYTES
    TARGETS["row"].check(name)
    found = _registry.decode(name)
    assert found is not None
    assert (found.port, found.kind, found.state, found.pid) == (65535, "both", state, os.getpid())


# --- trails ---------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted({*_trail._KINDS, "new"})


@generous
@given(st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))
def test_an_event_with_any_values(fields: dict[str, Any]) -> None:
    """It is one, and written and read is the same; or it is none."""
    line = {"t": 1, "what": "bind", "pid": 2, **fields}
    TARGETS["trail"].check(json.dumps(line).encode())


def test_a_line_that_is_too_deep_is_damage(tmp_path: Path) -> None:
    """Brackets without end are no event; what stands around them is read."""
    path = tmp_path / "trail"
    good = b'{"t":1,"what":"bind","pid":2}\n'
    path.write_bytes(good + b'{"new":' + b"[" * 200_000 + b"\n" + good)
    events, damaged = _trail.read(str(path))
    assert len(events) == 2
    assert [one.number for one in damaged] == [2]


# --- baselines ------------------------------------------------------------------------------------


@generous
@given(st.dictionaries(st.sampled_from(["path", "code", "text", "times"]), values, max_size=4))
def test_a_baseline_with_any_values(fields: dict[str, Any]) -> None:
    """It is one of findings that can be, or UsageError says that it is none."""
    item = {"path": "a.py", "code": "PL001", "text": "x", "times": 1, **fields}
    told = {"portlease-baseline": 1, "findings": [item]}
    TARGETS["baseline"].check(json.dumps(told).encode())


@generous
@given(st.lists(st.tuples(texts, texts, texts), max_size=6))
def test_a_baseline_knows_what_it_was_written_of(
    tmp_path_factory: pytest.TempPathFactory, told: list[tuple[str, str, str]]
) -> None:
    """Any texts, also such as no file has: read again, all of them are known, and none is gone."""
    path = str(tmp_path_factory.getbasetemp() / "baseline.json")
    found = [Finding(path_, 1, 1, 1, 1, code, "m", "r", text) for path_, code, text in told]
    assert _baseline.write(path, found) == len(found)
    known = _baseline.read(path)
    assert known.sort_out(found) == ([], found)
    assert known.gone(found) == []


# --- JUnit ----------------------------------------------------------------------------------------

printable = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=20)


@generous
@given(
    st.dictionaries(
        st.sampled_from(["name", "classname", "time", "file", "line", "tests"]),
        odd_numbers
        | st.sampled_from(["9" * 5000, "inf", "1,234.5", "-0.5", "t.test_a"])
        | printable,
    ),
    st.lists(
        st.tuples(
            st.sampled_from(
                ["failure", "error", "skipped", "system-out", "properties", "rerunFailure"]
            ),
            printable,
        ),
        max_size=4,
    ),
)
def test_a_testcase_with_any_values(fields: dict[str, str], parts: list[tuple[str, str]]) -> None:
    """It is one test that can be, and no odd value of it costs the results of the others."""
    attributes = "".join(f" {key}={quoteattr(value)}" for key, value in fields.items())
    inner = "".join(f"<{tag} message={quoteattr(text)}/>" for tag, text in parts)
    document = (
        f'<testsuite><testcase{attributes}>{inner}</testcase><testcase name="other"/></testsuite>'
    )
    check: Callable[[bytes], object] = TARGETS["junit"].check
    check(document.encode())
    from fuzz.targets import _file
    from portlease._repeat import _results

    with _file(document.encode()) as path:
        assert "other" in [case.name for case in _results.read(path, "").cases]
