"""Which calls take a port: by the name of what is called, and by the shape of what it is given.

A table of what libraries call it, and two guesses for the rest: `...Server(...)`, `start_...()` and
their like given a loopback address or ``port=`` bind it, `...Client(...)` and its like connect to
it. Anything else, ``Config(port=8080)``, ``URL.build(port=8080)``, may only be looked at, and is
left alone.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from portlease._lint import _places

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Final, TypeAlias

    from portlease._lint._scopes import Scope
    from portlease._lint._values import Values

Deed: TypeAlias = Literal["bind", "connect", "run"]
Shape: TypeAlias = Literal["address", "port", "place", "url", "argv", "shell", "env"]


class Sink(NamedTuple):
    """An argument that says a port, and what becomes of it."""

    deed: Deed
    shape: Shape
    """``address``: (host, port). ``port``: a number. ``place``: "host:port", "tcp:8080", "8080".
    ``url``: a URL. ``argv``: a command's arguments. ``shell``: a command line. ``env``: its
    environment."""
    value: ast.expr
    scope: Scope
    callee: str
    """How it is called, for a person."""
    call: ast.Call
    host: ast.expr | None = None
    udp: bool = False
    lazy: bool = False
    """Whether the call alone opens nothing: a client that connects later."""


class _Taken(NamedTuple):
    """Where a call takes a port: positions, -1 where it does not."""

    deed: Deed
    address: int = -1
    host: int = -1
    port: int = -1
    place: int = -1
    url: int = -1
    udp: bool = False
    lazy: bool = False
    keywords: bool = True
    """Whether ``port=`` counts."""


_PAIR: Final = _Taken("connect", host=0, port=1)
_LAZY: Final = _Taken("connect", host=0, port=1, place=0, lazy=True)
_TABLE: Final[Mapping[str, tuple[_Taken, ...]]] = {
    # --- servers
    "bind": (_Taken("bind", address=0, place=0),),
    "bind_to_address": (_Taken("bind", address=0),),
    "create_server": (_Taken("bind", address=0, host=1, port=2),),
    "create_dualstack_server": (_Taken("bind", address=0),),
    "start_server": (_Taken("bind", address=0, host=1, port=2),),
    "create_tcp_listener": (_Taken("bind"),),
    "open_tcp_listeners": (_Taken("bind", port=0),),
    "serve_tcp": (_Taken("bind", port=1),),
    "open_ssl_over_tcp_listeners": (_Taken("bind", port=0),),
    "serve_ssl_over_tcp": (_Taken("bind", port=1),),
    "make_server": (_Taken("bind", host=0, port=1),),
    "run_simple": (_Taken("bind", host=0, port=1),),
    "TCPSite": (_Taken("bind", host=1, port=2),),
    "run_app": (_Taken("bind"),),
    "runserver": (_Taken("bind"),),
    "listen": (_Taken("bind", port=0),),
    "listenTCP": (_Taken("bind", port=0),),
    "listenSSL": (_Taken("bind", port=0),),
    "listenUDP": (_Taken("bind", port=0, udp=True),),
    "TCP4ServerEndpoint": (_Taken("bind", port=1, lazy=True),),
    "TCP6ServerEndpoint": (_Taken("bind", port=1, lazy=True),),
    "serverFromString": (_Taken("bind", place=1, lazy=True),),
    "add_insecure_port": (_Taken("bind", place=0),),
    "add_secure_port": (_Taken("bind", place=0),),
    "serve": (_Taken("bind", host=1, port=2),),
    "start_http_server": (_Taken("bind", port=0),),
    "serve_forever": (_Taken("bind"),),
    "Controller": (_Taken("bind"),),
    "DTLSServer": (_Taken("bind", address=0, udp=True),),
    "UDPServer": (_Taken("bind", address=0, udp=True),),
    "ThreadingUDPServer": (_Taken("bind", address=0, udp=True),),
    "ForkingUDPServer": (_Taken("bind", address=0, udp=True),),
    # --- clients
    "connect": (_Taken("connect", address=0, host=0, port=1, url=0),),
    "connect_ex": (_Taken("connect", address=0),),
    "create_connection": (_Taken("connect", address=0, host=1, port=2, url=0),),
    "open_connection": (_PAIR,),
    "open_tcp_stream": (_PAIR,),
    "connect_tcp": (_PAIR,),
    "connectTCP": (_PAIR,),
    "connectSSL": (_PAIR,),
    "TCP4ClientEndpoint": (_Taken("connect", host=1, port=2, lazy=True),),
    "TCP6ClientEndpoint": (_Taken("connect", host=1, port=2, lazy=True),),
    "clientFromString": (_Taken("connect", place=1, lazy=True),),
    "sendto": (_Taken("connect", address=1, udp=True),),
    "HTTPConnection": (_LAZY,),
    "HTTPSConnection": (_LAZY,),
    "SMTP": (_PAIR,),
    "SMTP_SSL": (_PAIR,),
    "LMTP": (_PAIR,),
    "POP3": (_PAIR,),
    "POP3_SSL": (_PAIR,),
    "IMAP4": (_PAIR,),
    "IMAP4_SSL": (_PAIR,),
    "Telnet": (_PAIR,),
    "insecure_channel": (_Taken("connect", place=0, lazy=True),),
    "secure_channel": (_Taken("connect", place=0, lazy=True),),
    "ServerProxy": (_Taken("connect", url=0, lazy=True),),
    "urlopen": (_Taken("connect", url=0),),
    "urlretrieve": (_Taken("connect", url=0),),
    "fetch": (_Taken("connect", url=0),),
    "websocket_connect": (_Taken("connect", url=0),),
    "ws_connect": (_Taken("connect", url=0),),
    "from_url": (_Taken("connect", url=0, lazy=True),),
}

_VERBS: Final = frozenset(
    {"get", "post", "put", "patch", "delete", "head", "options", "request", "stream", "goto"}
)
# Whose get() is a request and no dictionary's, nor a test client's that never leaves the process.
_REQUESTERS: Final = re.compile(
    r"(^|\.)(requests|httpx|urllib3|grequests|niquests|http|page)$|session$|requests\.",
    re.IGNORECASE,
)
_SESSIONS: Final = re.compile(
    r"(^|\.)(Async|Client|Futures)?(Session|Client|ClientSession|PoolManager)$"
)

# `start_server`, `run_http_server`, `ThreadedServer`, `EchoServer`, `spawn_daemon`, `uvicorn.run`.
_SERVER: Final = re.compile(
    r"(Server|_server|Proxy|Daemon|_daemon|Broker|Listener|_listener|Acceptor)$"
    r"|^(run|start|launch|spawn|make|create|open)_\w*(server|daemon|broker|listener|service)"
    r"|^(TCP|HTTP)Executor$|^(serve|server|daemon|listener|broker)$"
)
_RUNNERS: Final = re.compile(
    r"^(uvicorn|hypercorn|waitress|bottle|aiohttp\.web|cherrypy|werkzeug\.serving|web|app|application"
    r"|self\.app|eventlet\.wsgi|dash_app|socketio)\.(run|serve|run_app|server|run_simple)$"
)
_CLIENT: Final = re.compile(
    r"(Client|Connection|_client|_connection|ConnectionPool|Session|Redis|Memcache|Telnet|Channel)$"
    r"|^(connect|open|create|make|dial)_\w*(client|connection|channel|to)$"
)
_UDP: Final = re.compile(r"udp|datagram|dtls", re.IGNORECASE)
_ACCEPT_BACKLOG: Final = 1024
_HOST_KEYWORDS: Final = (
    *("host", "hostname", "address", "interface", "local_host", "bind_host", "server_hostname"),
    *("ip", "bind", "addr", "server", "bind_addr"),
)
_PORT_KEYWORDS: Final = (
    *("port", "local_port", "remote_port", "http_port", "tcp_port", "server_port"),
)
_SPAWNS: Final = frozenset(
    {"Popen", "create_subprocess_exec", "create_subprocess_shell", "open_process", "run_process"}
)
_SPAWNS_OF: Final = re.compile(
    r"^(subprocess|sp|os|pexpect|trio(\.lowlevel)?|anyio|asyncio(\.subprocess)?|shlex|commands|portlease)\."
    r"(run|call|check_call|check_output|getoutput|getstatusoutput|system|popen|spawn[lv]p?e?|"
    r"posix_spawnp?|exec[lv]p?e?|a?serve|spawn)$"
)
_OF_OS: Final = re.compile(r"(?:spawn|exec)(?P<how>[lv])p?(?P<env>e?)|(?P<posix>posix_spawn)p?")
_SERVES: Final = frozenset({"serve", "aserve", "serve_once"})
"""The fixtures, and the functions of portlease, that lease the port of what they start."""


def sinks(call: ast.Call, dotted: str, scope: Scope, values: Values) -> Iterator[Sink]:
    """What the arguments of *call* say of ports.

    Args:
        call: the call.
        dotted: the name of what is called, ``socket.create_server``.
        scope: where it stands.
        values: for the shape of an argument.
    """
    name = dotted.rpartition(".")[2]
    callee = f"{name}()"
    starred = any(isinstance(one, ast.Starred) for one in call.args[:1])
    if name in _SPAWNS or dotted in _SERVES or _SPAWNS_OF.match(dotted):
        yield from _spawn(call, name, scope, callee, starred=starred)
        if name != "serve":
            return
    if starred and not call.keywords:
        return
    if name in _TABLE:
        for taken in _TABLE[name]:
            yield from _taken(call, taken, scope, callee, values)
    elif name == "create_datagram_endpoint":
        yield from _datagram(call, scope, callee)
    elif name in _VERBS:
        yield from _request(call, name, dotted, scope, values)
    elif _SERVER.search(name) or _RUNNERS.match(dotted):
        udp = _UDP.search(name) is not None
        guess = _Taken("bind", address=0, host=0, port=1, udp=udp)
        yield from _taken(call, guess, scope, callee, values, guessed=True)
    elif _CLIENT.search(name):
        guess = _Taken("connect", address=0, host=0, port=1, url=0, lazy=True)
        yield from _taken(call, guess, scope, callee, values, guessed=True)


def leases_its_port(sink: Sink) -> bool:
    """Whether what starts the command has a leased port for it already."""
    return sink.deed == "run" and sink.callee.removesuffix("()") in _SERVES


def is_server(name: str) -> bool:
    """Whether something of this name is a server, or starts one."""
    return _SERVER.search(name) is not None


def _at(call: ast.Call, position: int) -> ast.expr | None:
    if not 0 <= position < len(call.args):
        return None
    if any(isinstance(one, ast.Starred) for one in call.args[: position + 1]):
        return None
    return call.args[position]


def keyword(call: ast.Call, *names: str) -> ast.expr | None:
    """The argument that is given by one of these names."""
    return next((one.value for one in call.keywords if one.arg in names), None)


def _taken(  # noqa: C901, PLR0912, PLR0913 - one argument after the other
    call: ast.Call,
    taken: _Taken,
    scope: Scope,
    callee: str,
    values: Values,
    *,
    guessed: bool = False,
) -> Iterator[Sink]:
    def sink(shape: Shape, value: ast.expr, host: ast.expr | None = None) -> Sink:
        return Sink(
            taken.deed, shape, value, scope, callee, call, host, udp=taken.udp, lazy=taken.lazy
        )

    first = _at(call, taken.address)
    if first is None and taken.address >= 0:
        first = keyword(call, "address", "server_address", "bind_addr", "addr", "sockaddr")
    if taken.address > 0 and call.args and not any(isinstance(a, ast.Starred) for a in call.args):
        first = call.args[-1]  # sendto(data, flags, address)
    if first is not None and any(values.address(first, scope)):
        yield sink("address", first)
        return
    if first is not None and not isinstance(first, ast.Constant):
        yield sink("address", first)  # a parameter that may be called with one
    if taken.url >= 0:
        given = _at(call, taken.url) or keyword(call, "url", "uri", "base_url", "endpoint")
        if given is not None:
            yield sink("url", given)
    if taken.place >= 0 and (place := _at(call, taken.place)) is not None:
        yield sink("place", place)
    host, port = _at(call, taken.host), _at(call, taken.port)
    if port is not None and not (guessed and not _may_be_host(host, scope, values)):
        if callee != "listen()" or _is_no_backlog(call, port, scope, values):
            yield sink("port", port, host or keyword(call, *_HOST_KEYWORDS))
    elif taken.keywords:
        if guessed and not _may_be_host(host, scope, values):
            host = None
        for name in _PORT_KEYWORDS:
            if (given := keyword(call, name)) is not None:
                yield sink("port", given, keyword(call, *_HOST_KEYWORDS) or host)


def _may_be_host(host: ast.expr | None, scope: Scope, values: Values) -> bool:
    if host is None:
        return False
    text = values.host(host, scope)
    return _places.is_loopback(text) or _places.is_everywhere(text)


def _is_no_backlog(call: ast.Call, port: ast.expr, scope: Scope, values: Values) -> bool:
    """Whether the argument of a listen() is a port, and not how many clients may wait."""
    if call.keywords or len(call.args) > 1:
        return True
    return all(
        number.value > _ACCEPT_BACKLOG
        and number.value % 1000 != 0  # 5000, 10000: as many clients as may come
        and number.value & (number.value - 1) != 0
        and number.value & (number.value + 1) != 0
        for number in values.numbers(port, scope)
    )


def _datagram(call: ast.Call, scope: Scope, callee: str) -> Iterator[Sink]:
    if (local := keyword(call, "local_addr")) is not None:
        yield Sink("bind", "address", local, scope, callee, call, udp=True)
    if (remote := keyword(call, "remote_addr")) is not None:
        yield Sink("connect", "address", remote, scope, callee, call, udp=True)


def _request(
    call: ast.Call, name: str, dotted: str, scope: Scope, values: Values
) -> Iterator[Sink]:
    assert isinstance(call.func, ast.Attribute | ast.Name)  # noqa: S101 - it has a name
    owner = dotted.rpartition(".")[0]
    if not (_REQUESTERS.search(owner) or _made_by(call.func, scope, values, _SESSIONS)):
        return
    position = 1 if name in {"request", "stream"} else 0
    given = _at(call, position) or keyword(call, "url")
    if given is not None:
        yield Sink("connect", "url", given, scope, f"{name}()", call)


def _made_by(function: ast.expr, scope: Scope, values: Values, pattern: re.Pattern[str]) -> bool:
    """Whether the owner of a method was made by a class of such a name, without a transport."""
    if not isinstance(function, ast.Attribute):
        return False
    for binding in values.settled(function.value, scope):
        made = binding.value
        if isinstance(made, ast.Await):
            made = made.value
        if isinstance(made, ast.Call):
            name = values.dotted(made.func, binding.scope)
            network = not any(one.arg in {"transport", "app", None} for one in made.keywords)
            if pattern.search(name) and network and "test" not in name.lower():
                return True
    return False


def _spawn(
    call: ast.Call, name: str, scope: Scope, callee: str, *, starred: bool
) -> Iterator[Sink]:
    environment = keyword(call, "env")
    of_os = _OF_OS.fullmatch(name)
    listed: Sequence[ast.expr] | None = None
    first: ast.expr | None = None
    if of_os is not None:
        given = call.args[1:] if name.startswith("spawn") else call.args  # without P_WAIT
        has_one = of_os["env"] or of_os["posix"]
        if environment is None and has_one and len(given) > 2:  # noqa: PLR2004 - path, arguments
            *given, environment = given
        if of_os["how"] == "l":
            listed = _without_argv0(given)
        else:
            first = keyword(call, "argv", "args")
            if first is None and len(given) > 1 and not isinstance(given[0], ast.Starred):
                first = given[1]
    elif name.startswith("create_subprocess_exec") and (len(call.args) > 1 or starred):
        listed = call.args
    else:
        first = _at(call, 0) or keyword(call, "args", "command")
        more = _at(call, 1) or keyword(call, "args")
        if name == "spawn" and first is not None and more is not None and first is not more:
            starred_more = ast.copy_location(ast.Starred(more, ctx=ast.Load()), more)
            listed = [first, starred_more]
    if listed is not None:
        argv = ast.copy_location(ast.List(elts=list(listed), ctx=ast.Load()), call)
        yield Sink("run", "argv", argv, scope, callee, call)
    if first is not None:
        yield Sink("run", "argv", first, scope, callee, call)
        yield Sink("run", "shell", first, scope, callee, call)
    if environment is not None and not isinstance(environment, ast.Starred):
        yield Sink("run", "env", environment, scope, callee, call)


def _without_argv0(given: Sequence[ast.expr]) -> Sequence[ast.expr]:
    """The program and its arguments: of ``execl(path, argv0, ...)``."""
    if len(given) > 1 and isinstance(given[1], ast.Starred):
        return given[1:]
    if given and not isinstance(given[0], ast.Starred):
        return [given[0], *given[2:]]
    return given
