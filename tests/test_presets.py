"""Presets: which commands are rewritten to take a socket, and which are left as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portlease._server import _presets
from portlease._server._presets import Known, Rewritten, recognise, rewrite

if TYPE_CHECKING:
    from collections.abc import Mapping


def rewritten(
    *args: str, env: Mapping[str, str] | None = None, asked: bool = False
) -> Rewritten | str:
    """What becomes of a command with one port."""
    return rewrite(args, env or {}, ["port"], asked=asked)


def argv(*args: str, asked: bool = False) -> tuple[str, ...] | str:
    """Only its words, or why not."""
    found = rewritten(*args, asked=asked)
    return found if isinstance(found, str) else found.args


# --- who it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "known"),
    [
        (["uvicorn", "app:app"], Known("uvicorn", 1)),
        (["/opt/venv/bin/gunicorn"], Known("gunicorn", 1)),
        (["nodejs", "x.js"], Known("node", 1)),
        (["python", "-m", "hypercorn", "app"], Known("hypercorn", 3)),
        (["python3", "-I", "-X", "dev", "-W", "error", "-m", "uvicorn"], Known("uvicorn", 8)),
        (["/usr/bin/python3.13", "-OO", "-m", "granian"], Known("granian", 4)),
        (["python", "app.py", "-m", "uvicorn"], None),
        (["python", "-c", "import uvicorn"], None),
        (["python", "-m", "http.server"], None),
        (["python", "-m"], None),
        (["python"], None),
        (["uv", "run", "uvicorn"], None),
        (["sh", "-c", "uvicorn app:app --port {port}"], None),
        (["uvicorn-wrapper"], None),
    ],
)
def test_recognised_by_name_or_as_a_module(args: list[str], known: Known | None) -> None:
    """Never behind a wrapper, and never by an argument of something else."""
    assert recognise(args) == known


@given(st.lists(st.sampled_from(["python", "-m", "uvicorn", "-I", "-W", "", "-", "x"]), min_size=1))
def test_recognising_never_fails(args: list[str]) -> None:
    """Whatever the words; and what it says lies within them."""
    known = recognise(args)
    assert known is None or (known.start <= len(args) and known.preset == "uvicorn")


# --- uvicorn ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "host"),
    [
        (["app:app", "--port", "{port}"], "127.0.0.1"),
        (["app:app", "--host", "{host}", "--port", "{port}"], "{host}"),
        (["--port={port}", "--host=0.0.0.0", "app:app"], "0.0.0.0"),  # noqa: S104
        (["--host", "::", "app:app", "--port", "{port}"], "::"),
    ],
)
def test_uvicorn(args: list[str], host: str) -> None:
    """--host and --port give way to --fd; the rest stays in its order."""
    found = rewritten("uvicorn", *args)
    assert isinstance(found, Rewritten)
    assert found.args == ("uvicorn", "app:app", "--fd", "{fd}")
    assert (found.host, found.v6only) == (host, True)
    assert found.traits.nodelay
    assert found.traits.sign == "listen"


def test_uvicorn_keeps_what_does_not_concern_the_socket() -> None:
    """Workers, reloading, TLS: all work on an inherited socket."""
    words = ("python", "-m", "uvicorn", "--workers", "2", "app:app", "--reload")
    assert argv(*words, "--port", "{port}") == (*words, "--fd", "{fd}")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["app:app"], "no --port {port}"),
        (["app:app", "--port", "8000"], "'8000' and not '{port}'"),
        (["app:app", "--port", "1{port}"], "and not"),
        (["app:app", "--port", "{port}", "--port", "{admin}"], "2 times"),
        (["app:app", "--port", "{port}", "--host", "localhost"], "several addresses"),
        (["app:app", "--port", "{port}", "--uds", "/x"], "--uds says already"),
        (["app:app", "--port", "{port}", "--fd=7"], "--fd says already"),
    ],
)
def test_uvicorn_is_left_alone(args: list[str], why: str) -> None:
    """Wherever the command may mean something else."""
    found = rewritten("uvicorn", *args)
    assert isinstance(found, str)
    assert why in found


def test_uvicorn_heeds_its_variables() -> None:
    """They say what it listens on as its arguments do, which come first."""
    words = ("uvicorn", "app:app", "--port", "{port}")
    assert isinstance(rewritten(*words, env={"UVICORN_HOST": "0.0.0.0"}), str)  # noqa: S104
    assert isinstance(rewritten(*words, env={"UVICORN_UDS": "/x"}), str)
    assert isinstance(rewritten(*words, env={"UVICORN_PORT": "1"}), Rewritten)
    named = (*words, "--host", "{host}")
    assert isinstance(rewritten(*named, env={"UVICORN_HOST": "0.0.0.0"}), Rewritten)  # noqa: S104


def test_a_host_name_only_where_it_is_asked_for() -> None:
    """It may have several addresses, all of which the server would listen on."""
    words = ("--port", "{port}", "--host", "localhost")
    found = rewritten("uvicorn", "app:app", *words, asked=True)
    assert isinstance(found, Rewritten)
    assert found.host == "localhost"


# --- gunicorn, hypercorn ------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["gunicorn", "hypercorn"])
@pytest.mark.parametrize(
    ("bind", "host"),
    [
        (["-b", "{host}:{port}"], "{host}"),
        (["--bind", "127.0.0.1:{port}"], "127.0.0.1"),
        (["--bind=0.0.0.0:{port}"], "0.0.0.0"),  # noqa: S104
        (["-b", "[::1]:{port}"], "::1"),
    ],
)
def test_bind(server: str, bind: list[str], host: str) -> None:
    """The address gives way to fd:// where it stands."""
    found = rewritten(server, "-w", "2", *bind, "app")
    assert isinstance(found, Rewritten)
    option = bind[0].partition("=")[0]
    assert found.args == (server, "-w", "2", option, "fd://{fd}", "app")
    assert (found.host, found.v6only) == (host, False)


@pytest.mark.parametrize("server", ["gunicorn", "hypercorn"])
@pytest.mark.parametrize(
    "bind",
    [
        [],
        ["-b"],
        ["-b", "127.0.0.1:8000"],
        ["-b", "unix:/x"],
        ["-b", "fd://3"],
        ["-b", "localhost:{port}"],
        ["-b", ":{port}"],
        ["-b", "::1:{port}"],
        ["-b127.0.0.1:{port}"],
        ["-b", "127.0.0.1:{port}", "--bin", "127.0.0.1:1"],
        ["-b", "127.0.0.1:{port}", "-b127.0.0.2:{port}"],
        ["-b", "127.0.0.1:{port}", "--bind", "127.0.0.2:{port}"],
    ],
)
def test_bind_is_left_alone(server: str, bind: list[str]) -> None:
    """Several of them, other forms, and no port of ours."""
    assert isinstance(rewritten(server, "app", *bind), str)


def test_gunicorn_gets_the_backlog_it_would_ask_for() -> None:
    """It does not listen(2) again on a socket that listens."""
    assert _presets.traits(["gunicorn", "app"]).backlog == 2048
    assert _presets.traits(["gunicorn", "app", "--backlog", "64"]).backlog == 64
    assert _presets.traits(["gunicorn", "app", "--backlog=65"]).backlog == 65
    assert _presets.traits(["gunicorn", "app", "--backlog", "{x}"]).backlog == 2048


# --- the others ---------------------------------------------------------------------------------


def test_nginx_is_told_by_its_environment_where_it_is_asked_for() -> None:
    """All sockets in one variable; what matters is in its configuration file, so never unasked."""
    found = rewrite(["nginx", "-c", "x"], {}, ["port", "admin"], asked=True)
    assert isinstance(found, Rewritten)
    assert found.env == {"NGINX": "{fd};{admin_fd};"}
    assert found.args == ("nginx", "-c", "x")
    assert found.traits.nonblocking
    assert "configuration file" in str(rewritten("nginx", "-c", "x"))


@pytest.mark.parametrize(
    ("server", "why"),
    [("granian", "takes no socket"), ("node", "{fd}"), ("haproxy", "fd@${PORT_FD}")],
)
def test_no_command_line_says_it(server: str, why: str) -> None:
    """The reason names what would."""
    for asked in (False, True):
        assert why in str(rewritten(server, "--port", "{port}", asked=asked))


def test_somebody_else() -> None:
    """It is named."""
    assert rewritten("/usr/bin/redis-server") == (
        "redis-server is no server that is known to take a socket"
    )


WORDS = st.sampled_from(
    [
        *("uvicorn", "gunicorn", "hypercorn", "nginx", "node", "granian", "python", "-m", "app"),
        *("-b", "--bind", "--port", "--host", "--fd", "--uds", "-w", "=", "", "localhost", "::"),
        *("--port={port}", "--bind={host}:{port}", "{host}:{port}", "{port}", "{host}"),
    ]
)


@given(st.lists(WORDS, min_size=1, max_size=9), st.booleans())
def test_no_command_breaks_it(args: list[str], asked: bool) -> None:  # noqa: FBT001 - hypothesis
    """A command is rewritten or refused; rewritten, {port} has gone and {fd} is there once."""
    found = rewrite(args, {}, ["port"], asked=asked)
    if isinstance(found, Rewritten) and found.preset != "nginx":
        assert sum("{fd}" in word for word in found.args) == 1
        assert found.args[0] == args[0]
