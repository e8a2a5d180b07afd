"""`portlease lint` and sources that nobody would write."""

from __future__ import annotations

import ast
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _lint import findings, found
from portlease._lint import _fix, _rewrite
from portlease._lint._plan import Plan

# Pieces that mean something to the rules, put together in every order.
_NAMES = st.sampled_from(
    ["s", "self", "port", "PORT", "socket", "asyncio", "requests", "test_x", "reactor", "cls", "T"]
)
_ATOMS = st.one_of(
    _NAMES,
    st.sampled_from(["8080", "0", "-1", "65536", "True", "None", "''", "'8080'", "b'8080'", "..."]),
    st.sampled_from(
        ["'http://localhost:8080/'", "'127.0.0.1'", "f'{port}:8080'", "'%s:%d'", "'{}'"]
    ),
    st.sampled_from(
        ["(lambda port=8080: port)", "[*s]", "{**s}", "(s := 8080)", "s[8080]", "{8080: s}"]
    ),
)
_METHODS = st.sampled_from(
    [
        *("bind", "connect", "listen", "run", "Popen", "format", "split", "encode", "get", "sleep"),
        *("create_server", "getsockname", "close", "setsockopt", "HTTPServer", "parametrize"),
        *("from_url", "patch", "listenTCP", "dict"),
    ]
)


def _deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    many = st.lists(inner, max_size=3)
    return st.one_of(
        st.builds(lambda a, b: f"({a} + {b})", inner, inner),
        st.builds(lambda a, b: f"({a} % {b})", inner, inner),
        st.builds(lambda a: f"({', '.join(a)},)" if a else "()", many),
        st.builds(lambda a: f"[{', '.join(a)}]", many),
        st.builds(
            lambda a, m, b: f"{a}.{m}({', '.join(b)})" if "'" not in a[:1] else a,
            _NAMES,
            _METHODS,
            many,
        ),
        st.builds(lambda m, a, b: f"{m}(*{a}, port={b}, **{a})", _METHODS, _NAMES, inner),
        st.builds(lambda a, b: f"({a} if {b} else {a})", inner, inner),
        st.builds(lambda a: f"(await {a})", inner),
        st.builds(lambda a: f"f'http://localhost:{{{a}}}/'" if "'" not in a else a, inner),
    )


_EXPRESSIONS = st.recursive(_ATOMS, _deeper, max_leaves=8)


def _indented(lines: list[str]) -> str:
    return "".join(f"    {line}\n" for text in lines for line in text.splitlines()) or "    pass\n"


_SIMPLE = st.one_of(
    st.builds(lambda a, b: f"{a} = {b}", _NAMES, _EXPRESSIONS),
    st.builds(lambda a, b: f"{a}, {a}.x = {b}, {b}", _NAMES, _EXPRESSIONS),
    st.builds(lambda a, b: f"self.{a} = {b}", _NAMES, _EXPRESSIONS),
    st.builds(lambda a: f"{a}  # portlease: allow[PL001] x", _EXPRESSIONS),
    st.builds(lambda a: f"global {a}", _NAMES),
    st.just("# portlease: allow"),
    st.builds(lambda a: f"return {a}", _EXPRESSIONS),
    st.builds(lambda a: f"yield {a}", _EXPRESSIONS),
    st.builds(lambda a: f"del {a}", _NAMES),
    _EXPRESSIONS,
)
_BLOCKS = st.one_of(
    _SIMPLE,
    st.builds(
        lambda a, b: f"async def test_x({a}=8080, *, {a}_=1):\n{_indented(b)}",
        _NAMES,
        st.lists(_SIMPLE, max_size=5),
    ),
    st.builds(lambda a, b: f"class T({a}):\n{_indented(b)}", _NAMES, st.lists(_SIMPLE, max_size=5)),
    st.builds(
        lambda e, b: f"with {e} as s:\n{_indented(b)}", _EXPRESSIONS, st.lists(_SIMPLE, max_size=4)
    ),
    st.builds(
        lambda e, b: f"match {e}:\n    case 8080:\n    {_indented(b)}".replace("    x", "    x"),
        _NAMES,
        st.lists(st.just("s.bind(('', 8080))"), max_size=1),
    ),
    st.builds(
        lambda e, b: f"@{e}.parametrize('port', [8080, {e}])\ndef test_y(port):\n{_indented(b)}",
        _NAMES,
        st.lists(_SIMPLE, max_size=5),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_BLOCKS, max_size=6))
def test_whatever_is_put_together_is_looked_at(blocks: list[str]) -> None:
    """No exception, each finding inside the source; what --fix would write is Python."""
    source = "\n".join(blocks) + "\n"
    lines = source.split("\n")
    for finding in findings(source.encode()):
        if finding.code != "PL000":
            assert finding.line is not None
            assert finding.column is not None
            assert finding.end_column is not None
            assert 1 <= finding.line <= len(lines)
            assert 1 <= finding.column <= len(lines[finding.line - 1]) + 1
    try:
        ast.parse(source)
    except SyntaxError:
        return
    for one in _fixed(source.encode()):
        ast.parse(one.after)
        assert all(again.tests == 0 for again in _fixed(one.after))


def _fixed(data: bytes) -> list[_fix.Fixed]:
    return _fix.fix(["x.py"], frozenset({"PL001"}), read=lambda _: data, write=False)


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")),
    )
)
def test_any_bytes_are_looked_at(data: bytes) -> None:
    """Most are no Python, which is a finding."""
    findings(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"def f(:\n", "no Python: "),
        (b"x = '\xe9'\n", "byte 0xe9 is not utf-8"),
        (b"# coding: no-such\n", "its encoding: "),
        (b"# coding: hex\nx = 1\n", "its encoding: "),
        (b"x = '\0'\n", "no Python: "),
        (b"(" * 500 + b")" * 500, "no Python: "),
        (b"x = " + b"-" * 100000 + b"1", "nested too deeply"),
    ],
)
def test_what_is_no_python_is_a_finding(data: bytes, what: str) -> None:
    """PL000, and nothing else."""
    (one,) = findings(data)
    assert one.code == "PL000"
    assert what in one.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xef\xbb\xbfs.bind(('', 8080))",
        b"s.bind(('', 8080))\r\n",
        b"s.bind(('', 8080))\r",
        "# coding: latin-1\nx = 'é'; s.bind(('', 8080))".encode("latin-1"),
        "# coding: cp1252\nx = '€'; s.bind(('', 8080))".encode("cp1252"),
        b"x = 1\x0c\ns.bind(('', 8080))",
    ],
)
def test_other_encodings_and_line_ends(data: bytes) -> None:
    """As Python reads it."""
    assert [one.split()[1] for one in found(data, "PL001")] == (["PL001"] if data else [])


_NINES = "9" * 5000
_HEX = f"0x{'f' * 6000}"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (f"s.bind('tcp://*:{_NINES}')", []),
        (f"serverFromString(r, 'tcp:{_NINES}').listen(f)", []),
        (f"requests.get('http://localhost:{_NINES}/')", []),
        (f"def test():\n    s.bind(('', 8080))\n    f('{_NINES}', 'x:{_NINES}')", ["2 PL001"]),
        ("s.bind('tcp://*:٨٠٨٠')\nrequests.get('http://localhost:٨٠٨٠/')", []),
        ("def test():\n    s.bind(('', 8080))\n    f('٨٠٨٠', 'x:٨٠٨٠')", ["2 PL001"]),
        (f"s.bind(('', {_HEX}))\ns.bind(('', {_HEX} - {_HEX} + 8080))", []),
        (f"requests.get(f'http://localhost:{{{_HEX}}}/')", []),
        (f"s = socket.socket({_HEX})\ns.bind(('', 8080))", ["2 PL001"]),
        (f"@pytest.fixture(params=[{_HEX}])\ndef up():\n    s.bind(('', 8080))", ["3 PL001"]),
        (f"def test():\n    s.bind(('', 8080))\n    assert f({_HEX})", ["2 PL001"]),
    ],
)
def test_numbers_that_are_too_long_or_in_other_digits(source: str, told: list[str]) -> None:
    """Neither a port nor the end of the run, which int() and str() of them would be."""
    source = f"import socket, requests\n{source}\n"
    lines = [f"{int(one[0]) + 1}{one[1:]}" for one in told]
    assert found(source, "PL001", "PL002") == lines
    for one in _fixed(source.encode()):
        ast.parse(one.after)


def test_a_long_sum_and_a_name_that_is_itself() -> None:
    """Neither deep nor circular definitions take long."""
    total = " + ".join(["1"] * 900)
    doubling = "".join(f"a{n} = a{n + 1} + a{n + 1}\n" for n in range(60)) + "a60 = 'x'\n"
    circle = "PORT = PORT + PORT\nA = B\nB = A\ns.bind((A, PORT))\n"
    source = f"PORT = {total}\n" + doubling + "s.bind(('', PORT))\nurlopen(a0)\n"
    assert found(source, "PL001", "PL002") == []
    assert found(circle, "PL001") == []


def test_a_file_of_thousands_of_tests() -> None:
    """What grows with the square of the tests, or of the calls in one, would take minutes here."""
    tests = "".join(
        f"def test_{n}():\n    s = socket.socket(); s.bind(('127.0.0.1', {8000 + n}))\n"
        for n in range(700)
    )
    many = findings("import socket\n" + tests, "PL001")
    assert (len(many), all(finding.fix for finding in many)) == (700, True)
    calls = "".join(f"    s.bind(('', {8000 + n}))\n" for n in range(700))
    one = "import socket\ndef test():\n    s = socket.socket()\n" + calls
    assert len(findings(one, "PL005")) == 700


def test_what_is_too_deep_for_libcst_is_left_alone() -> None:
    """Python reads it, and so the findings are told; --fix says why it does not."""
    source = "import socket\ns = socket.socket()\ndef test():\n    if s: pass\n" + (
        "    elif s: s.bind(('127.0.0.1', 8080))\n" * 400
    )
    assert len(findings(source, "PL001")) == 400
    (left,) = _fix.fix(
        ["test_x.py"], frozenset(["PL001"]), read=lambda _: source.encode(), write=False
    )
    assert (left.tests, left.before == left.after) == (0, True)
    assert left.refused == ("test_x.py: nested too deeply for libcst",)


def test_the_interpreters_own_tests_are_looked_at() -> None:
    """Some hundred lines of every kind: a sample of the standard library."""
    files = sorted(Path(ast.__file__).parent.glob("*.py"))
    chosen = random.Random(0).sample(files, 12)  # noqa: S311 - the same ones each time
    for path in chosen:
        assert all(finding.code != "PL000" for finding in findings(path.read_bytes())), path
    assert sys.getrecursionlimit() > 0


@pytest.mark.parametrize(
    "text", ["'08080'", "'\u0668\u0660\u0668\u0660'", f"'{_NINES}'", "'18080'"], ids=len
)
def test_a_text_of_other_digits_is_none_of_the_number(text: str) -> None:
    """No zero before it, no other digits, and no more of them than int() takes."""
    source = f"def test():\n    return {text}\n".encode()
    plan = Plan("test", 1, {8080: "leased_port"}, (), (), frozenset())
    assert _rewrite.rewrite(source, [plan]) == source


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab{}:8080 '\"\\%/", max_size=30).map(repr))
def test_a_rewritten_text_says_the_same(text: str) -> None:
    """With the port put in again, an f-string of ours evaluates to what stood there."""
    source = f"def test():\n    return {text}\n".encode()
    plan = Plan("test", 1, {8080: "leased_port"}, ("leased_port",), (), frozenset())
    written = _rewrite.rewrite(source, [plan])
    before: dict[str, object] = {}
    after: dict[str, object] = {}
    exec(source, before)  # noqa: S102 - our own two lines
    exec(written, after)  # noqa: S102 - as above
    assert after["test"](8080) == before["test"]()  # type: ignore[operator]
