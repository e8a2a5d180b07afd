"""`portlease lint --fix`: what it writes, what it leaves alone, and that the tests still pass."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from _cli import environment, portlease
from _need import need
from portlease._findings import _rules
from portlease._lint import _checks, _fix, _plan, _proof, _rewrite
from portlease._lint._plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CODES = frozenset({"PL001"})


def _giving(data: bytes) -> Callable[[str], bytes]:
    return lambda _: data


def fixed(source: str) -> _fix.Fixed | None:
    """What becomes of a source; None if it is left alone and nothing is said."""
    data = textwrap.dedent(source).encode()
    done = _fix.fix(["test_it.py"], CODES, read=lambda _: data, write=False)
    return done[0] if done else None


def written(source: str) -> str:
    """The rewritten source, which is Python, and is left alone the second time."""
    one = fixed(source)
    assert one is not None
    assert one.tests, one.refused
    text = one.after.decode()
    ast.parse(text)
    again = _fix.fix(["test_it.py"], CODES, read=lambda _: one.after, write=False)
    assert [more for more in again if more.tests] == []
    return text


def refusal(source: str) -> str:
    """Why it is left alone."""
    one = fixed(source)
    assert one is not None
    assert one.after == one.before
    assert one.tests == 0
    (why,) = (said for said in one.refused if " PL001: " not in said)
    return why


# --- what it writes -----------------------------------------------------------------------------


def test_the_number_becomes_the_fixture_and_nothing_else_moves() -> None:
    """Comments, blanks, quotes and line ends stay; URLs become f-strings."""
    source = """\
        import socket   # kept


        def test_it( tmp_path ):
            '''Documentation of 18080 stays.'''

            server = make_server( "127.0.0.1",18080,app )  # kept
            get('http://127.0.0.1:18080/{}'.format(1)); cmd(str(18080))
            assert server.port == 18_080, f"{server} is not on :18080!"
            assert "18080" in text and url == ("http://" "localhost:18080")
        """
    assert written(source) == textwrap.dedent("""\
        import socket   # kept


        def test_it( tmp_path , leased_port):
            '''Documentation of 18080 stays.'''

            server = make_server( "127.0.0.1",leased_port,app )  # kept
            get(f'http://127.0.0.1:{leased_port}/{{}}'.format(1)); cmd(str(leased_port))
            assert server.port == leased_port, f"{server} is not on :{leased_port}!"
            assert str(leased_port) in text and url == ("http://" f"localhost:{leased_port}")
        """).replace("tmp_path , leased_port", "tmp_path, leased_port ")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("()", "(leased_port, leased_ports)"),
        ("(a, b)", "(a, b, leased_port, leased_ports)"),
        ("(a,b,)", "(a,b,leased_port,leased_ports,)"),
        ("(self, /, a)", "(self, /, a, leased_port, leased_ports)"),
        ("(a, *, b)", "(a, leased_port, leased_ports, *, b)"),
        ("(*args, **more)", "(leased_port, leased_ports, *args, **more)"),
        ("(a, b=1)", "(a, leased_port, leased_ports, b=1)"),
        ("(a: int) -> None", "(a: int, leased_port: int, leased_ports) -> None"),
        ("(\n    a,\n    b,\n)", "(\n    a,\n    b,\n    leased_port,\n    leased_ports,\n)"),
        ("(\n    a\n)", "(\n    a,\n    leased_port,\n    leased_ports\n)"),
    ],
)
def test_parameters_are_added_as_the_others_stand(before: str, after: str) -> None:
    """Before defaults, `*` and `**`; on lines of their own where the others are."""
    plan = Plan(
        "test", 1, {1: "leased_port", 2: "second_port"}, ("leased_port", "leased_ports"),
        ("second_port = leased_ports()",), frozenset(),
    )  # fmt: skip
    source = f"def test{before}:\n    bind(1, 2)\n"
    assert _rewrite.rewrite(source.encode(), [plan]).decode() == (
        f"def test{after}:\n    second_port = leased_ports()\n    bind(leased_port, second_port)\n"
    )


def test_udp_a_second_port_and_what_the_test_has_already() -> None:
    """leased_udp_port, leased_ports(), and no parameter twice."""
    source = """\
        def test_it(leased_port):
            u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            u.bind(("127.0.0.1", 18080))
            s.bind(("127.0.0.1", 18081))
            s.bind(("127.0.0.1", 18082))
        """
    assert written(source) == textwrap.dedent("""\
        def test_it(leased_port, leased_udp_port, leased_ports):
            second_port = leased_ports()
            third_port = leased_ports()
            u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            u.bind(("127.0.0.1", leased_udp_port))
            s.bind(("127.0.0.1", second_port))
            s.bind(("127.0.0.1", third_port))
        """)


def test_programs_that_are_told_their_port_in_a_way_of_their_own() -> None:
    """As a number, behind a host, and in a line for the shell."""
    source = """\
        def test_it():
            Popen([sys.executable, "-m", "http.server", "18080"])
            Popen(["php", "-S", "localhost:18081", "-t", "public"])
            os.system("cd site && python manage.py runserver 0.0.0.0:18082")
        """
    assert written(source) == textwrap.dedent("""\
        def test_it(leased_port, leased_ports):
            second_port = leased_ports()
            third_port = leased_ports()
            Popen([sys.executable, "-m", "http.server", str(leased_port)])
            Popen(["php", "-S", f"localhost:{second_port}", "-t", "public"])
            os.system(f"cd site && python manage.py runserver 0.0.0.0:{third_port}")
        """)


def test_line_ends_and_encodings_stay() -> None:
    """CRLF, a byte order mark, a coding line, and no newline at the end."""
    body = "def test_é():\r\n    s.bind(('', 18080))"
    for data in (
        body.encode(),
        b"\xef\xbb\xbf" + body.encode(),
        f"# coding: latin-1\r\n{body}".encode("latin-1"),
    ):
        (one,) = _fix.fix(["test_it.py"], CODES, read=_giving(data), write=False)
        assert one.tests == 1, one.refused
        expected = data.replace(b"():", b"(leased_port):").replace(b"18080", b"leased_port")
        assert one.after == expected


def test_numbers_in_texts_that_are_written_in_parts() -> None:
    """Where each part has its numbers whole."""
    source = """\
        def test_it():
            os.system("redis-server --port 18080 "
                      "--replica-announce-port " "18080")
            get(f"http://{host}" ":18080/" f"x?port=18080&{more}")
        """
    assert written(source) == textwrap.dedent("""\
        def test_it(leased_port):
            os.system(f"redis-server --port {leased_port} "
                      "--replica-announce-port " f"{leased_port}")
            get(f"http://{host}" f":{leased_port}/" f"x?port={leased_port}&{more}")
        """)


def test_texts_that_are_all_number_and_called_a_port() -> None:
    """Behind an option or a name, in an environment, compared, or made a number."""
    source = """\
        def test_it(monkeypatch):
            s.bind(("127.0.0.1", 18080))
            run(["redis-cli", "-p", "18080"], ("--port", "18080"), env={"APP_PORT": "18080"})
            monkeypatch.setenv("PORT", "18080")
            os.environ["PORT"] = "18080"
            assert int("18080") == f(port="18080")
        """
    text = written(source)
    assert "18080" not in text
    assert text.count("str(leased_port)") == 7


def test_two_ports_in_one_text() -> None:
    """Each becomes a port of its own."""
    source = """\
        def test_it():
            os.system("redis-server --port 18080 & redis-server --port 18081")
        """
    assert written(source) == textwrap.dedent("""\
        def test_it(leased_port, leased_ports):
            second_port = leased_ports()
            os.system(f"redis-server --port {leased_port} & redis-server --port {second_port}")
        """)


def test_a_rewriting_in_part_is_taken_back_and_others_are_kept() -> None:
    """What is written is looked at again, and told to be left."""
    source = """\
        def test_in_part():
            s.bind(("", 18080))
            f("port " "18080 x:1" "18080")
        def test_whole():
            s.bind(("", 18080))
        """
    one = fixed(source)
    assert one is not None
    assert one.tests == 1
    assert one.refused == (
        "test_it.py:1 test_in_part: its 18080 stands where it cannot be rewritten",
    )
    assert one.after.decode() == textwrap.dedent("""\
        def test_in_part():
            s.bind(("", 18080))
            f("port " "18080 x:1" "18080")
        def test_whole(leased_port):
            s.bind(("", leased_port))
        """)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ("def test(leased_port):\n    f(leased_port, str(leased_port))", None),
        ("def test(leased_port):\n    f(leased_port, f'{leased_port}')", None),
        ("def test(leased_port):\n    f(leased_port, '8080')", "cannot be rewritten"),
        ("def test(leased_port):\n    f(leased_port, leased_port)", "say something else"),
        ("def test(leased_port):\n    f(leased_port, f'1{leased_port}')", "say something else"),
        ("def test(leased_port):\n    f(leased_port, str(leased_port))\n    g()", "something else"),
    ],
)
def test_the_proof_of_a_rewriting(after: str, why: str | None) -> None:
    """The same as before with the number put in again, and nothing of it left."""
    plan = Plan("test", 1, {8080: "leased_port"}, ("leased_port",), (), frozenset())
    before = ast.parse("def test():\n    f(8080, '8080')")
    failed = [one.why for one in _proof.failures(before, after.encode(), [plan])]
    assert len(failed) == (why is not None)
    assert all(why in one for one in failed if why)


# --- what it leaves alone -----------------------------------------------------------------------

BIND = "s.bind(('127.0.0.1', 18080))"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (f"PORT = 18080\ndef test():\n    {BIND}", "line 1, outside of it, has the 18080, too"),
        (f"def up():\n    c(':18080')\ndef test():\n    {BIND}", "line 2, outside of it"),
        (
            f"class T(unittest.TestCase):\n    def test(self):\n        {BIND}",
            "a class of unittest",
        ),
        (
            f"class TestX(Base):\n    def test(self):\n        {BIND}",
            "Base, a base of TestX, may be",
        ),
        (f"class X:\n    def test(self):\n        {BIND}", "X may be a class of unittest"),
        (f"@given(st.x())\ndef test(x):\n    {BIND}", "hypothesis runs it many times"),
        (f"@gen_test\ndef test():\n    {BIND}", "the decorator gen_test may hide"),
        (f"def test():\n    {BIND}\n    range(18080)", "the 18080 in line 3 may be something else"),
        (
            f"def test():\n    {BIND}\n    f(b'x:18080')",
            "the 18080 in line 3 may be something else",
        ),
        (f"def test():\n    {BIND}\n    f('id18080')", "the 18080 in line 3 may be something else"),
        (f"def test():\n    {BIND}\n    match x:\n        case 18080: pass", "in line 4"),
        (f"def test():\n    {BIND}\n    f'{{x:18080}}'", "in line 3 may be something else"),
        (
            f"def test():\n    {BIND}\n    f('\\N{{EM DASH}}:18080')",
            "in line 3 may be something else",
        ),
        (
            "def test():\n    p = 18079\n    s.bind(('', p + 1))",
            "port 18080 is reckoned from 18079",
        ),
        ("def test():\n    Popen(['socat', 'tcp-listen:18080'])", "socat may not set SO_REUSEADDR"),
        ("def test():\n    os.system('nc -l 18080')", "nc may not set SO_REUSEADDR"),
        ("def test():\n    Popen(['ssh', '-D', '18080'])", "ssh may not set SO_REUSEADDR"),
        ("def test():\n    Popen([binary, '-p', '18080'])", "a program may not set SO_REUSEADDR"),
        (
            "def test():\n    Popen(['ncat', '-lu', '18080'])",
            "ncat binds it for UDP, which is not shared; start it with the fixture serve",
        ),
        (
            "def test():\n    Popen(['docker', 'run', '-p', '18080:80', 'x'])",
            "docker has its daemon bind it; give it a lease() that has stepped aside",
        ),
        (
            "def test():\n    os.system('php -S localhost:18080 18080.php')",
            "the 18080 in line 2 may be something else",
        ),
        (
            "def test():\n    Popen(['x'], env={'PORT': '18080'})",
            "a program may not set SO_REUSEADDR",
        ),
        (
            "def test(serve):\n    serve(['redis-server', '--port', '18080'])",
            'serve() leases the port itself; write "{port}" in its place',
        ),
        (
            "def test():\n    portlease.serve(['php', '-S', 'localhost:18080'])",
            'serve() leases the port itself; write "{port}" in its place',
        ),
        (
            "def test():\n    os.system('redis-server --port ' '18080 --dir x')",
            "the 18080 in line 2 is in a text of several parts",
        ),
        (
            f"def test():\n    {BIND}\n    get('http://localhost:' '18080/x')",
            "the 18080 in line 3 is in a text of several parts",
        ),
        (
            f"def test():\n    {BIND}\n    get(f'http://{{h}}:' '18080/x')",
            "the 18080 in line 3 is in a text of several parts",
        ),
        (f"def test():\n    {BIND}\n    f('x:1' '18080')", "in a text of several parts"),
        (f"def test():\n    {BIND}\n    f('x:18080' '1')", "in a text of several parts"),
        (f"def test():\n    {BIND}\n    f('18' '080')", "in a text of several parts"),
        (f"def test():\n    {BIND}\n    f('x\\x3a18080')", "of several parts, or of escapes"),
        (
            f"def test():\n    {BIND}\n    f('port ' '18080 x:1' '18080')",
            "its 18080 stands where it cannot be rewritten",
        ),
        (
            f"def test():\n    {BIND}\n    match x:\n        case 'x:18080': pass",
            "the 18080 in line 4 may be something else",
        ),
        (
            "def test():\n    Popen(['timeout', '18080', 'redis-server', '--port', '18080'])",
            "the 18080 in line 2 may be something else",
        ),
        (
            "def test():\n    create_subprocess_exec('timeout', '18080', 'php', '--port', '18080')",
            "the 18080 in line 2 may be something else",
        ),
        (
            "def test():\n    Popen(['flask', 'run', '-p', '18080', '--reload-interval', '18080'])",
            "the 18080 in line 2 may be something else",
        ),
        (
            "def test():\n    Popen(['python', '-m', 'http.server', '18080', '-d', '18080'])",
            "the 18080 in line 2 may be something else",
        ),
        (f"def test():\n    {BIND}\n    f('18080')", "in line 3 may be something else"),
        (f"def test():\n    {BIND}\n    x = {{'id': '18080'}}", "in line 3 may be something else"),
        (
            "def test():\n    P = 18080\n    s.bind(('', P))\n    s.bind(('', P + 1))",
            "port 18081 is reckoned from 18080",
        ),
        (f"def test():\n    multiprocessing.Process()\n    {BIND}", "starts other interpreters"),
        (f"def test():\n    {BIND}\ntest()", "it is called by others, in line 3"),
        (f"@pytest.mark.x(18080)\ndef test():\n    {BIND}", "stands in its decorators"),
    ],
)
def test_what_is_not_plain_is_left_alone(source: str, why: str) -> None:
    """With the reason, and the test's place."""
    said = refusal(source)
    assert why in said
    assert re.match(r"test_it\.py:\d+ test\w*: ", said)


@pytest.mark.parametrize(
    "source",
    [
        f"def test():\n    {BIND}  # portlease: allow",
        "def test():\n    s.connect(('127.0.0.1', 18080))",
        "import socket",
        "def f(:",
    ],
)
def test_nothing_to_fix_and_nothing_to_say(source: str) -> None:
    """Allowed, not looked for, or no Python: a finding's affair at most."""
    assert fixed(source) is None


LEFT = """\
import socket, subprocess, time, urllib.request, pytest
from test.support.socket_helper import find_unused_port
PORT = 18081
@pytest.fixture(scope="session")
def server():
    socket.socket().bind(("127.0.0.1", 18082))
def helper():
    socket.socket().bind(("127.0.0.1", 18083))
@pytest.mark.parametrize("port", [18084])
def test_given(port):
    socket.socket().bind(("127.0.0.1", port))
def test_constant():
    socket.socket().bind(("127.0.0.1", PORT))
def test_plain():
    socket.socket().bind(("127.0.0.1", 18085))
    urllib.request.urlopen("http://127.0.0.1:18085/")
def test_two_things():
    socket.socket().bind(("127.0.0.1", 18086))
    range(18086)
def test_found():
    subprocess.Popen(["x", str(find_unused_port())])
    time.sleep(2)
    urllib.request.urlopen("http://127.0.0.1:18087/")
"""


def test_whatever_is_left_has_its_reason() -> None:
    """A line for each finding: outside of tests, in a fixture, of other rules; of no other."""
    codes = frozenset(_rules.RULES)
    (one,) = _fix.fix(["test_it.py"], codes, read=_giving(LEFT.encode()), write=False)
    assert one.tests == 1
    said = [re.match(r"test_it\.py:(\d+) (\w+): (.*)", why) for why in one.refused]
    assert [(int(why[1]), why[2], why[3].split(",")[0].split(";")[0]) for why in said if why] == [
        (17, "test_two_things", "the 18086 in line 19 may be something else"),
        (3, "PL001", "it stands outside of the tests"),
        (6, "PL001", "it stands in the fixture server"),
        (8, "PL001", "it stands in helper()"),
        (9, "PL001", "it stands in the decorators or parameters of test_given"),
        (21, "PL003", "where its number goes is not seen"),
        (22, "PL006", "--fix rewrites hard-coded ports (PL001)"),
        (23, "PL002", "who listens there is not seen"),
    ]
    left = _checks.check(one.after, "test_it.py", codes)
    assert len(left) == len(one.refused)


def test_a_port_of_conftest_is_left_alone(tmp_path: Path) -> None:
    """Whoever has the number there may meet the test on it."""
    (tmp_path / "conftest.py").write_text("URL = 'http://localhost:18080'\n")
    (tmp_path / "unit").mkdir()
    path = tmp_path / "unit" / "test_it.py"
    path.write_text(f"def test_it():\n    {BIND}\n")
    done = portlease("lint", "--fix", path)
    assert done.returncode == 1
    assert "conftest.py has its port, too" in done.stderr
    assert path.read_text() == f"def test_it():\n    {BIND}\n"


def test_a_plan_that_meets_a_name_of_ones_own() -> None:
    """A leased_ports that is no fixture is not taken for one."""
    source = """\
        def test_it():
            leased_ports = f()
            s.bind(("127.0.0.1", 18080)); s.bind(("127.0.0.1", 18081))
        """
    assert "it has a leased_ports of its own" in refusal(source)


# --- for real -----------------------------------------------------------------------------------

SUITE = '''\
"""A suite that hard-codes its ports."""

import asyncio
import socket
import subprocess
import threading
import unittest
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from unittest import mock

import pytest

SHARED = 28089


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["Host"].encode())

    def log_message(self, *args):
        pass


def get(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def test_http():
    server = HTTPServer(("127.0.0.1", 28080), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert get("http://127.0.0.1:28080/") == "127.0.0.1:28080"
        assert get('http://127.0.0.1:%d/{x}' % server.server_port) == "127.0.0.1:28080"
        assert server.server_address == ("127.0.0.1", 28080)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@mock.patch("os.getlogin")
def test_two_ports(getlogin, host):
    port, other = 28081, 28082
    with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", other)):
        socket.create_connection((host, 28081)).close()
        socket.create_connection((host, 28082)).close()


class TestMore:
    def test_asyncio(self) -> None:
        async def echo() -> None:
            server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 28083)
            async with server:
                _, writer = await asyncio.open_connection("127.0.0.1", 28083)
                writer.close()
                await writer.wait_closed()

        asyncio.run(echo())

    @pytest.mark.parametrize("data", [b"a", b"b"])
    def test_udp(
        self,
        data,
    ):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind(("127.0.0.1", 28084))
            client.sendto(data, ("127.0.0.1", 28084))
            server.settimeout(60)
            assert server.recv(10) == data


def test_memcached():
    process = subprocess.Popen(["memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", "28085"])
    try:
        while process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", 28085)) as client:
                    client.sendall(b"version\\r\\n")
                    assert client.recv(100).startswith(b"VERSION")
                    break
            except ConnectionRefusedError:
                pass
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


class TestOld(unittest.TestCase):
    def test_it(self):
        socket.create_server(("127.0.0.1", 28086)).close()


def test_shared():
    socket.create_server(("127.0.0.1", SHARED)).close()
'''


def test_fixed_tests_pass_and_two_suites_run_at_once(tmp_path: Path) -> None:
    """Real servers: HTTP, asyncio, UDP, memcached. --diff shows what --fix writes."""
    need.program("memcached")
    path = tmp_path / "test_suite.py"
    path.write_text(SUITE)
    shown = portlease("lint", "--diff", path)
    assert shown.returncode == 1
    assert path.read_text() == SUITE
    done = portlease("lint", "--fix", "--select", "PL001", path)
    assert "rewrote 5 tests in 1 file" in done.stderr
    assert "TestOld is a class of unittest" in done.stderr
    assert done.returncode == 1
    left = re.findall(r"port (\d+) is hard-coded", done.stdout)
    assert left == ["28089", "28086"]
    text = path.read_text()
    added = {
        line[1:] for line in shown.stdout.splitlines() if line.startswith("+") and line[1:2] != "+"
    }
    assert added <= set(text.splitlines())
    assert set(text.splitlines()) - set(SUITE.splitlines()) == added
    again = portlease("lint", "--fix", "--select", "PL001", path)
    assert "nothing that --fix can rewrite" in again.stderr
    assert path.read_text() == text
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"),
        *(
            "-p",
            "no:asyncio",
            "--deselect",
            "test_suite.py::TestOld",
            "-k",
            "not shared",
            path.name,
        ),
    ]
    runs = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for run in runs:
        out, _ = run.communicate(timeout=120)
        assert run.returncode == 0, out
        assert "7 passed" in out


PROGRAMS = f"""\
import socket
import subprocess


def answers(process, port):
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return True
            except ConnectionRefusedError:
                pass
        return False
    finally:
        process.kill()
        process.wait()


def test_python():
    command = [{sys.executable!r}, "-m", "http.server", "--bind", "127.0.0.1", "28090"]
    assert answers(subprocess.Popen(command), 28090)


def test_php():
    assert answers(subprocess.Popen(["php", "-S", "127.0.0.1:28091"]), 28091)


def test_ncat():
    assert answers(subprocess.Popen(["ncat", "-lk", "127.0.0.1", "28092"]), 28092)


def test_iperf3():
    assert answers(subprocess.Popen(["iperf3", "-s", "-p", "28093"]), 28093)


def test_openssl():
    command = ["openssl", "s_server", "-nocert", "-accept", "127.0.0.1:28094"]
    assert answers(subprocess.Popen(command), 28094)
"""


def test_rewritten_programs_listen_on_their_leased_ports(tmp_path: Path) -> None:
    """Beside the leases, which a program that sets no SO_REUSEADDR could not."""
    for program in "php", "ncat", "iperf3", "openssl":
        need.program(program)
    path = tmp_path / "test_it.py"
    path.write_text(PROGRAMS)
    assert "rewrote 5 tests" in portlease("lint", "--fix", path).stderr
    assert "2809" not in path.read_text()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", path],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "5 passed" in run.stdout


def test_without_libcst_the_remedy_is_said(tmp_path: Path) -> None:
    """Lint itself needs it not."""
    (tmp_path / "libcst.py").write_text("raise ModuleNotFoundError('no', name='libcst')\n")
    path = tmp_path / "test_it.py"
    path.write_text(f"def test_it():\n    {BIND}\n")
    env = {"PYTHONPATH": str(tmp_path)}
    assert portlease("lint", path, env=env).returncode == 1
    done = portlease("lint", "--fix", path, env=env)
    assert done.returncode == 125
    assert "pip install 'portlease[lint]'" in done.stderr
    assert BIND in path.read_text()


def test_numbers_in_text() -> None:
    """What counts as a port in a text."""
    pattern = _plan.in_text(8080)
    for text in (
        "localhost:8080",
        "http://[::1]:8080/",
        "8080",
        "--port=8080",
        "port 8080",
        ":8080",
    ):
        assert pattern.search(text), text
    for text in ("18080", ":80801", "id 8080", "8080 bytes", "1.8080"):
        assert not pattern.search(text), text
