"""What is known of the programs that tests start: who is a client, and how each is told its port.

Of a program that is not in `PROGRAMS` only an option that is called after a port says one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from portlease._lint._places import PORT
from portlease._lint._values import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final


class Way(NamedTuple):
    """One way to tell a program a port."""

    value: re.Pattern[str]
    """The argument that says it: the group ``port``, and ``host``, which must be this machine."""
    before: re.Pattern[str] | None = None
    """The argument before it, or the beginning of the same one; None: it stands alone."""
    client: bool = False


class Program(NamedTuple):
    """How a program is told its port."""

    ways: tuple[Way, ...] = ()
    listens: re.Pattern[str] | None = None
    """The option that makes it a server, where it is a client without."""
    datagrams: re.Pattern[str] | None = None
    """The option that makes its ports UDP ports."""
    client: bool = False
    flags: re.Pattern[str] | None = None
    """The options that take no value: behind any other no number stands alone."""

    def goes(self, arguments: Sequence[str]) -> bool:
        """Whether it is a client with these."""
        if self.listens is None:
            return self.client
        return not any(map(self.listens.fullmatch, arguments))

    def stands_alone(self, before: str) -> bool:
        """Whether the argument behind *before* is not the value of an option."""
        return not takes_a_value(before) or (
            self.flags is not None and self.flags.fullmatch(before) is not None
        )


# -w, --wait, -accept; not -w5, --wait=5, -6, and not -- or what is not known.
_OPTION: Final = re.compile(r"--?[A-Za-z](?:[\w.-]*[A-Za-z])?")


def takes_a_value(word: str) -> bool:
    """Whether it is an option whose value may be the next argument."""
    return _OPTION.fullmatch(word) is not None


_HOST: Final = r"(?:(?P<host>\[[0-9a-fA-F:]*\]|[^:/\[\]@\s]*):)"
# Of fewer than four digits a number that stands alone is a timeout or a level.
_PLACE: Final = re.compile(rf"{_HOST}?(?P<port>[0-9]{{4,5}})")
_MAPPED: Final = re.compile(rf"(?:[^:]*:|\[[0-9a-fA-F:]*\]:)?{PORT}:[^:/]+(?:/\w+)?")
_FORWARDED: Final = re.compile(
    rf"{_HOST}?(?P<port>[0-9]{{4,5}}):(?:(?:\[[0-9a-fA-F:]*\]|[^:/]+):[^:/]+|/.*)"
)
_CONNECTED: Final = re.compile(
    rf"(?:TCP|UDP|OPENSSL|SSL)[46]?(?:-CONNECT)?:{_HOST}{PORT}(?:,.*)?", re.IGNORECASE
)


def _behind(option: str, value: re.Pattern[str] = _PLACE) -> Way:
    return Way(value, re.compile(option))


_ALONE: Final = Way(_PLACE)
_BEHIND_A_HOST: Final = Way(
    re.compile(PORT),
    re.compile(rf"localhost|127(?:\.[0-9]+){{3}}|::1|[^-]*{UNKNOWN}.*"),
    client=True,
)
_NC: Final = Program(
    (_ALONE, _behind(r"-\w*p|--source-port"), _BEHIND_A_HOST),
    listens=re.compile(r"-\w*l\w*|--listen"),
    datagrams=re.compile(r"-\w*u\w*|--udp"),
    flags=re.compile(
        r"-[46bCDdFhklNnrStUuvZz]+|--(?:listen|keep-open|udp|ssl|telnet|crlf|nodns|broker|chat|"
        r"send-only|recv-only|no-shutdown|sctp|append-output|verbose)"
    ),
)
_RUNSERVER: Final = Program(
    (_ALONE,),
    flags=re.compile(
        r"--(?:no\w+|no-color|force-color|insecure|ipv6|skip-checks|traceback|i?pdb|pm|threaded|"
        r"keep-meta-shutdown|print-sql(?:-location)?)"
    ),
)
_SSH: Final = Program((_behind(r"-\w*?L", _FORWARDED), _behind(r"-\w*?D")), client=True)

CONTAINERS: Final = frozenset({"docker", "docker-compose", "podman", "nerdctl"})
"""Their other arguments are for what runs in a container."""

PROGRAMS: Final[Mapping[str, Program]] = {
    **dict.fromkeys(
        ("http.server", "SimpleHTTPServer"), Program((_ALONE,), flags=re.compile(r"--cgi"))
    ),
    **dict.fromkeys(("runserver", "runserver_plus"), _RUNSERVER),
    "smtpd": Program((_ALONE,), flags=re.compile(r"-[ndVu]+|--(?:nosetuid|debug|smtputf8)")),
    **dict.fromkeys(("nc", "ncat", "netcat", "nc.openbsd", "nc.traditional"), _NC),
    **dict.fromkeys(("iperf", "iperf3"), Program(listens=re.compile(r"-\w*s\w*|--server"))),
    **dict.fromkeys(("ssh", "autossh"), _SSH),
    **dict.fromkeys(CONTAINERS, Program((_behind(r"-\w*p|--publish", _MAPPED),))),
    **dict.fromkeys(("serve", "debugpy", "waitress-serve"), Program((_behind(r"-l|--listen"),))),
    "php": Program((_behind(r"-S"),)),
    "s_server": Program((_behind(r"--?accept|--?port"),), datagrams=re.compile(r"--?dtls\w*")),
    "telnet": Program((_BEHIND_A_HOST,), client=True),
    "socat": Program((Way(_CONNECTED, client=True),)),
    "port-forward": Program(
        (Way(re.compile(r"(?P<port>[0-9]{4,5})(?::\w+)?")),),
        flags=re.compile(r"--(?:insecure-skip-tls-verify|match-server-version)"),
    ),
    "gdbserver": Program(
        (Way(re.compile(rf"{_HOST}{PORT}")),),
        flags=re.compile(
            r"--(?:attach|debug|remote-debug|once|multi|disable-randomization|no-\w+)"
        ),
    ),
    "etcd": Program(
        (
            _behind(
                r"--?listen-(?:client|peer)-urls",
                re.compile(rf"https?://{_HOST}{PORT}/?"),
            ),
        )
    ),
}
"""By their own names, modules of ``python -m``, and `SUBCOMMANDS`."""

SUBCOMMANDS: Final = frozenset({"runserver", "runserver_plus", "s_server", "port-forward"})
"""Of whatever they are a command of: ``manage.py``, ``django-admin``, ``python -m django``."""
PARENTS: Final = frozenset({"openssl"})
"""Those of `CLIENTS` that have one of these."""

# A port is where they go to.
CLIENTS: Final = frozenset(
    {"redis-cli", "valkey-cli", "curl", "wget", "psql", "mysql", "mysqladmin", "mongo", "mongosh"}
    | {"pg_isready", "pg_dump", "createdb", "dropdb", "scp", "sftp", "ab", "wrk"}
    | {"mosquitto_pub", "mosquitto_sub", "http", "https", "openssl", "rabbitmqadmin", "etcdctl"}
    | {"kcat", "dig", "swaks", "hey", "websocat", "grpcurl", "ssh-keyscan"}
    | {"redis-benchmark", "wait-for-it", "wait-for-it.sh", "wait-for"}
)
# Where a number is something else.
OTHERS: Final = frozenset(
    {"ps", "kill", "pgrep", "pkill", "mkdir", "cp", "tar", "make", "sleep", "pytest", "git", "head"}
    | {"tail", "lsof", "fuser", "ss", "netstat", "iptables", "cc", "gcc", "pip", "echo", "printf"}
    | {"grep", "egrep", "fgrep", "rg", "test", "[", "ls", "cat", "touch", "rm", "mv", "ln", "find"}
    | {"chmod", "chown", "sed", "awk", "which", "man", "tee", "diff", "wc", "sort", "cut", "seq"}
)
# They start what is named behind them.
WRAPPERS: Final = frozenset(
    {"sudo", "env", "nohup", "exec", "setsid", "stdbuf", "timeout", "nice", "time", "strace"}
    | {"xvfb-run", "npx", "bundle", "busybox", "uv", "poetry", "pipenv", "coverage", "run"}
    | {"if", "then", "else", "while", "until", "do", "!"}
)
# They set SO_REUSEADDR, so that they bind beside the hold of leased_port as they are: see
# docs/servers.md. Django's and Flask's servers are http.server's.
SHARING: Final = frozenset(
    {"redis-server", "valkey-server", "nginx", "memcached", "mosquitto", "haproxy", "http.server"}
    | {"uvicorn", "gunicorn", "hypercorn", "sshd", "ncat", "node", "java", "postgres", "php"}
    | {"iperf3", "s_server", "runserver", "flask"}
)
