"""The recipes for the small servers, each used for real: by its own protocol, or its own client."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import socket
import ssl
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Final

import pytest

import portlease
from _need import need
from _processes import HANG_S, wait_for, watched
from _recipes import die, folder_for_homes, killed, nothing_is_left
from portlease import recipes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from portlease._server._command import How
    from portlease.recipes import RecipeServer
    from portlease.recipes._asgi import By

APPLICATION: Final = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": os.environ.get("GREETING", "none").encode()})
"""


# --- clients ------------------------------------------------------------------------------------


def dialogue(address: tuple[str, int] | str, sent: bytes, until: bytes) -> bytes:
    """Send something over TCP, or to a Unix socket; return the answer up to *until*."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(HANG_S)
        client.connect(address)
        client.sendall(sent)
        answer = b""
        while until not in answer:
            part = client.recv(4096)
            assert part, f"it hung up after {answer!r}"
            answer += part
        return answer[: answer.index(until)]


def get(url: str, context: ssl.SSLContext | None = None) -> str:
    """The body of what HTTP answers, no proxy in between."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    with urllib.request.build_opener(*handlers).open(url, timeout=HANG_S) as answer:
        body: bytes = answer.read()
        return body.decode()


def mqtt(client: str, server: RecipeServer, *words: str) -> str:
    """Run one of Mosquitto's own clients to its end; return what it printed."""
    done = subprocess.run(
        [need.program(client), "-h", server.host, "-p", str(server.port), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    return done.stdout.strip()


# --- fixtures -----------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with one page, one of whose parents has a space and quotes in its name."""
    folder = tmp_path / "a \"site\" of 'ours'; {port}"
    folder.mkdir()
    (folder / "index.html").write_text("a page", encoding="utf-8")
    return folder


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """A folder with an ASGI application in it, ``hello:app``."""
    (tmp_path / "hello.py").write_text(APPLICATION, encoding="utf-8")
    return tmp_path


def python_server(name: str) -> None:
    """Skip the test where neither this interpreter nor PATH has it."""
    if importlib.util.find_spec(name) is None:
        need.program(name)


@pytest.fixture(params=["redis", "memcached", "nginx", "mosquitto", "openssl", "asgi"])
def start(request: pytest.FixtureRequest) -> Callable[..., RecipeServer]:
    """What starts one server of each recipe in turn."""
    name: str = request.param
    if name == "asgi":
        python_server("uvicorn")
        folder = request.getfixturevalue("application")
        return functools.partial(recipes.asgi, "hello:app", folder=folder)
    need.program({"redis": "redis-server"}.get(name, name))
    function: Callable[..., RecipeServer] = getattr(recipes, name)
    return function


@pytest.fixture
def redis() -> Iterator[recipes.RedisServer]:
    """A Redis, on a Unix socket as well."""
    need.program("redis-server")
    with recipes.redis(unix=True) as server:
        yield server


# --- what holds for each of them ----------------------------------------------------------------


def test_three_side_by_side(start: Callable[..., RecipeServer]) -> None:
    """Each has a port, a home and processes of its own, and when they are stopped none is left."""
    with start() as one, start() as two, start() as three:
        every = [one, two, three]
        assert len({server.port for server in every}) == 3
        assert len({server.home for server in every}) == 3
        assert len({server.url for server in every}) == 3
        for server in every:
            assert str(server.port) in server.url
            assert any(str(server.port) in value for value in server.env.values())
            socket.create_connection(server.address, timeout=HANG_S).close()
            assert server.home.is_dir()
    for server in every:
        assert server.process.ended
        assert not server.home.parent.exists()
        # (Without a server nobody is there; with SO_REUSEADDR, for what is in TIME_WAIT.)
        with socket.create_server((server.host, server.port)):
            pass


def test_restart_keeps_port_and_home(start: Callable[..., RecipeServer]) -> None:
    """And it is another process that serves."""
    with start() as server:
        before = server.port, server.home, server.url
        pid = server.process.pid
        server.restart()
        assert (server.port, server.home, server.url) == before
        assert server.process.pid != pid
        socket.create_connection(server.address, timeout=HANG_S).close()


@pytest.mark.parametrize("how", ["offer", "step-aside", "broker"])
def test_it_gets_its_port_by_any_means(start: Callable[..., RecipeServer], how: How) -> None:
    """Each of the servers is served by each of them, and restarted."""
    if how == "broker":
        need.capability("seccomp")
    with start(how=how) as server:
        server.restart()
        assert server.server.how == how
        socket.create_connection(server.address, timeout=HANG_S).close()


def test_our_death_leaves_nothing(
    start: Callable[..., RecipeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed by SIGKILL: no process, no folder."""
    reader, writer = os.pipe()

    def work() -> None:
        with start() as server:
            os.write(writer, json.dumps([server.port, server.process.tree()]).encode())
            die()

    with folder_for_homes(monkeypatch) as base:
        killed(work)
        port, pids = json.loads(os.read(reader, 4096))
        assert pids
        with watched(pids) as wait_all:
            assert wait_all() == []
        nothing_is_left(base)
    os.close(reader)
    os.close(writer)
    with socket.create_server(("127.0.0.1", port)):
        pass


# --- redis --------------------------------------------------------------------------------------


def resp(server: recipes.RedisServer, *words: str) -> bytes:
    """One command of Redis' protocol, RESP, and the first line of its answer."""
    parts = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return dialogue(server.address, f"*{len(words)}\r\n{parts}".encode(), b"\r\n")


def test_redis_sets_and_gets(redis: recipes.RedisServer) -> None:
    """Over TCP, and what was set is there over its Unix socket."""
    assert redis.url == f"redis://127.0.0.1:{redis.port}/0" == redis.env["REDIS_URL"]
    assert resp(redis, "SET", "key", "value") == b"+OK"
    assert redis.socket is not None
    assert dialogue(str(redis.socket), b"GET key\r\n", b"value") == b"$5\r\n"


def test_redis_keeps_its_data_over_a_restart(redis: recipes.RedisServer) -> None:
    """Until it has loaded them it answers no PING, so restart() returns when they are there."""
    resp(redis, "SET", "key", "value")
    redis.restart()
    assert resp(redis, "STRLEN", "key") == b":5"


def test_redis_keeps_its_data_over_a_crash(redis: recipes.RedisServer) -> None:
    """What it has acknowledged is in its file, so SIGKILL loses nothing of it."""
    resp(redis, "SET", "key", "value")
    redis.kill()
    redis.restart()
    assert resp(redis, "STRLEN", "key") == b":5"


def test_redis_takes_its_own_options() -> None:
    """Behind those of the recipe. One that asks for a password is up all the same."""
    need.program("redis-server")
    with recipes.redis(args=["--requirepass", "secret"]) as server:
        assert resp(server, "GET", "key").startswith(b"-NOAUTH")


def test_redis_says_what_it_does_not_understand() -> None:
    """The error has its own words, and nothing is left behind."""
    need.program("redis-server")
    with pytest.raises(portlease.ServerDiedError, match="Bad directive"):
        recipes.redis(args=["--nonsense", "1"])


# --- memcached ----------------------------------------------------------------------------------


def test_memcached_sets_and_gets() -> None:
    """By its text protocol."""
    need.program("memcached")
    with recipes.memcached(args=["-m", "8"]) as server:
        assert server.url == f"127.0.0.1:{server.port}" == server.env["MEMCACHED_SERVERS"]
        assert dialogue(server.address, b"set key 0 0 5\r\nvalue\r\n", b"\r\n") == b"STORED"
        assert b"value" in dialogue(server.address, b"get key\r\n", b"END\r\n")


# --- nginx --------------------------------------------------------------------------------------


def test_nginx_serves_a_folder(site: Path) -> None:
    """Whatever its name; pages, types, and in its output the access log."""
    need.program("nginx")
    with recipes.nginx(site) as server:
        assert get(f"{server.url}/") == "a page"
        head = dialogue(server.address, b"GET /index.html HTTP/1.0\r\n\r\n", b"\r\n\r\n")
        assert b"Content-Type: text/html" in head
        wait_for(lambda: "GET /index.html" in server.output)  # logged once it is answered


def test_nginx_without_a_folder_has_one_in_its_home() -> None:
    """So that a test can put files there."""
    need.program("nginx")
    with recipes.nginx() as server:
        (server.home / "www" / "file.txt").write_text("mine", encoding="utf-8")
        assert get(f"{server.url}/file.txt") == "mine"


def test_nginx_in_front_of_another_server(site: Path) -> None:
    """What it is asked for is asked of the other, with the client's Host."""
    need.program("nginx")
    shown = 'location /host { return 200 "$http_host"; }'
    with (
        recipes.nginx(site, config=shown) as behind,
        recipes.nginx(upstream=behind.url) as front,
    ):
        assert get(f"{front.url}/") == "a page"
        assert get(f"{front.url}/host") == f"{front.host}:{front.port}"
        wait_for(lambda: '"GET / HTTP/1.1" 200' in behind.output)


def test_nginx_says_what_is_wrong_with_its_configuration() -> None:
    """In its own words."""
    need.program("nginx")
    with pytest.raises(portlease.ServerDiedError, match='unknown directive "nonsense"'):
        recipes.nginx(config="nonsense on;")


def test_nginx_cannot_do_both(tmp_path: Path) -> None:
    """Nor serve what is no folder, nor one whose name its configuration cannot say."""
    with pytest.raises(portlease.UsageError, match="either"):
        recipes.nginx(tmp_path, upstream="http://127.0.0.1:1")
    with pytest.raises(portlease.UsageError, match="no folder"):
        recipes.nginx(tmp_path / "missing")
    need.program("nginx")
    dollar = tmp_path / "$HOME"
    dollar.mkdir()
    with pytest.raises(portlease.UsageError, match="cannot name"):
        recipes.nginx(dollar)


# --- mosquitto ----------------------------------------------------------------------------------


@pytest.fixture
def broker() -> Iterator[recipes.MosquittoServer]:
    """A Mosquitto, and its clients are here."""
    need.program("mosquitto")
    need.program("mosquitto_pub")
    need.program("mosquitto_sub")
    with recipes.mosquitto(config="log_type all") as server:
        yield server


def test_mosquitto_passes_on_what_is_published(broker: recipes.MosquittoServer) -> None:
    """A subscriber that was there before sees it."""
    options = ["-t", "news/#", "-C", "1", "-W", str(int(HANG_S))]
    subscriber = subprocess.Popen(
        [need.program("mosquitto_sub"), "-h", broker.host, "-p", str(broker.port), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with subscriber:
        assert subscriber.stdout is not None
        wait_for(lambda: "news/#" in broker.output)  # its log tells of every subscription
        mqtt("mosquitto_pub", broker, "-t", "news/today", "-m", "it rains")
        assert subscriber.stdout.read() == "it rains\n"
    assert subscriber.returncode == 0


def test_mosquitto_keeps_retained_messages_over_a_restart(broker: recipes.MosquittoServer) -> None:
    """Its database is in its home."""
    mqtt("mosquitto_pub", broker, "-r", "-t", "kept", "-m", "value")
    broker.restart()
    assert mqtt("mosquitto_sub", broker, "-C", "1", "-W", "30", "-t", "kept") == "value"


def test_mosquitto_takes_further_configuration() -> None:
    """One that lets nobody in is up all the same."""
    need.program("mosquitto")
    with recipes.mosquitto(config="allow_anonymous false") as server:
        assert server.url == f"mqtt://127.0.0.1:{server.port}" == server.env["MQTT_URL"]


# --- openssl ------------------------------------------------------------------------------------


def test_openssl_shows_a_certificate_that_can_be_verified() -> None:
    """By address and by name, if one trusts it; the machine's own roots do not."""
    need.program("openssl")
    with recipes.openssl(names=["test.example"]) as server:
        assert "s_server" in get(server.url, server.context())
        for name in ("localhost", "test.example", "::1"):
            assert shake_hands(server, server.context(), name) in {"TLSv1.2", "TLSv1.3"}
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            shake_hands(server, server.context(), "other.example")
        with pytest.raises(ssl.SSLCertVerificationError, match=r"self.signed"):
            shake_hands(server, ssl.create_default_context(), "localhost")


def shake_hands(server: RecipeServer, context: ssl.SSLContext, name: str) -> str | None:
    """The version of TLS on which both agree."""
    with (
        socket.create_connection(server.address, timeout=HANG_S) as plain,
        context.wrap_socket(plain, server_hostname=name) as client,
    ):
        return client.version()


def test_openssl_without_a_page_shows_what_it_is_sent() -> None:
    """Its own printing is its output."""
    need.program("openssl")
    with recipes.openssl(page=False) as server:
        with (
            socket.create_connection(server.address, timeout=HANG_S) as plain,
            server.context().wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(b"a line of text\n")
        wait_for(lambda: "a line of text" in server.output)


def test_openssl_keeps_its_certificate_over_a_restart() -> None:
    """A client that trusts it need not be told."""
    need.program("openssl")
    with recipes.openssl() as server:
        context = server.context()
        server.restart()
        assert "s_server" in get(server.url, context)
        key = server.keyfile.stat().st_mode & 0o777
        assert key == 0o600


def test_openssl_says_which_names_it_cannot_certify() -> None:
    """In the words of the program that makes the certificate; nothing is left behind."""
    need.program("openssl")
    with pytest.raises(portlease.ServerDiedError, match=r"(?s)openssl, which prepares .* status"):
        recipes.openssl(names=["a,b=c"])


# --- asgi ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["uvicorn", "hypercorn"])
def test_asgi_serves_an_application(application: Path, by: By) -> None:
    """By either of the two, with what it is given in its environment."""
    python_server(by)
    with recipes.asgi("hello:app", by=by, folder=application, env={"GREETING": "hello"}) as server:
        assert (server.by, get(server.url)) == (by, "hello")


def test_asgi_shows_the_traceback_of_an_application_that_fails(application: Path) -> None:
    """With the line that is wrong."""
    python_server("uvicorn")
    (application / "broken.py").write_text("app = undefined_name\n", encoding="utf-8")
    with pytest.raises(portlease.ServerDiedError, match="undefined_name"):
        recipes.asgi("broken:app", folder=application)


def test_asgi_checks_what_it_is_given() -> None:
    """Before it starts anything."""
    with pytest.raises(portlease.UsageError, match="module:name"):
        recipes.asgi("hello")
    with pytest.raises(portlease.UsageError, match="neither"):
        recipes.asgi("hello:app", by="gunicorn")  # type: ignore[arg-type] # that is the test


# --- what the machine lacks ---------------------------------------------------------------------


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing in PATH, and nothing where servers hide."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("portlease.recipes._recipe._HIDDEN", ())
    monkeypatch.setattr("portlease.recipes._recipe.glob.glob", lambda _: [])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)


@pytest.mark.usefixtures("bare_machine")
@pytest.mark.parametrize(
    ("name", "program", "package"),
    [
        ("redis", "redis-server", "apt-get install redis-server"),
        ("memcached", "memcached", "dnf install memcached"),
        ("nginx", "nginx", "brew install nginx"),
        ("mosquitto", "mosquitto", "apt-get install mosquitto"),
        ("openssl", "openssl", "apt-get install openssl"),
    ],
)
def test_a_recipe_says_how_to_install_what_it_lacks(name: str, program: str, package: str) -> None:
    """By name, for Debian, Fedora and Homebrew; the same facts are attributes."""
    expected = re.escape(f"recipe {name}: {program} is not installed; install it by ")
    with pytest.raises(portlease.RecipeUnavailableError, match=expected) as caught:
        getattr(recipes, name)()
    assert package in str(caught.value)
    assert (caught.value.recipe, caught.value.program) == (name, program)
    assert {"apt-get install", "dnf install", "brew install"} == set(caught.value.packages)


@pytest.mark.usefixtures("bare_machine")
def test_asgi_says_what_to_install() -> None:
    """Either of the two will do."""
    with pytest.raises(portlease.RecipeUnavailableError, match=r"pip install uvicorn.*hypercorn"):
        recipes.asgi("hello:app")


@pytest.mark.usefixtures("bare_machine")
def test_available_lists_what_is_missing() -> None:
    """Every recipe is there, with no path."""
    found = recipes.available()
    assert [recipe.name for recipe in found] == sorted(recipe.name for recipe in found)
    assert not any(found.values())
    for recipe in found:
        assert recipe.summary
        assert recipe.packages
        assert set(recipe.missing()) <= set(recipe.programs)
        assert recipe.missing()


def test_available_finds_what_is_there() -> None:
    """In PATH, or where Debian hides it."""
    need.program("nginx")
    paths = {recipe.name: path for recipe, path in recipes.available().items()}
    assert paths["nginx"] is not None
    assert os.access(paths["nginx"], os.X_OK)
