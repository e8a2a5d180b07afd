"""`portlease audit`: every bind of a tree, in any language, and where its number came from."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from _audited import DATA, audit, python, static_c
from _brokered import need_broker
from _cli import CTRL_C, PORTLEASE, Terminal, environment, started
from _need import need
from _processes import HANG_S, descendants, wait_for, watched

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("the observer is Linux's", allow_module_level=True)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static C program, compiled once."""
    return static_c(tmp_path_factory.mktemp("c"))


# --- what is seen ---------------------------------------------------------------------------------


def test_a_static_c_program(program: Path) -> None:
    """Port, what it got, address, transport, options, program and result of each bind."""
    seen = audit(program, "t18000", "u18001", "r18002", "t18000", "t0")
    assert seen.status == 7
    binds = seen.document["binds"]
    got = [(bind["port"], bind.get("got"), bind["transport"], bind.get("error")) for bind in binds]
    assert got[:4] == [
        (18000, 18000, "tcp", None),
        (18001, 18001, "udp", None),
        (18002, 18002, "tcp", None),
        (18000, None, "tcp", "EADDRINUSE"),
    ]
    port, number, *_ = got[4]
    assert port == 0
    assert number
    # What the program itself says is the same.
    assert f"18000\n18001\n18002\nAddress already in use\n{number}\n" in seen.said
    assert [bind["reuseaddr"] for bind in binds] == [False, False, True, False, False]
    assert {bind["address"] for bind in binds} == {"127.0.0.1"}
    assert {bind["exe"] for bind in binds} == {str(program)}
    assert binds[0]["argv"][:2] == [str(program), "t18000"]
    assert [origin for _, origin, _ in seen.binds] == ["hard-coded"] * 4 + ["kernel"]
    # One finding for each port, however often it was bound.
    assert sorted(one["ports"][0] for one in seen.document["findings"]) == [18000, 18001, 18002]
    assert {one["path"] for one in seen.document["findings"]} == {"binds"}


def test_a_number_that_was_found_free(tmp_path: Path, program: Path) -> None:
    """Found in one process and bound in another: unheld. Bound beside the finder: the kernel's."""
    source = """
        import socket, subprocess, sys
        with socket.socket() as finder:
            finder.bind(("127.0.0.1", 0))
            number = finder.getsockname()[1]
            with socket.socket(type=socket.SOCK_DGRAM) as beside:
                beside.bind(("127.0.0.1", number))
        subprocess.run([sys.argv[1], f"t{number}"], stdin=subprocess.DEVNULL)
    """
    seen = audit(*python(tmp_path, textwrap.dedent(source)), program, cwd=tmp_path)
    assert [origin for _, origin, _ in seen.binds] == ["kernel", "kernel", "unheld"]
    # It is to be mended where it was found.
    assert seen.findings == [("PL003", "program.py", 4)]
    assert "binds bound it" in seen.document["findings"][0]["message"]


def test_forks_shells_and_daemons(tmp_path: Path, program: Path) -> None:
    """Children of a static program, a shell's, and what has left session and parent behind."""
    script = tmp_path / "run.sh"
    script.write_text(
        f"{program} f18010 < /dev/null\n"
        f"{sys.executable} -c 'import socket; socket.create_server((\"127.0.0.1\", 18011))'\n"
        f"(setsid {program} t18012 < /dev/null > {tmp_path}/out &)\n"
        f"until grep -q 18012 {tmp_path}/out; do :; done\n"
        "exit 3\n"
    )
    seen = audit("sh", script, cwd=tmp_path)
    assert seen.status == 3
    assert {port for port, _, _ in seen.binds} == {18010, 18011, 18012}
    by_port = {bind["port"]: bind for bind in seen.document["binds"]}
    assert by_port[18011]["file"] == "<string>"
    # The child that was forked is not its parent, which binds nothing.
    assert by_port[18010]["exe"] == str(program)


def test_node() -> None:
    """A server in JavaScript, on a number and where the kernel chooses."""
    seen = audit(need.program("node"), DATA / "server.js")
    assert seen.status == 0
    assert seen.binds == [(18100, "hard-coded", None), (0, "kernel", None)]
    (finding,) = seen.document["findings"]
    assert (finding["code"], finding["path"], finding["ports"]) == ("PL001", "node", [18100])
    assert "`portlease run -- COMMAND`" in finding["remedy"]  # it has no fixtures


def test_python_tells_file_and_line(tmp_path: Path) -> None:
    """The program's own line, and the library's below it; threads and forks included."""
    source = """\
        import http.server, multiprocessing, threading, socket

        def serve(port):
            http.server.HTTPServer(("127.0.0.1", port), None).server_close()

        if __name__ == "__main__":
            threads = [threading.Thread(target=serve, args=(18020 + n,)) for n in range(3)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            child = multiprocessing.get_context("fork").Process(target=serve, args=(18030,))
            child.start(); child.join()
            socket.socket().bind(("127.0.0.1", 18031))
    """
    seen = audit(*python(tmp_path, textwrap.dedent(source)), cwd=tmp_path)
    binds = {bind["port"]: bind for bind in seen.document["binds"]}
    assert sorted(binds) == [18020, 18021, 18022, 18030, 18031]
    for port in (18020, 18021, 18022, 18030):
        assert (binds[port]["file"], binds[port]["line"]) == (str(tmp_path / "program.py"), 4)
        assert binds[port]["inner_file"].endswith("socketserver.py")
    assert binds[18031]["line"] == 12
    assert "inner_file" not in binds[18031]
    assert seen.findings == [("PL001", "program.py", 4), ("PL001", "program.py", 12)]
    assert seen.document["findings"][0]["ports"] == [18020, 18021, 18022, 18030]


def test_leases_and_servers_inside(tmp_path: Path) -> None:
    """A broker inside is served by the observer; the numbers are known for leases."""
    source = """\
        import socket, sys
        import portlease
        web = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
        with portlease.serve(web, how="broker", label="a web server") as server:
            assert server.how == "broker"
            with socket.create_connection(("127.0.0.1", server.port)): pass
        with portlease.lease(label="mine") as one:
            with socket.create_server(("127.0.0.1", one.port)): pass
        with socket.create_server(("127.0.0.1", one.port)): pass
    """
    seen = audit(*python(tmp_path, textwrap.dedent(source)), cwd=tmp_path)
    assert seen.status == 0, seen.said
    assert [origin for _, origin, _ in seen.binds] == ["lease", "lease", "unheld"]
    by_label = [bind.get("lease") for bind in seen.document["binds"] if not bind.get("hold")]
    assert by_label == ["a web server", "mine", None]
    assert [code for code, _, _ in seen.findings] == ["PL003"]


def test_what_is_not_a_port_passes(tmp_path: Path) -> None:
    """Unix sockets with long names, netlink, wrong arguments: the kernel's own answers."""
    source = """\
        import errno, os, socket
        for name in ("long-enough-for-the-filter", b"\\0an-abstract-name-as-long"):
            socket.socket(socket.AF_UNIX).bind(name)
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0))
        socket.getaddrinfo("127.0.0.1", 1)
        sock = socket.socket()
        elsewhere, here = "192.0.2.1", "127.0.0.1"
        for wrong, code in (elsewhere, errno.EADDRNOTAVAIL), (here, 0), (here, errno.EINVAL):
            try:
                sock.bind((wrong, 18040))
                assert code == 0
            except OSError as error:
                assert error.errno == code, (error, code)
        os.close(sock.detach())
        print("as it should be")
    """
    seen = audit(*python(tmp_path, textwrap.dedent(source)), cwd=tmp_path)
    assert "as it should be" in seen.said
    assert [error for _, _, error in seen.binds] == ["EADDRNOTAVAIL", None, "EINVAL"]


def test_every_interface(tmp_path: Path, program: Path) -> None:
    """Told of a TCP server; not of a socket that only looks for a free port."""
    source = "import socket\nsocket.socket().bind(('', 0))\n"
    found = audit(program, "a0", "t0")
    assert [(code, path) for code, path, _ in found.findings] == [("PL005", "binds")]
    assert audit(*python(tmp_path, source)).findings == []


def test_low_ports_are_the_programs_own_business(program: Path, tmp_path: Path) -> None:
    """An ordinary user is refused a low port by the kernel; root is given it."""
    need.capability("other_user")
    assert audit(program, "t80").binds == [(80, "hard-coded", None)]
    source = """\
        import os, socket
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        try:
            socket.socket().bind(("127.0.0.1", 80))
        except PermissionError:
            print("refused")
    """
    assert "refused" in audit(*python(tmp_path, textwrap.dedent(source))).said


# --- the command is left alone --------------------------------------------------------------------


def test_streams_and_status_are_the_commands() -> None:
    """Standard input is its own, its output too unless JSON takes that, and so is its status."""
    need_broker()
    done = subprocess.run(
        [*PORTLEASE, "audit", "--", "sh", "-c", "cat; echo told >&2; exit 42"],
        input="given",
        capture_output=True,
        text=True,
        env=environment(),
        timeout=HANG_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (42, "given")
    assert done.stderr == "told\nportlease: 0 binds; nothing found\n"


def test_environment_and_signals_are_the_commands(tmp_path: Path) -> None:
    """Nothing is added that shows but what is documented; no signal is ignored or blocked."""
    source = """\
        import os, signal, sys
        added = set(os.environ) - set(sys.argv[1].split())
        print("added", *sorted(added))
        status = open("/proc/self/status").read()
        print("blocked", status.partition("SigBlk:")[2].split()[0])
        print("fds", sorted(map(int, os.listdir("/proc/self/fd")))[:4])
        print("path", [one for one in sys.path if "_audit" in one])
    """
    names = " ".join(environment({"LC_ALL": "C"}))
    command = python(tmp_path, textwrap.dedent(source))
    seen = audit(*command, names, env={"LC_ALL": "C"}, cwd=tmp_path)
    lines = dict(line.partition(" ")[::2] for line in seen.said.splitlines())
    ours = "PORTLEASE_BROKER PORTLEASE_OBSERVED PORTLEASE_TRAIL"
    assert set(lines["added"].split()) - {"PYTHONPATH", "LC_CTYPE"} == set(ours.split())
    assert int(lines["blocked"], 16) == 0
    assert lines["fds"] == "[0, 1, 2, 3]"  # 3: the directory itself
    assert lines["path"] == "[]"


def test_ctrl_c_reaches_the_command() -> None:
    """On a terminal; and the audit is told all the same."""
    need_broker()
    source = (
        "import socket, signal\nsocket.socket().bind(('127.0.0.1', 0))\n"
        "print('up', open('/dev/tty').isatty(), flush=True)\nsignal.pause()"
    )
    with Terminal(["audit", "--", sys.executable, "-c", source]) as terminal:
        terminal.expect("up True")
        terminal.type(CTRL_C)
        terminal.expect("KeyboardInterrupt")
        terminal.expect("1 bind")
        assert terminal.exit_status()[0] == 130


def test_a_signal_for_us_is_passed_on() -> None:
    """SIGTERM to the audit ends the command, with the command's own status."""
    need_broker()
    script = "trap 'echo asked; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    with started("audit", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=HANG_S)
        assert (process.returncode, out) == (9, "asked\n")


def test_our_death_hangs_nothing(program: Path) -> None:
    """SIGKILL to the audit: the command's tree ends, also if it is binding all the time."""
    need_broker()
    source = (
        "import socket\nprint('up', flush=True)\nwhile True: socket.socket().bind(('127.0.0.1', 0))"
    )
    with started("audit", "--", sys.executable, "-c", source) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        tree = descendants(process.pid)
        assert tree
        with watched(tree) as all_ended:
            process.kill()
            assert all_ended() == []
    del program


def test_nothing_is_left(tmp_path: Path) -> None:
    """No trail, no folder, no process, wherever it ended."""
    need_broker()
    env = {"TMPDIR": str(tmp_path)}
    audit("true", env=env)
    assert list(tmp_path.iterdir()) == []
    with started("audit", "--", "sleep", "1000", env=env) as process:
        wait_for(lambda: len(descendants(process.pid)) > 2)
        process.kill()
        process.wait(HANG_S)
    wait_for(lambda: not list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (None, 127, "command not found"),
        ("#!/no/such/interpreter\n", 127, "cannot execute"),
        ("no script\n", 126, "cannot execute"),
    ],
)
def test_a_command_that_cannot_be_executed(
    tmp_path: Path, text: str | None, status: int, said: str
) -> None:
    """One sentence, and the documented exit status."""
    need_broker()
    path = tmp_path / "command"
    if text is not None:
        path.write_text(text)
        path.chmod(0o755)
    done = subprocess.run(
        [*PORTLEASE, "audit", "--", path if text is not None else "no-such-command-at-all"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == status
    assert said in done.stderr.splitlines()[0]


# --- without an observer --------------------------------------------------------------------------


def test_one_audit_in_another_sees_python_alone(tmp_path: Path, program: Path) -> None:
    """The kernel allows one listener a tree: the inner one says so, and the outer sees all."""
    inner = tmp_path / "inner.json"
    source = """\
        import socket, subprocess, sys
        with socket.socket() as finder:
            finder.bind(("127.0.0.1", 0))
            number = finder.getsockname()[1]
        socket.create_server(("127.0.0.1", number)).close()
        socket.create_server(("127.0.0.1", 18050)).close()
        subprocess.run([sys.argv[1], "t18051"], stdin=subprocess.DEVNULL)
    """
    command = " ".join(map(str, [*PORTLEASE, "audit", "--json", "--"]))
    words = " ".join(map(str, [*python(tmp_path, textwrap.dedent(source)), program]))
    seen = audit("sh", "-c", f"{command} {words} > {inner}", cwd=tmp_path)
    assert "only what Python programs bind is seen" in seen.said
    document = json.loads(inner.read_text())
    found = [(bind["port"], bind["origin"]) for bind in document["binds"]]
    assert found[0] == (0, "kernel")
    assert found[1] == (document["binds"][0]["got"], "unheld")
    assert found[2:] == [(18050, "hard-coded")]
    assert [(one["code"], one["line"]) for one in document["findings"]] == [
        ("PL001", 6),
        ("PL003", 3),
    ]
    assert "EBUSY" in document["notes"][0]
    assert [bind["port"] for bind in seen.document["binds"]][-2:] == [18050, 18051]


def test_only_python(program: Path) -> None:
    """It is asked for: no filter, no no_new_privs, and nothing of other programs."""
    seen = audit(program, "t18060", options=("--only-python",))
    assert seen.document["binds"] == []
    shown = "grep -E 'Seccomp:|NoNewPrivs:' /proc/self/status"
    inside = audit("sh", "-c", shown, options=("--only-python",))
    assert "Seccomp:\t0" in inside.said
    assert "--only-python" in inside.document["notes"][0]
