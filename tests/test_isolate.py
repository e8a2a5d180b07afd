"""A command in a network of its own: it is the command itself, and only the network is another."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from _cli import CTRL_C, CTRL_Z, Terminal, portlease
from _isolated import NOBODY, as_user, forwarders, marked, run
from _need import in_new_netns, need
from _processes import HANG_S, status, wait_for
from portlease import _isolate
from portlease._errors import IsolationUnavailableError, UsageError
from portlease._isolate import _command, _inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

if sys.platform != "linux":
    pytest.skip("network namespaces are Linux's", allow_module_level=True)


HERE = str(Path("/proc/self/ns/net").readlink())


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    need.capability("netns")


def as_we_are(command: Sequence[str]) -> list[str]:
    """Whoever runs the tests."""
    return list(command)


EVERYBODY = pytest.mark.parametrize("by", [as_we_are, as_user])
if os.geteuid() != 0:
    EVERYBODY = pytest.mark.parametrize("by", [as_we_are])


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory in which every user may write."""
    with tempfile.TemporaryDirectory(prefix="portlease-test-") as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


FACTS = """\
echo pid $$; echo uid $(id -u); echo cwd $(pwd); echo net $(readlink /proc/self/ns/net)
echo arguments "$@"; cat; echo "lc [$LC_CTYPE]" mark $MARK; grep SigIgn /proc/self/status
touch file; echo err >&2; exit 7
"""


@EVERYBODY
def test_it_is_the_command(by: Callable[[Sequence[str]], list[str]], public: Path) -> None:
    """Same process id, user, directory, environment, streams and status; nothing of ours is left.

    SIGPIPE is not ignored, and LC_CTYPE is not set, both of which Python does at its start.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("LC_")}
    env |= {"LANG": "C", "MARK": "here"}
    command = by(_isolate.command(["sh", "-c", FACTS, "sh", "a b", "--low-ports", "é\udcff"]))
    with subprocess.Popen(
        [word.encode("utf-8", "surrogateescape") for word in command],
        cwd=public,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        out, err = process.communicate(b"stdin\n", timeout=HANG_S)
    assert (process.returncode, err) == (7, b"err\n")
    told = dict(line.split(b" ", 1) for line in out.splitlines() if b" " in line)
    uid = NOBODY if by is as_user else os.getuid()
    assert told[b"pid"] == str(process.pid).encode()
    assert told[b"uid"] == str(uid).encode()
    assert told[b"cwd"] == str(public).encode()
    assert told[b"arguments"] == "a b --low-ports é".encode() + b"\xff"
    assert b"stdin" in out.splitlines()
    assert told[b"lc"] == b"[] mark here"
    assert told[b"net"] != HERE.encode()
    ignored = int(out.split(b"SigIgn:")[1].split()[0], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)
    assert (public / "file").stat().st_uid == uid


# A server on a port that everybody knows, by IPv4 and IPv6, until we say so.
REDIS = """\
redis-server --port "$1" --bind 127.0.0.1 ::1 --save '' --dir "$2" >&2 &
until redis-cli -h 127.0.0.1 -p "$1" ping 2>&- && redis-cli -h ::1 -p "$1" ping 2>&-
do kill -0 $! || exit 9; done
read line
kill $!; wait
"""


@EVERYBODY
def test_two_at_once_on_8080(by: Callable[[Sequence[str]], list[str]], public: Path) -> None:
    """Both have it, on both addresses, and it is free outside."""
    need.program("redis-server")
    need.program("redis-cli")
    command = by(_isolate.command(["sh", "-c", REDIS, "sh", "8080", str(public)]))
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in "46"] == ["PONG\n"] * 2
        for process in processes:
            assert process.communicate("\n", timeout=HANG_S)
        assert [process.returncode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@EVERYBODY
def test_low_ports(by: Callable[[Sequence[str]], list[str]], public: Path) -> None:
    """On request an ordinary user may bind port 80, and without it as little as outside."""
    need.program("redis-server")
    need.program("redis-cli")
    words = ["sh", "-c", REDIS, "sh", "80", str(public)]
    done = run(by(_isolate.command(words, low_ports=True)), stdin="\n")
    assert (done.returncode, done.stdout) == (0, "PONG\nPONG\n"), done.stderr
    setting = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if by is as_user and int(setting.read_text(encoding="ascii")) > 80:
        assert run(by(_isolate.command(words)), stdin="\n").returncode == 9


@EVERYBODY
def test_no_capabilities_are_left(by: Callable[[Sequence[str]], list[str]]) -> None:
    """What the process had in its user namespace goes with exec: an ordinary user stays one."""
    done = run(by(_isolate.command(["grep", "CapEff", "/proc/self/status"])))
    ours = status(os.getpid(), "CapEff")
    assert done.stdout.split()[1] == ("0" * 16 if by is as_user else ours)


def test_one_inside_the_other() -> None:
    """It nests, and each has a network of its own."""
    tell = ["readlink", "/proc/self/ns/net"]
    twice = _isolate.command(["sh", "-c", '"$@"; readlink /proc/self/ns/net', "sh", *tell])
    inner = _isolate.command(_isolate.command(tell))
    found = [run(inner).stdout.strip(), *run(twice).stdout.split()]
    assert len(found) == 3
    assert HERE not in found
    assert found[1] == found[2]


INSIDE = """
import os, socket, struct
def told(what, function):
    try:
        print(what, function())
    except OSError as error:
        print(what, error.errno)
def multicast():
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        one.bind(("", 0))
        one.settimeout(30)
        group = socket.inet_aton("239.1.2.3") + bytes(4)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        two.sendto(b"x", ("239.1.2.3", one.getsockname()[1]))
        return one.recv(9)
def broadcast():
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        one.bind(("", 0))
        one.settimeout(30)
        two.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        two.sendto(b"x", ("255.255.255.255", one.getsockname()[1]))
        return one.recv(9)
def elsewhere():
    with socket.socket() as one:
        one.connect(("192.0.2.77", 9))
told("multicast", multicast)
told("broadcast", broadcast)
told("elsewhere", elsewhere)
with socket.create_server(("::1", 0), family=socket.AF_INET6): pass
"""


def test_what_there_is_inside() -> None:
    """IPv6; multicast and broadcast that stay inside; another host is unreachable at once."""
    need.capability("ipv6")
    done = run(_isolate.command([sys.executable, "-c", INSIDE]))
    assert not done.stderr
    assert done.stdout.splitlines() == ["multicast b'x'", "broadcast b'x'", "elsewhere 101"]


MEET = """
import socket
with socket.create_server(("192.0.2.1", 0)) as one:
    socket.create_connection(one.getsockname()).close()
    print("met")
"""


def test_this_machines_own_addresses_are_inside() -> None:
    """A server on the machine's address, and a client of it, find each other inside."""
    need.capability("root")
    need.program("ip")
    done = in_new_netns(
        """
        import subprocess, sys
        subprocess.run("ip addr add 192.0.2.1/24 dev lo", shell=True, check=True)
        sys.exit(subprocess.run(sys.argv[1:]).returncode)
        """,
        *_isolate.command([sys.executable, "-c", MEET]),
    )
    assert (done.returncode, done.stdout) == (0, "met\n"), done.stderr


def test_settings_are_carried_over() -> None:
    """A new namespace has the kernel's defaults; this one has what the one outside has."""
    names = ("ip_local_port_range", "ip_unprivileged_port_start")
    inner = _isolate.command(["cat", *(f"/proc/sys/net/ipv4/{name}" for name in names)])
    done = in_new_netns(
        "import subprocess, sys\n"
        "open('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'w').write('700')\n"
        f"sys.exit(subprocess.run({inner!r}).returncode)",
        ephemeral=(40000, 40099),
    )
    assert done.stdout.split() == ["40000", "40099", "700"], done.stderr


# --- signals and terminals ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_are_the_commands(number: signal.Signals) -> None:
    """The process that was started dies of the signal, as the command alone would."""
    command = _isolate.command(["sh", "-c", "echo ready; exec sleep 1000"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(HANG_S) == -number


def test_a_signal_before_the_command() -> None:
    """One that comes while the interpreter is still there ends it silently, too."""
    for _ in range(3):
        with subprocess.Popen(
            _isolate.command(["sleep", "1000"]), stderr=subprocess.PIPE
        ) as process:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=HANG_S)
        assert (process.returncode, err) == (-signal.SIGTERM, b"")


def test_what_was_ignored_stays_so() -> None:
    """As nohup(1) has it."""
    done = run(
        ["nohup", *_isolate.command(["grep", "SigIgn", "/proc/self/status"])],
    )
    assert int(done.stdout.split()[1], 16) & 1 << signal.SIGHUP - 1


def test_the_terminal_is_the_commands() -> None:
    """At its foreground; Ctrl-Z stops it, fg goes on with it, Ctrl-C ends it; one process."""
    script = "tty; echo pid $$; read line; echo got $line; exec sleep 1000"
    with Terminal(["isolate", "-q", "--", "sh", "-c", script]) as terminal:
        assert "/dev/pts/" in terminal.expect("pid ")
        pid = int(terminal.expect("\n"))
        terminal.type(CTRL_Z)
        terminal.expect("[stopped by 20]")
        wait_for(lambda: status(pid, "State").startswith("T"))
        terminal.type("fg\n")
        terminal.type("it back\n")
        terminal.expect("got it back")
        wait_for(lambda: status(pid, "Name") == "sleep")
        terminal.type(CTRL_C)
        code, _ = terminal.exit_status()
    assert code == -signal.SIGINT


def test_its_death_frees_the_network() -> None:
    """SIGKILL, and no process of ours is left beside the command's own, nor in its place."""
    mark = secrets.token_hex(8)
    script = "echo ready; sleep 1000 & exec sleep 1000"
    with subprocess.Popen(
        _isolate.command(["sh", "-c", script]),
        env={**os.environ, "MARK": mark},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_for(lambda: sorted(marked(mark).values()) == ["sleep", "sleep"])
        assert process.pid in marked(mark)
        os.killpg(process.pid, signal.SIGKILL)
    wait_for(lambda: not marked(mark))


def test_inherited_sockets_stay_outside() -> None:
    """A socket that it inherits is still one of the network where it was made."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = (
            "import socket, sys\n"
            "with socket.socket(fileno=int(sys.argv[1])) as one:\n"
            "    one.accept()[0].sendall(b'from inside')"
        )
        number = str(server.fileno())
        with (
            subprocess.Popen(
                _isolate.command([sys.executable, "-c", script, number]),
                pass_fds=[server.fileno()],
            ) as process,
            socket.create_connection(server.getsockname()) as client,
        ):
            assert client.recv(99) == b"from inside"
            assert process.wait(HANG_S) == 0


# --- the command line -----------------------------------------------------------------------------


def test_it_says_what_will_not_work_before_the_run() -> None:
    """A sentence, and each variable that leads to a loopback service nobody asked to reach."""
    env = {"DATABASE_URL": "postgres://me@localhost:5432/x", "OTHER": "1.127.0.0.1:80"}
    done = portlease("isolate", "--", "sh", "-c", "echo the command >&2; exit 3", env=env)
    assert (done.returncode, done.stdout) == (3, "")
    *said, last = done.stderr.splitlines()
    assert last == "the command"
    assert any("DATABASE_URL" in line and "--reach localhost:5432" in line for line in said)
    assert "out of its reach" in said[-1]
    assert not any("OTHER" in line for line in said)
    done = portlease("isolate", "-q", "--", "sh", "-c", "echo quiet >&2", env=env)
    assert done.stderr == "quiet\n"


def test_the_environment_of_the_command_line_is_the_commands() -> None:
    """Through two interpreters, PEP 538 leaves no trace."""
    env = {name: "" for name in os.environ if name.startswith("LC_")} | {"LANG": "C"}
    done = portlease("isolate", "-q", "--", "env", env=env)
    set_here = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert "LC_CTYPE" not in set_here - set(env)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--", "no-such-program"], 127, "command not found; install it, or"),
        (["--", "./no-such-program"], 127, "no such file; install it, or correct the path"),
        (["--", "/etc/passwd"], 126, "cannot be executed"),
        ([], 2, "there is no command; it comes last: -- COMMAND ARGS"),
        (["--reach", "nothing", "--", "true"], 2, "names no service"),
        (["--reach", "::1:80", "--", "true"], 2, "in brackets"),
        (["--reach", "0.0.0.0:80", "--", "true"], 2, "no host"),
        (["--reach", "1:70000", "--", "true"], 2, "names no service"),
        (["--check", "--", "true"], 2, "runs no command"),
        (["--json", "--", "true"], 2, "--check"),
    ],
)
def test_wrong_calls(words: list[str], code: int, text: str) -> None:
    """Each with its status and one line that says what is wrong."""
    done = portlease("isolate", *words)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_check() -> None:
    """It only tries, and says by which rights."""
    how = _isolate.require(low_ports=True, reach=["127.0.0.1:1"])
    assert how == ("root" if os.geteuid() == 0 else "user")
    done = portlease("isolate", "--check", "--json")
    assert (done.returncode, done.stdout) == (0, f'{{"available": true, "how": "{how}"}}\n')


# --- the library ----------------------------------------------------------------------------------


def test_nothing_is_done_by_asking_for_the_command() -> None:
    """It is a list of words; and an empty command is refused."""
    assert _isolate.command(["a", Path("b")])[-3:] == ["--", "a", "b"]
    with pytest.raises(UsageError, match="no command"):
        _isolate.command([])


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("5432", ("127.0.0.1",)),
        ("localhost:1", ("127.0.0.1", "::1")),
        ("[::1]:1", ("::1",)),
        ("10.9.8.7:1", ("10.9.8.7",)),
    ],
)
def test_what_is_to_be_reached(text: str, addresses: tuple[str, ...]) -> None:
    """A port is 127.0.0.1's; localhost is both addresses."""
    assert _command.parse(text).addresses == addresses


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "9" * 5000, "\u0665", "-1", "a:", ":1", "::1:5"]
)
def test_what_is_no_service(text: str) -> None:
    """It says what one looks like."""
    with pytest.raises(UsageError, match=r"HOST:PORT|in brackets"):
        _command.parse(text)


def test_our_own_network() -> None:
    """It has a number; and this process has no forwarder."""
    assert _inside.network() == Path("/proc/self/ns/net").stat().st_ino
    assert not _isolate.can_reach()
    with pytest.raises(IsolationUnavailableError, match="no forwarder"):
        _isolate.reach("127.0.0.1", 1)


def test_one_killed_while_it_starts_leaves_nothing() -> None:
    """Whenever it is killed, no network but ours is left of it."""
    marks = []
    for _ in range(5):
        mark = secrets.token_hex(8)
        marks.append(mark)
        with subprocess.Popen(
            _isolate.command(["sleep", "1000"], reach=["1"]),
            env={**os.environ, "MARK": mark},
            stderr=subprocess.DEVNULL,
        ) as process:
            process.kill()
    wait_for(lambda: not any(map(forwarders, marks)))
