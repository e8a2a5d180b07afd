"""Ports in the commands that tests start: which `portlease lint` sees, and which it does not."""

from __future__ import annotations

import shlex
import time

import pytest

from _lint import findings, ports
from portlease._lint import _commands

BUSY_S = 10
"""Of this process alone: what takes longer grows with a square."""

STARTED = [
    # a number that stands alone
    "python -m http.server 8080",
    "python3 -u -m http.server --bind 127.0.0.1 8080",
    "python2 -m SimpleHTTPServer 8080",
    "python -m smtpd -n -c DebuggingServer localhost:8080",
    "python manage.py runserver 8080",
    "./manage.py runserver --noreload 0.0.0.0:8080",
    "django-admin runserver [::1]:8080",
    "python -m django runserver --settings=app.settings 127.0.0.1:8080",
    "nc -l 8080",
    "nc -lk 127.0.0.1 8080",
    "nc -l 8080 -w 5",
    "ncat -lkp 8080",
    "netcat -u -l 8080",
    "kubectl port-forward svc/web 8080:80",
    "kubectl -n web port-forward svc/web 8080:80 --pod-running-timeout 1000",
    "kubectl --context=here port-forward --address 127.0.0.1 svc/web 8080",
    "nc -l 8080 -w 1000",
    "nc -w 1000 -kl 8080",
    "nc -l -w5 -p 8080",
    "ncat -l --wait 1000 --keep-open 8080",
    "python -m http.server --directory 2024 8080",
    "manage.py runserver -v 2 --noreload 8080",
    "manage.py runserver --verbosity 1000 -6 8080",
    "gdbserver :8080 ./server",
    # behind an option that is the program's own
    "php -S localhost:8080",
    "php -S 0.0.0.0:8080 -t public router.php",
    "openssl s_server -accept 8080 -cert c.pem",
    "openssl s_server -port 8080",
    "openssl s_server -accept localhost:8080 -dtls",
    "ssh -L 8080:db:5432 user@host",
    "ssh -L8080:[::1]:80 host",
    "ssh -fNL 127.0.0.1:8080:host:80 host",
    "ssh -N -L 8080:/run/docker.sock host",
    "ssh -D 8080 host",
    "autossh -D localhost:8080 host",
    "docker run -p 8080:80 nginx",
    "docker run -dp 127.0.0.1:8080:80/tcp nginx",
    "podman run --publish=8080:80 nginx",
    "docker-compose run -p8080:53/udp dns",
    "npx serve -l 8080",
    "python -m debugpy --listen 8080 app.py",
    "waitress-serve --listen=*:8080 app:app",
    "etcd --listen-client-urls http://127.0.0.1:8080",
    "socat TCP-LISTEN:8080,fork EXEC:cat",
    "socat OPENSSL-LISTEN:8080,cert=c.pem -",
    # behind an option that is called after a port
    "flask run -p 8080",
    "flask --app app run --port=8080",
    "iperf3 -s -p 8080",
    "memcached -m 64 -p 8080",
    "server.py --listen-address localhost:8080",
    # behind what starts it
    "sudo -n nc -l 8080",
    "timeout 10 php -S localhost:8080",
    "env -i HOME=/tmp python -m http.server 8080",
    "coverage run -p manage.py runserver 8080",
    "uv run flask run -p 8080",
    "bash -c 'cd public && php -S localhost:8080'",
    "sh -ec 'exec nc -l 8080'",
]

GONE_TO = [
    "nc localhost 8080",
    "nc -w 5 -z 127.0.0.1 8080",
    "telnet localhost 8080",
    "socat - TCP4:127.0.0.1:8080",
    "openssl s_client -connect localhost:8080",
    "iperf3 -c 127.0.0.1 -p 8080",
    "curl -s localhost:8080/health",
    "psql postgresql://me:secret@localhost:8080/db",
    "ssh -p 8080 localhost",
    "bash -c 'until nc -z localhost 8080; do :; done'",
]

NEITHER = [
    # programs of which nothing is known
    "python api.py 8080",
    "node server.js 8080",
    "java -jar server.jar 8080",
    "./server localhost:8080",
    "./server -S localhost:8080",
    "./server -accept 8080",
    "python script.py -L 8080:host:80",
    # a number that is no port
    "nc -l -w 5",
    "python -m http.server -d 2024/site",
    "php -d memory_limit=8080 script.php",
    "ssh -o ServerAliveInterval=8080 host",
    "memcached -m 8080",
    "gdbserver --attach 8080",
    "nc -l -w 8080",
    "nc -l --wait 8080",
    "kubectl port-forward svc/web --pod-running-timeout 8080",
    "python -m http.server --directory 8080",
    "manage.py runserver --verbosity 8080",
    # a subcommand's name that is none
    "pytest -k runserver --maxfail 8080",
    "python -m pytest -k runserver 8080",
    "git commit -m runserver 8080",
    "grep runserver 8080",
    "cat runserver 8080",
    "curl -o runserver 8080",
    "manage.py loaddata runserver 8080",
    "manage.py -k runserver 8080",
    "tox run -e port-forward 8080",
    "echo --port 8080",
    "bash -c 'cd x; kill -p 8080'",
    "timeout 8080 sleep 8080",
    # free ports, and those that are put in
    "python -m http.server 0",
    "nc -l 0",
    "php -S localhost:0",
    "ssh -L 0:host:80 host",
    "docker run -p 0:8080 nginx",
    "docker run -p 8080 nginx",
    "kubectl port-forward svc/web :8080",
    "openssl s_server -accept 0",
    "python -m http.server {port}",
    "php -S localhost:{port}",
    "ssh -L {port}:localhost:8080 host",
    # other machines, and what runs in containers or there
    "nc example.com 8080",
    "telnet example.com 8080",
    "php -S example.com:8080",
    "openssl s_client -connect example.com:8080",
    "ssh -R 8080:localhost:80 host",
    "ssh host nc -l 8080",
    "ssh host openssl s_server -accept 8080",
    "docker run image python -m http.server 8080",
    "docker exec web sh -c 'nc -l 8080'",
    # no command at all
    "php -S 'localhost:8080",
    "",
]


NO_NUMBERS = ["8" * 5000, "\u0668\u0660\u0668\u0660", "8080\u0660"]
"""Of more digits than int() takes, and of others than a program's."""


def _as_list(command: str) -> str:
    return f"subprocess.Popen({shlex.split(command)!r})"


def _as_line(command: str) -> str:
    return f"os.system({command!r})"


@pytest.mark.parametrize("command", STARTED)
def test_a_command_that_starts_a_server_on_a_port(command: str) -> None:
    """PL001, as a list and as a line for the shell."""
    for source in _as_list(command), _as_line(command):
        assert ports(source) == [8080], source
        assert ports(source, "PL002") == []


@pytest.mark.parametrize("how", ["serve", "serve_once", "await aserve", "portlease.aserve"])
def test_a_command_that_portlease_itself_is_to_start(how: str) -> None:
    """Its number is as hard-coded as any, and leased already is another."""
    command = f'{how}(["redis-server", "--port", "8080", "--bind", "{{host}}"])'
    (finding,) = findings(command, "PL001", "PL002")
    assert finding.message == "port 8080 is hard-coded: redis-server is started on it"
    assert finding.remedy == 'write "{port}" in its place'
    assert findings(command.replace("8080", "{port}")) == []


@pytest.mark.parametrize("command", GONE_TO)
def test_a_command_that_goes_to_a_port(command: str) -> None:
    """PL002, as a list and as a line for the shell."""
    for source in _as_list(command), _as_line(command):
        assert ports(source, "PL002") == [8080], source
        assert ports(source) == []


@pytest.mark.parametrize("command", NEITHER)
def test_a_command_that_says_no_port_of_this_machine(command: str) -> None:
    """Nothing is told of it."""
    sources = [_as_line(command)]
    if not command.count("'") % 2:
        sources.append(_as_list(command))
    for source in sources:
        assert findings(source, "PL001", "PL002") == [], source


@pytest.mark.parametrize("command", [*STARTED, *GONE_TO])
def test_a_number_that_no_port_can_be(command: str) -> None:
    """Is none, wherever a command has it, and no reason to fail."""
    for number in NO_NUMBERS:
        other = command.replace("8080", number)
        for source in _as_list(other), _as_line(other):
            assert findings(source, "PL001", "PL002") == []


@pytest.mark.parametrize(
    ("source", "program"),
    [
        ("Popen([sys.executable, '-m', 'http.server', '8080'])", "http.server"),
        ("Popen([sys.executable, 'manage.py', 'runserver', '8080'])", "runserver"),
        ("Popen(['php', '-S', f'{host}:8080'])", "php"),
        ("PORT = 8080\nPopen(['php', '-S', f'localhost:{PORT}'])", "php"),
        ("PORT = 8080\nPopen(['ssh', '-L', '%d:db:%d' % (PORT, port), host])", "ssh"),
        ("PORT = 8080\nPopen(['docker', 'run', '-p', f'{PORT}:{inside}', image])", "docker"),
        ("Popen([*prefix, 'nc', '-l', '8080'])", "nc"),
        ("Popen([f'{folder}/ncat', '-l', '8080'])", "ncat"),
        ("Popen([binary, '--port', '8080'])", "a program"),
        ("os.system('PORT=8080 npm start')", "npm"),
        ("os.system('make; nohup php -S [::]:8080 > php.log 2>&1 &')", "php"),
        ("os.system('''\n  sleep 1\n  nc -l \\\\\n    8080\n''')", "nc"),
        ("pexpect.spawn('php -S localhost:8080')", "php"),
    ],
)
def test_the_program_is_named_that_has_the_port(source: str, program: str) -> None:
    """Behind what starts it, and where parts of the command are not known."""
    (one,) = findings(source, "PL001", "PL002")
    assert one.message.startswith(f"port 8080 is hard-coded: {program} is started on it")


def test_the_place_is_that_of_the_number() -> None:
    """In the word that says it, and in a line within a line."""
    line = "Popen(['bash', '-c', 'cd 1; nc -l 8080'])"
    (one,) = findings(line, "PL001")
    assert (one.column, one.end_column) == (line.index("8080") + 1, line.index("8080") + 5)
    (said,) = _commands.of_argv(["ssh", "-NL", "127.0.0.1:8080:host:80", "host"])
    assert (said.argument, said.at) == (2, len("127.0.0.1:"))


@pytest.mark.parametrize(
    ("command", "udp"),
    [
        ("nc -lu 8080", True),
        ("nc -l 8080", False),
        ("socat UDP4-LISTEN:8080 -", True),
        ("socat TCP4-LISTEN:8080 -", False),
        ("docker run -p 8080:53/udp dns", True),
        ("openssl s_server -dtls1_2 -accept 8080", True),
        ("memcached -u nobody -p 8080", False),
    ],
)
def test_udp_ports_are_told_apart(command: str, *, udp: bool) -> None:
    """By the program's own option, or by the word that says the port."""
    (said,) = _commands.of_line(command)
    assert said.udp is udp


def test_a_line_of_thousands_of_commands() -> None:
    """What grows with their square takes seconds here. Each is told, in its place."""
    line = " & ".join(f"redis-server --port {port}" for port in range(4000, 8000))
    said = list(_commands.of_line(line))
    assert [one.port for one in said] == list(range(4000, 8000))
    assert all(line.startswith(str(one.port), one.at) for one in said)
    started = time.process_time()
    found = findings(f"def test():\n    os.system({line!r})", "PL001")
    assert time.process_time() - started < BUSY_S
    assert [one.message.split()[1] for one in found] == [str(one.port) for one in said]
    assert {one.column for one in found} == {len("    os.system('") + one.at + 1 for one in said}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("os.execv('/bin/r', ['r', '--port', '8080'])", [8080]),
        ("os.execvp('r', ['r', '--port', '8080'])", [8080]),
        ("os.execvp(file='r', args=['r', '--port', '8080'])", [8080]),
        ("os.execvp(CMD[0], CMD)", [8080]),
        ("os.execve('r', ['r', '--port', '8080'], {'PORT': '8081'})", [8080, 8081]),
        ("os.execvpe('r', CMD, {'PORT': '8081'})", [8080, 8081]),
        ("os.execve('r', CMD, env={'PORT': '8081'})", [8080, 8081]),
        ("os.posix_spawn('r', CMD, {'PORT': '8081'})", [8080, 8081]),
        ("os.posix_spawnp('r', CMD, os.environ)", [8080]),
        ("os.spawnv(os.P_WAIT, 'r', CMD)", [8080]),
        ("os.spawnvp(os.P_WAIT, 'r', CMD)", [8080]),
        ("os.spawnve(os.P_NOWAIT, 'r', CMD, {'PORT': '8081'})", [8080, 8081]),
        ("os.spawnlp(os.P_WAIT, 'r', 'r', '--port', '8080')", [8080]),
        ("os.execlp('manage.py', 'manage.py', 'runserver', '8080')", [8080]),
        ("os.execl(sys.executable, 'python', '-m', 'http.server', '8080')", [8080]),
        ("os.execlp('r', *CMD)", [8080]),
        ("os.execle('r', 'r', '--port', '8080', {'PORT': '8081'})", [8080, 8081]),
        ("os.execle('r', 'r', *CMD)", []),
        ("os.execv(*CMD)", []),
        ("pexpect.spawn('r', ['--port', '8080'])", [8080]),
        ("pexpect.spawn('r', args=['--port', '8080'], env={'PORT': '8081'})", [8080, 8081]),
        ("pexpect.spawn('r --port 8080')", [8080]),
        ("pexpect.spawn('grep', ['--port', '8080'])", []),
    ],
)
def test_the_arguments_in_a_list_behind_the_program(call: str, told: list[int]) -> None:
    """As os and pexpect take them; what ends in e is given the environment last."""
    source = f"import os, pexpect\nCMD = ['r', '--port', '8080']\n{call}"
    assert sorted(ports(source)) == told


def test_a_container_engine_has_a_remedy_of_its_own() -> None:
    """Its daemon binds the port, so that `serve` would wait in vain."""
    (one,) = findings("Popen(['docker', 'run', '-p', '8080:80', 'nginx'])", "PL001")
    assert "a portlease.lease() that has stepped aside" in one.remedy
    (one,) = findings("Popen(['docker', 'run', '-p', '8080:53/udp', 'dns'])", "PL001")
    assert 'portlease.lease("udp")' in one.remedy
