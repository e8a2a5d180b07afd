"""What is a name between braces, and what is left alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portlease._server._template import is_name, names_in, substitute

VALUES = {"port": 8080, "admin": 9090, "host": "127.0.0.1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{port}", "8080"),
        ("--listen={host}:{port}", "--listen=127.0.0.1:8080"),
        ("{port}{admin}", "80809090"),
        ("tcp://{host}:{port}/?admin={admin}", "tcp://127.0.0.1:8080/?admin=9090"),
        ("{{port}}", "{port}"),
        ("{{port}}={port}", "{port}=8080"),
        ('{"port": {port}, "deep": {"admin":{admin}}}', '{"port": 8080, "deep": {"admin":9090}}'),
        (
            "events {} http { server { listen {port}; } }",
            "events {} http { server { listen 8080; } }",
        ),
    ],
)
def test_names_are_replaced(text: str, expected: str) -> None:
    """Each name becomes its value, wherever it stands; doubled braces are the way to spell it."""
    assert substitute(text, VALUES, known_only=False) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "{ port }",
        "{Port}",
        "{PORT}",
        "{1port}",
        "{port",
        "port}",
        "{port!r}",
        "{port:>6}",
        "{port-name}",
        "${HOME}",
        "${port}",
        "echo ${port:-80}",
        "{print $1}",
        '{"a": {"b": 1}}',
        "%{http_code}x{1,2}",
        "a{2,3}",
    ],
)
def test_other_braces_are_left_alone(text: str) -> None:
    """JSON, shell variables, awk, regular expressions and format specifications pass through."""
    assert names_in([text]) - {"http_code"} == set()
    if "http_code" not in text:
        assert substitute(text, VALUES, known_only=False) == text
    assert substitute(text, VALUES, known_only=True) == text


def test_names_in_several_texts() -> None:
    """Names are collected over all arguments; a literal is not a name."""
    assert names_in(["{port}", "x{admin}y{host}", "{{literal}}", "${shell}"]) == {
        "port",
        "admin",
        "host",
    }


def test_known_only_leaves_unknown_names_alone() -> None:
    """The command line must not touch another program's templates, doubled braces included."""
    text = "{port} {other} {{other}} {{port}}"
    assert substitute(text, VALUES, known_only=True) == "8080 {other} {{other}} {port}"


def test_unknown_name_is_an_error() -> None:
    """A name nobody has a value for is not passed on silently."""
    with pytest.raises(KeyError, match="other"):
        substitute("{other}", VALUES, known_only=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("port", True), ("a1_b", True), ("host", False), ("fd", False), ("A", False), ("", False)],
)
def test_is_name(name: str, expected: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Reserved words and anything but a lower-case identifier cannot name a port."""
    assert is_name(name) is expected


@given(st.dictionaries(st.text(), st.recursive(st.integers() | st.text(), st.lists)))
def test_json_survives_when_nothing_is_known(value: object) -> None:
    """Any JSON text passes through unchanged when no name in it is known."""
    text = json.dumps(value)
    assert substitute(text, {}, known_only=True) == text


@given(st.text(alphabet="{}$ab_ 1"))
def test_substitution_agrees_with_names(text: str) -> None:
    """Every name that names_in() finds is one that substitute() asks for, and no other."""
    found = names_in([text])
    substitute(text, dict.fromkeys(found, "x"), known_only=False)
    for name in found:
        with pytest.raises(KeyError):
            substitute(text, dict.fromkeys(found - {name}, "x"), known_only=False)
