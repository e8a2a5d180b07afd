"""What `portlease lint` finds, and what it leaves alone: one source for each."""

from __future__ import annotations

import pytest

from _lint import findings, found, ports
from portlease._lint import _checks

# --- PL001: bound -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "s.bind(('127.0.0.1', 8080))",
        "s.bind(('', 8080))",
        "s.bind((HOST, 8080))",
        "s.bind(('::1', 8080, 0, 0))",
        "socket.create_server(('localhost', 8080))",
        "socket.create_server(address=('localhost', 8080))",
        "asyncio.run(asyncio.start_server(handle, '127.0.0.1', 8080))",
        "loop.create_server(Protocol, '127.0.0.1', 8080)",
        "loop.create_server(Protocol, host='127.0.0.1', port=8080)",
        "loop.create_datagram_endpoint(P, local_addr=('127.0.0.1', 8080))",
        "HTTPServer(('127.0.0.1', 8080), Handler)",
        "socketserver.ThreadingTCPServer(('', 8080), Handler)",
        "EchoServer('localhost', 8080)",
        "make_server('127.0.0.1', 8080, app)",
        "run_simple('127.0.0.1', 8080, app)",
        "uvicorn.run(app, port=8080)",
        "app.run(host='127.0.0.1', port=8080)",
        "web.TCPSite(runner, 'localhost', 8080)",
        "application.listen(8080)",
        "server.listen(8080, '127.0.0.1')",
        "start_http_server(8080)",
        "from twisted.internet import reactor\nreactor.listenTCP(8080, factory)",
        "def test(reactor):\n    serverFromString(reactor, 'tcp:8080:interface=::1').listen(f)",
        "def test(reactor):\n    serverFromString(reactor, 'tcp:8080').listen(f)",
        "sock.bind('tcp://127.0.0.1:8080')",
        "sock.bind('tcp://*:8080')",
        "server.add_insecure_port('[::]:8080')",
        "start_echo_server(port=8080)",
        "PORT = 8080\ns.bind(('', PORT))",
        "ADDRESS = ('127.0.0.1', 8080)\ns.bind(ADDRESS)",
        "HOST, PORT = 'localhost', 8080\ns.bind((HOST, PORT))",
        "PORT = 8079 + 1\ns.bind(('', PORT))",
        "PORT = int('8080')\ns.bind(('', PORT))",
        "class TestIt:\n    PORT = 8080\n    def test(self):\n        s.bind(('', self.PORT))",
        "class T:\n    def setUp(self):\n        self.p = 8080\n        s.bind(('', self.p))",
        "class A:\n    P = 8080\nclass B(A):\n    def test(self):\n        s.bind(('', self.P))",
        "def start(port=8080):\n    s.bind(('', port))",
        "def start(port):\n    s.bind(('', port))\nstart(8080)",
        "def start(address):\n    s.bind(address)\nstart(('127.0.0.1', 8080))",
        "class S:\n    def __init__(self, port):\n        s.bind(('', port))\nS(port=8080)",
        "class T:\n def up(self, p):\n  s.bind(('', p))\n def t(self):\n  self.up(8080)",
        "@pytest.mark.parametrize('port', [8080])\ndef test(port):\n    s.bind(('', port))",
        "@pytest.mark.parametrize('h, p', [('', 8080)])\ndef test(h, p):\n    s.bind((h, p))",
    ],
)
def test_a_number_that_is_bound(source: str) -> None:
    """PL001, once, with the number."""
    assert ports(source) == [8080]


@pytest.mark.parametrize(
    "source",
    [
        'Popen(["redis-server", "--port", "8080"])',
        'Popen(["redis-server", "--port=8080"])',
        'subprocess.run(["memcached", "-p8080"])',
        'subprocess.check_call([sys.executable, "-m", "http.server", "8080"])',
        'await asyncio.create_subprocess_exec("redis-server", "--port", "8080")',
        'CMD = "redis-server", "--port", "8080"\nawait asyncio.create_subprocess_exec(*CMD)',
        'CMD = ["nc", "-l", "8080"]\nawait asyncio.create_subprocess_exec(*CMD, stdout=PIPE)',
        'os.system("python -m http.server 8080")',
        'subprocess.Popen("nc -l 8080", shell=True)',
        'subprocess.Popen(["server", "--bind", "127.0.0.1:8080"])',
        'subprocess.Popen(["java", "-Dserver.port=8080", "-jar", "x.jar"])',
        'subprocess.Popen(["socat", "TCP-LISTEN:8080,reuseaddr", "-"])',
        'subprocess.run(["docker", "run", "-p", "8080:80", "nginx"])',
        'subprocess.Popen(["npm", "start"], env={"PORT": "8080"})',
        'subprocess.Popen(["npm", "start"], env={**os.environ, "APP_PORT": "8080"})',
        'subprocess.Popen(["npm", "start"], env=dict(os.environ, PORT="8080"))',
        'CMD = ["redis-server", "--port"] + ["8080"]\nsubprocess.Popen(CMD)',
        'PORT = 8080\nsubprocess.Popen(["redis-server", "--port", str(PORT)])',
        'PORT = 8080\nsubprocess.Popen(["redis-server", f"--port={PORT}"])',
        'PORT = 8080\nsubprocess.Popen(f"redis-server --port {PORT}", shell=True)',
        'subprocess.Popen("redis-server --port 8080".split())',
    ],
)
def test_a_number_that_a_program_is_given(source: str) -> None:
    """PL001, with the remedy for programs."""
    (one,) = findings(source, "PL001")
    assert "port 8080" in one.message
    assert "serve" in one.remedy


@pytest.mark.parametrize(
    ("scope", "code", "remedy"),
    [
        ("", "s.bind(('', 8080))", "leased_port,"),
        ("(scope='function')", "s.bind(('', 8080))", "leased_port,"),
        ("(scope='session')", "s.bind(('', 8080))", "leased_port_factory(),"),
        (
            "(scope='module')",
            "loop.create_datagram_endpoint(P, local_addr=('::1', 8080))",
            '("udp")',
        ),
        ("(scope='session')", "Popen(['redis-server', '--port', '8080'])", "serve_once"),
        ("", "Popen(['redis-server', '--port', '8080'])", "serve or"),
    ],
)
def test_the_remedy_is_one_that_the_fixture_can_take(scope: str, code: str, remedy: str) -> None:
    """A fixture that outlives a test is not given those of a test."""
    (one,) = findings(f"@pytest.fixture{scope}\ndef up():\n    {code}\n    yield", "PL001")
    assert remedy in one.remedy


@pytest.mark.parametrize(
    "source",
    [
        "s.bind(('127.0.0.1', 0))",
        "s.bind(('example.com', 8080))",
        "s.bind(address)",
        "s.bind(('127.0.0.1', port))",
        "s.bind('/tmp/socket')",
        "PORT = 8080\nPORT = find()\ns.bind(('', PORT))",
        "for port in (8080, 8081):\n    s.bind(('', port))",
        "PORT = int(os.environ.get('PORT', 8080))\ns.bind(('', PORT))",
        "s = socket.socket(socket.AF_VSOCK)\ns.bind((HOST, 8080))",
        "s.listen(128)\ns.listen(5)\ns.listen(1024)\ns.listen(5000)",
        "Config(port=8080)",
        "URL.build(host='localhost', port=8080)",
        "assert url.port == 8080",
        "urlparse('http://localhost:8080/')",
        "parser.parse_args(['--port', '8080'])",
        "with pytest.raises(ValueError):\n    s.bind(('127.0.0.1', 8080))",
        "with self.assertRaises(TypeError):\n    HTTPServer(('127.0.0.1', 8080))",
        "@patch('socket.socket')\ndef test(m):\n    s.bind(('127.0.0.1', 8080))",
        "def test(mocker):\n    mocker.patch('app.run')\n    app.run(port=8080)",
        "def test(monkeypatch):\n    monkeypatch.setattr(u, 'run', f)\n    app.run(port=8080)",
        "if __name__ == '__main__':\n    s.bind(('127.0.0.1', 8080))",
        "mock_socket.bind(('127.0.0.1', 8080))",
        "s = FakeSocket()\ns.bind(('127.0.0.1', 8080))",
        "r = MemoryReactor()\nr.listenTCP(8080, f)",
        "s.bind(('127.0.0.1', 80))",
        'subprocess.run(["ps", "-p", "8080"])',
        'subprocess.run(["mkdir", "-p", "8080"])',
        'subprocess.run(["sleep", "8080"])',
        'subprocess.run(["echo", "8080"])',
        'subprocess.run(["npm"], env={"SUPPORT": "8080"})',
    ],
)
def test_no_number_is_bound(source: str) -> None:
    """Nothing is told of what is unknown, pretended or only looked at."""
    assert found(source, "PL001", "PL002") == []


# --- PL002: gone to -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "s.connect(('127.0.0.1', 8080))",
        "s.connect_ex(('localhost', 8080))",
        "socket.create_connection(('::1', 8080))",
        "await asyncio.open_connection('127.0.0.1', 8080)",
        "s.sendto(b'x', ('127.0.0.1', 8080))",
        "urlopen('http://localhost:8080/')",
        "requests.get('http://127.0.0.1:8080/')",
        "requests.request('GET', 'http://127.0.0.1:8080/')",
        "httpx.get(url='http://[::1]:8080/')",
        "BASE = 'http://localhost:8080'\nrequests.get(BASE + '/x')",
        "BASE = 'http://localhost:8080'\nrequests.get(f'{BASE}/x')",
        "PORT = 8080\nrequests.get(f'http://localhost:{PORT}/x')",
        "PORT = 8080\nrequests.get('http://localhost:%d/x' % PORT)",
        "PORT = 8080\nrequests.get('http://localhost:{}/x'.format(PORT))",
        "session = aiohttp.ClientSession()\nsession.get('http://localhost:8080/')",
        "with httpx.Client() as c:\n    c.get('http://localhost:8080/')",
        "async with websockets.connect('ws://localhost:8080'):\n    pass",
        "smtplib.SMTP('localhost', 8080)",
        "zmq_socket.connect('tcp://127.0.0.1:8080')",
        "def test():\n    r = redis.Redis(port=8080)\n    r.ping()",
        "def test():\n    c = HTTPConnection('localhost:8080')\n    c.request('GET', '/')",
        'subprocess.run(["redis-cli", "-p", "8080", "ping"])',
        'subprocess.run(["curl", "http://localhost:8080/"])',
    ],
)
def test_a_number_that_is_gone_to(source: str) -> None:
    """PL002, once."""
    assert ports(source, "PL002") == [8080]
    assert ports(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "s.connect(('example.com', 8080))",
        "s.connect((hostname, 443))",
        "requests.get('http://example.com:8080/')",
        "requests.get('http://localhost/')",
        "responses.get('http://localhost:8080/')\nimport responses\nrequests.get('http://localhost:8080/')",
        "def test(requests_mock):\n    requests.get('http://localhost:8080/')",
        "client.get('http://localhost:8080/')",
        "c = httpx.Client(transport=T())\nc.get('http://localhost:8080/')",
        "c = TestClient(app)\nc.get('http://localhost:8080/')",
        "d.get('http://localhost:8080/')",
        "def test():\n    r = redis.Redis(port=8080)\n    assert r.port == 8080",
        "def test():\n    r = redis.Redis(port=8080)\n    r.close()",
        "c = MongoClient('mongodb://localhost:8080', connect=False)\nc.db.find()",
        "assert url == 'http://localhost:8080/'",
    ],
)
def test_no_number_is_gone_to(source: str) -> None:
    """Other hosts, and requests that never leave the process."""
    assert found(source, "PL001", "PL002") == []


def test_a_port_is_told_once_where_it_is_written() -> None:
    """A constant that is bound and gone to, many times, is one finding: bound."""
    source = """\
        PORT = 8080
        def test_a():
            s.bind(("127.0.0.1", PORT))
            c.connect(("127.0.0.1", PORT))
        def test_b():
            s.bind(("127.0.0.1", PORT))
        """
    (one,) = findings(source, "PL001", "PL002")
    assert (one.line, one.column, one.code) == (1, 8, "PL001")
    assert one.message == "port 8080 is hard-coded: bind() binds it in line 3"
    assert one.text == "PORT = 8080"


def test_each_port_of_a_literal_is_told() -> None:
    """In its own place; a number that is reckoned from one that is told is not."""
    line = "os.system('redis-server --port 8080 & redis-server --port 8081')"
    told = findings(line, "PL001")
    assert [one.message.split()[1] for one in told] == ["8080", "8081"]
    assert [one.column for one in told] == [line.index("8080") + 1, line.index("8081") + 1]
    assert ports("PORT = 8080\ns.bind(('', PORT))\ns.bind(('', PORT + 1))") == [8080]
    source = "PORT = 8080\nurlopen(f'http://localhost:{PORT}')\ns.bind(('', PORT + 1))"
    assert ports(source) == [8081]
    assert ports(source, "PL002") == []


def test_columns_are_in_characters_and_point_at_the_number() -> None:
    """Behind letters of several bytes, and inside a URL."""
    (one,) = findings("x = 'žluťoučký'; requests.get('http://localhost:8080/')", "PL002")
    assert (one.column, one.end_column) == (49, 53)


@pytest.mark.parametrize(
    ("path", "source", "told"),
    [
        ("tests/config.py", "PROXY_PORT = 8080\nURL = f'http://localhost:{PROXY_PORT}'", [8080]),
        ("tests/test_a.py", "class TestA(Case):\n    PORT = 8080", [8080]),
        ("tests/conftest.py", "class Address(NamedTuple):\n    port: int = 8080", [8080]),
        ("c.py", "import uvicorn\nc = uvicorn.Config(app=app)\nuvicorn.Server(c)", [8000]),
        ("c.py", "import uvicorn\nc = uvicorn.Config(app, port=0)\nuvicorn.Server(c)", []),
        ("tests/test_a.py", "PORT = 8080", []),
        ("tests/config.py", "PORT = 8080\nassert parsed == PORT", []),
        ("tests/config.py", "SUPPORTED = 8080\nPORT = 0", []),
    ],
)
def test_ports_that_a_module_leaves_to_others(path: str, source: str, told: list[int]) -> None:
    """Constants that nothing in the module reads, and a server's default."""
    found = _checks.check(source.encode(), path, frozenset({"PL001"}))
    assert [int(finding.message.split()[1]) for finding in found] == told


# --- PL003 to PL006 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        """\
        def free_port():
            s = socket.socket()
            s.bind(("", 0))
            port = s.getsockname()[1]
            s.close()
            return port
        """,
        """\
        def free_port():
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                s.listen(1)
                return s.getsockname()[1]
        """,
        """\
        def free_port():
            with contextlib.closing(socket.socket()) as s:
                s.bind(("127.0.0.1", 0))
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _, port = s.getsockname()
            return port
        """,
        """\
        def test_it():
            with socket.create_server(("127.0.0.1", 0)) as s:
                port = s.getsockname()[1]
            start(port)
        """,
        "import portpicker\nport = portpicker.pick_unused_port()",
        "from portend import find_available_local_port\nfind_available_local_port()",
        "from test.support.socket_helper import find_unused_port\nfind_unused_port()",
        "from aiohttp.test_utils import unused_port as up\nup()",
        "def test_it(unused_tcp_port):\n    pass",
    ],
)
def test_a_free_port_that_is_let_go(source: str) -> None:
    """PL003, by whatever means."""
    assert [finding.code for finding in findings(source, "PL003")] == ["PL003"]


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    s = socket.socket()\n    s.bind(('', 0))\n    return s, s.getsockname()[1]",
        """\
        def test_it():
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
                connect(port)
        """,
        """\
        def test_it():
            s = socket.socket()
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
            serve(s)
            connect(port)
            s.close()
        """,
        """\
        def can_bind():
            with socket.socket() as s:
                s.bind(("127.0.0.2", 0))
                return s.getsockname()[0] == "127.0.0.2"
        """,
        "from .helpers import find_free_port\nfind_free_port()",
        "import portlease\nportlease.lease()",
        "def test_it(leased_port):\n    pass",
        "def unused_tcp_port():\n    return 0\ndef test_it(unused_tcp_port):\n    pass",
    ],
)
def test_a_port_that_is_kept(source: str) -> None:
    """A socket that lives on holds its port."""
    assert found(source, "PL003") == []


def test_helpers_that_are_taken_over_do_keep_their_ports() -> None:
    """With portlease_takeover, other libraries' helpers are leases; one's own still are not."""
    source = """\
        import portpicker
        def test_it(unused_tcp_port):
            portpicker.pick_unused_port()
        def mine():
            with socket.socket() as s:
                s.bind(("", 0))
                return s.getsockname()[1]
        """
    assert len(findings(source, "PL003")) == 3
    assert len(findings(source, "PL003", takeover=True)) == 1


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)", 1),
        ("s.setsockopt(SOL_SOCKET, SO_REUSEPORT, True)", 1),
        ("s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)", 0),
        ("s = socket.socket(type=socket.SOCK_DGRAM)\ns.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)", 0),
        ("def test(): s.setsockopt(L, SO_REUSEADDR, 1); s.getsockopt(L, SO_REUSEADDR)", 0),
        ("asyncio.start_server(f, '127.0.0.1', 0, reuse_port=True)", 1),
        ("def test_reuse_port():\n    start_server(f, '127.0.0.1', 0, reuse_port=True)", 0),
        ("class S(TCPServer):\n    allow_reuse_address = True", 1),
        ("s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)", 0),
    ],
)
def test_reused_addresses(source: str, expected: int) -> None:
    """PL004: switched on, on TCP, and not what is tested."""
    assert len(findings(source, "PL004")) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s.bind(('', 0))", 1),
        ("s.bind(('0.0.0.0', port))", 1),
        ("HTTPServer(('::', 0), H)", 1),
        ("uvicorn.run(app, host='0.0.0.0', port=8000)", 1),
        ("s.bind(('127.0.0.1', 0))", 0),
        ("s.bind((host, 0))", 0),
        ("@pytest.mark.parametrize('h', ['', '::1'])\ndef test(h):\n    s.bind((h, 0))", 0),
        ("def test():\n    s.bind(('', 0))\n    s.setsockopt(L, socket.IP_ADD_MEMBERSHIP, m)", 0),
    ],
)
def test_every_interface(source: str, expected: int) -> None:
    """PL005: written so, and not for multicast."""
    assert len(findings(source, "PL005")) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "def test():\n    Popen(['x'])\n    time.sleep(1)\n    s.connect(('::1', 1234))",
            1,
        ),
        ("def up():\n    server.start()\n    time.sleep(0.1)\n    yield server", 1),
        (
            "async def t():\n    start_server(p)\n    await asyncio.sleep(1)\n    urlopen('http://[::1]:9999')",
            1,
        ),
        ("def test():\n    p = Popen(['x'])\n    time.sleep(1)\n    p.kill()", 0),
        (
            "def t():\n while 1:\n  p.start()\n  time.sleep(1)\n  s.connect(A)",
            0,
        ),
    ],
)
def test_sleeps(source: str, expected: int) -> None:
    """PL006: after a start and before a client, outside of a loop."""
    assert len(findings("import time, asyncio\n" + source, "PL006")) == expected
