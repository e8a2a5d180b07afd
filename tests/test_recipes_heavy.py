"""The recipes for the large servers, each used for real: queries, messages, keys.

As whoever runs the tests (root's servers become another user by themselves), and as an ordinary
user, whose process is killed in the end.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pika  # type: ignore[import-untyped] # it has no types
import pytest

import portlease
from _need import need
from _processes import HANG_S, status, wait_for, watched
from _recipes import folder_for_homes, marked
from portlease import recipes
from portlease.recipes import _login, _mould
from portlease.recipes._account import unprivileged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Final

NOBODY: Final = 65534
PASSWORD: Final = "it's: %41 {host} @ \\"  # noqa: S105 - nobody's

PROGRAMS: Final = {
    "etcd": ("etcd", "etcdctl"),
    "mariadb": ("mariadbd", "mariadb-install-db", "mariadb"),
    "postgresql": ("postgres", "initdb", "psql"),
    "rabbitmq": ("rabbitmq-server", "erl", "epmd"),
}


# --- the machine --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files, for this test alone, that all may enter; empty in the end.

    (pytest's own is closed to other users.) There is a space in its name, as in many a person's.
    Nothing that mentions it is left running, either.
    """
    del tmp_path  # only so that it is made before, and elsewhere
    with folder_for_homes(monkeypatch, prefix="p l-") as path:
        yield path


@pytest.fixture
def moulds(monkeypatch: pytest.MonkeyPatch) -> dict[object, object]:
    """Those that are kept; none yet."""
    kept: dict[object, object] = {}
    monkeypatch.setattr("portlease.recipes._mould._moulds", kept)
    return kept


def names_in(folder: Path) -> list[str]:
    """What is in it, sorted."""
    return sorted(path.name for path in folder.iterdir())


def needs(name: str) -> None:
    """Skip or fail the test where the programs of a recipe are not installed."""
    for program in PROGRAMS[name]:
        need.program(program)


def runs_as(server: recipes.RecipeServer, user: str) -> None:
    """The server runs as *user*, if we are root, and as ourselves if not."""
    uids = set()
    for pid in server.process.tree():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            uids.add(status(pid, "Uid").split()[1])
    if os.geteuid() != 0:
        assert uids == {str(os.geteuid())}
    else:
        account = unprivileged(user)
        assert account is not None
        assert account.uid != 0
        assert uids == {str(account.uid)}


def shared_memory(column: int = 1) -> set[int]:
    """The System V shared memory of the machine (proc(5)): its numbers, or (0) its keys."""
    lines = Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()
    return {int(line.split()[column]) % 2**32 for line in lines[1:]}


def shared_memory_of(home: Path) -> int:
    """The number of that of a PostgreSQL: on the seventh line of its file."""
    lines = (home / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    return int(lines[6].split()[1])


# --- clients ------------------------------------------------------------------------------------


def run(env: Mapping[str, str], *argv: str, fails: bool = False) -> str:
    """Run a client to its end, which is a good one unless it *fails*; return what it said."""
    done = subprocess.run(
        [need.program(argv[0]), *argv[1:]],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (done.returncode != 0) is fails, done.stdout
    return done.stdout.strip()


def psql(env: Mapping[str, str], sql: str) -> str:
    """What PostgreSQL's own client is answered, told by the environment alone."""
    return run(env, "psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql)


def mariadb(env: Mapping[str, str], sql: str) -> str:
    """What MariaDB's own client is answered."""
    database, user = env["MYSQL_DATABASE"], env["MYSQL_USER"]
    return run(env, "mariadb", "--no-defaults", "-u", user, "-D", database, "-BNe", sql)


def http(
    url: str, question: object = None, *, login: tuple[str, str] | None = None
) -> dict[str, Any]:
    """What HTTP answers in JSON, no proxy in between."""
    request = urllib.request.Request(url)  # noqa: S310 - our own server's
    if question is not None:
        request.data = json.dumps(question).encode()
    if login is not None:
        word = base64.b64encode(":".join(login).encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=HANG_S) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def text64(text: str) -> str:
    """*text* as etcd's gateway takes it."""
    return base64.b64encode(text.encode()).decode()


# --- what holds for several ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["etcd", "mariadb", "postgresql"])
def test_three_side_by_side(name: str) -> None:
    """Each has ports, a home and processes of its own, and when they are stopped none is left."""
    needs(name)
    start: Callable[[], recipes.RecipeServer] = getattr(recipes, name)
    with start() as one, start() as two, start() as three:
        every = [one, two, three]
        ports = [port for server in every for port in server.server.ports.values()]
        assert len(set(ports)) == len(ports)
        assert len({server.url for server in every}) == 3
        assert len({server.home for server in every}) == 3
        with watched([pid for server in every for pid in server.process.tree()]) as wait_all:
            for server in every:
                server.stop()
                assert not server.home.exists()
            assert wait_all() == []
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass


# It starts a server, says what a client must know, and goes on until it is killed.
STRANGER: Final = """
import json, os, sys
from portlease import recipes

with getattr(recipes, sys.argv[1])(**json.loads(sys.argv[2])) as server:
    about = {"env": server.env, "home": str(server.home), "tree": server.process.tree()}
    about["url"] = getattr(server, "management_url", server.url)
    about["login"] = [getattr(server, "user", ""), getattr(server, "password", "")]
    print(json.dumps(about), flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def strange_process(base: Path, name: str, options: object) -> Iterator[subprocess.Popen[bytes]]:
    """An ordinary user's process that starts a server. Killed in the end, and nothing is left."""
    python, identity = sys.executable, {}
    if os.geteuid() == 0:
        base.chmod(0o1777)
        need.capability("other_user")
        python = need.everybodys_python()
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    with subprocess.Popen(
        [python, "-c", STRANGER, name, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        env={
            "PATH": os.environ["PATH"],
            "TMPDIR": str(base),
            "HOME": "/nonexistent",
            "PYTHONPATH": str(Path(portlease.__file__).parents[1]),
        },
        **identity,  # type: ignore[call-overload] # mypy does not look into it
    ) as process:
        try:
            yield process
        finally:
            everything = marked(base)
            process.kill()
    with watched(everything) as wait_all:
        assert wait_all() == []
    assert list(base.iterdir()) == []


@contextlib.contextmanager
def stranger(base: Path, name: str, **options: object) -> Iterator[dict[str, Any]]:
    """What a client must know of a server that such a process has started."""
    with contextlib.ExitStack() as outlives:
        with strange_process(base, name, options) as process:
            assert process.stdout is not None
            about: dict[str, Any] = json.loads(process.stdout.readline())
            wait_all = outlives.enter_context(watched(about["tree"]))
            yield about
        assert wait_all() == []


def test_an_ordinary_users_postgresql_and_its_users_death(base: Path) -> None:
    """It is used, and killed with the process that started it: nothing is left of either."""
    needs("postgresql")
    with stranger(base, "postgresql") as server:
        assert psql(server["env"], "SELECT 6 * 7") == "42"
        segment = shared_memory_of(Path(server["home"]))
        assert segment in shared_memory()
    assert segment not in shared_memory()


def test_our_death_while_initdb_runs_leaves_nothing(base: Path) -> None:
    """Not even its shared memory, though what made that does not end until it is killed."""
    needs("postgresql")

    found: list[int] = []

    def stopped() -> bool:
        """Stop the one that has made it; its key is the number of its folder's inode."""
        inodes = {path.stat().st_ino % 2**32 for path in base.glob("portlease-*/postgresql/data")}
        for row in Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]:
            key, _, _, _, maker, *_ = map(int, row.split())
            if key % 2**32 in inodes:
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    os.kill(maker, signal.SIGSTOP)
                    wait_for(lambda: status(maker, "State")[0] in "TZX")  # noqa: B023 - at once
                    if key % 2**32 in shared_memory(0):
                        found.append(key % 2**32)
                        return True
                    os.kill(maker, signal.SIGCONT)  # it was about to end
        return False

    with strange_process(base, "postgresql", {}):
        wait_for(stopped)
    assert found[0] not in shared_memory(0)


def test_an_ordinary_users_mariadb_and_its_users_death(base: Path) -> None:
    """It is used, and killed with the process that started it: nothing is left of either."""
    needs("mariadb")
    with stranger(base, "mariadb") as server:
        assert mariadb(server["env"], "SELECT 6 * 7") == "42"


def test_an_ordinary_users_etcd_and_its_users_death(base: Path) -> None:
    """It is used, and killed with the process that started it: nothing is left of either."""
    needs("etcd")
    with stranger(base, "etcd") as server:
        assert run(server["env"], "etcdctl", "put", "key", "value") == "OK"


def test_an_ordinary_users_rabbitmq_and_its_users_death(base: Path) -> None:
    """It is used over HTTP, and killed with the process that started it: nothing is left."""
    needs("rabbitmq")
    plugins = ["rabbitmq_management", "rabbitmq_prometheus", "rabbitmq_web_stomp"]
    with stranger(base, "rabbitmq", plugins=plugins) as server:
        user, password = server["login"]
        url = f"{server['url']}/api"
        message = {"properties": {}, "routing_key": "letters", "payload": "hello"}
        message["payload_encoding"] = "string"
        publish = f"{url}/exchanges/%2F/amq.default/publish"
        assert http(publish, message, login=(user, password)) == {"routed": False}
        listeners = http(f"{url}/overview", login=(user, password))["listeners"]
        assert {one["ip_address"] for one in listeners} <= {"127.0.0.1", "::"}


# --- PostgreSQL ---------------------------------------------------------------------------------


def test_postgresql_answers_queries() -> None:
    """From the start, after a restart and after a crash, with all that was committed."""
    needs("postgresql")
    sql = "CREATE TABLE numbers (n int);\nCOPY numbers FROM STDIN;\n1\n2\n\\.\n"
    with recipes.postgresql(init_sql=sql) as server:
        runs_as(server, "postgres")
        assert psql(server.env, "SELECT sum(n) FROM numbers") == "3"
        server.restart()
        assert psql(server.env, "INSERT INTO numbers VALUES (3) RETURNING n").startswith("3")
        segment = shared_memory_of(server.home)
        server.kill()
        assert segment not in shared_memory()
        server.restart()
        assert run({}, "psql", server.url, "-Atc", "SELECT sum(n) FROM numbers") == "6"
        assert names_in(server.home) == ["data", "login.json", "pg_hba.conf"]


def test_postgresql_is_made_as_it_is_wished_for(base: Path) -> None:
    """Names, password and parameters, whatever characters they have."""
    needs("postgresql")
    file = base / "init.sql"
    file.write_text("CREATE TABLE here (n int);", encoding="utf-8")
    with recipes.postgresql(
        database='my "own" {port} % base',
        user="a user/@",
        password=PASSWORD,
        options={"cluster_name": "name of {port}", "max_connections": 7, "jit": False},
        init_sql=file,
    ) as server:
        file.unlink()
        query = "SELECT current_database(), current_user, count(*) FROM here"
        shown = """my "own" {port} % base|a user/@|0"""
        assert psql(server.env, query) == shown
        assert run({}, "psql", server.url, "-Atc", query) == shown
        assert psql(server.env, "SHOW cluster_name") == "name of {port}"
        assert psql(server.env, "SHOW max_connections") == "7"
        assert psql(server.env, "SHOW jit") == "off"
        assert psql(server.env, "SELECT lower('ÄÖ')") == "äö"


def test_postgresql_lets_nobody_in_without_the_password() -> None:
    """Another user of the machine sees the port, and no more."""
    needs("postgresql")
    with recipes.postgresql() as server:
        said = run(server.env | {"PGPASSWORD": "wrong"}, "psql", "-c", "SELECT 1", fails=True)
        assert "password authentication failed" in said


def test_postgresql_says_what_is_wrong_with_the_sql() -> None:
    """In psql's words; nothing is left behind."""
    needs("postgresql")
    with pytest.raises(portlease.ServerDiedError, match=r"(?s)psql.*syntax error.*NONSENSE"):
        recipes.postgresql(init_sql="NONSENSE;")


def test_postgresql_says_what_is_wrong_with_a_parameter() -> None:
    """In its own words; nothing is left behind."""
    needs("postgresql")
    with pytest.raises(portlease.ServerDiedError, match="unrecognized configuration parameter"):
        recipes.postgresql(options={"nonsense": 1})


def test_postgresql_uses_a_home_again(base: Path) -> None:
    """With its data and password; not for other names, and not one that it did not make."""
    needs("postgresql")
    home = base / "home"
    with recipes.postgresql(home=home, init_sql="CREATE TABLE kept (n int)") as server:
        first = server.env
    with recipes.postgresql(home=home, init_sql="NONSENSE;") as server:
        assert psql(server.env, "SELECT count(*) FROM kept") == "0"
        assert server.env["PGPASSWORD"] == first["PGPASSWORD"]
    with pytest.raises(portlease.UsageError, match="made with database: 'test'; leave database="):
        recipes.postgresql(home=home, database="other")
    with pytest.raises(portlease.UsageError, match="made with password: another one"):
        recipes.postgresql(home=home, password=PASSWORD)
    (home / "login.json").unlink()
    with pytest.raises(portlease.UsageError, match="did not make, or did not finish"):
        recipes.postgresql(home=home)
    shutil.rmtree(home)


def test_postgresql_is_copied_from_the_second_on(moulds: dict[object, object]) -> None:
    """What initdb made is kept in memory: two have one identifier, as nothing else could."""
    needs("postgresql")
    found = set()
    for _ in range(2):
        with recipes.postgresql() as server:
            found.add(psql(server.env, "SELECT system_identifier FROM pg_control_system()"))
            data = server.home / "data"
            assert {path.stat().st_uid for path in data.rglob("*")} == {data.stat().st_uid}
            assert {path.stat().st_mode & 0o077 for path in data.rglob("*")} == {0}
    assert len(found) == len(moulds) == 1


def test_postgresql_has_the_locale_that_it_is_given() -> None:
    """And not that of a copy."""
    needs("postgresql")
    with recipes.postgresql(locale="C") as server:
        assert psql(server.env, "SELECT lower('ÄÖ')") == "ÄÖ"


# --- MariaDB ------------------------------------------------------------------------------------


def test_mariadb_answers_queries() -> None:
    """From the start, after a restart and after a crash, with all that was committed."""
    needs("mariadb")
    sql = "CREATE TABLE numbers (n int);\nINSERT INTO numbers VALUES (1), (2);\nDELIMITER //\n"
    sql += "CREATE PROCEDURE total() BEGIN SELECT sum(n) FROM numbers; END //\n"
    with recipes.mariadb(init_sql=sql) as server:
        runs_as(server, "mysql")
        assert mariadb(server.env, "CALL total()") == "3"
        server.restart()
        mariadb(server.env, "INSERT INTO numbers VALUES (3)")
        server.kill()
        server.restart()
        assert mariadb(server.env, "CALL total()") == "6"
        assert names_in(server.home) == ["data", "login.json"]


def test_mariadb_is_made_as_it_is_wished_for(base: Path) -> None:
    """Names, password and variables, whatever characters they have; and by its Unix socket, too."""
    needs("mariadb")
    file = base / "init.sql"
    file.write_text("CREATE TABLE here (n int);", encoding="utf-8")
    with recipes.mariadb(
        database="my `own` {port} % base",
        user="o'user/@",
        password=PASSWORD,
        options={"max_connections": 17, "log_bin_trust_function_creators": True},
        init_sql=file,
    ) as server:
        file.unlink()
        query = "SELECT database(), current_user(), count(*), @@max_connections FROM here"
        shown = "my `own` {port} % base\to'user/@@%\t0\t17"
        assert mariadb(server.env, query) == shown
        assert mariadb(server.env, "SELECT @@log_bin_trust_function_creators") == "1"
        locally = ["--protocol=socket", f"--socket={server.socket}", f"--user={server.user}"]
        words = ["mariadb", "--no-defaults", *locally, "-D", server.database, "-BNe", query]
        assert run(server.env, *words) == shown
        assert server.url == (
            "mysql://o%27user%2F%40:it%27s%3A%20%2541%20%7Bhost%7D%20%40%20%5C"
            f"@127.0.0.1:{server.port}/my%20%60own%60%20%7Bport%7D%20%25%20base"
        )


def test_mariadb_lets_nobody_in_without_the_password() -> None:
    """Another user of the machine sees the port, and no more; there is no other account."""
    needs("mariadb")
    with recipes.mariadb(user="me") as server:
        for user in ("me", "root", ""):
            env = server.env | {"MYSQL_PWD": "wrong"}
            words = ["--no-defaults", f"--user={user}", "-e", "SELECT 1"]
            assert "Access denied" in run(env, "mariadb", *words, fails=True)


def test_mariadb_says_what_is_wrong() -> None:
    """With the SQL, in the client's words, and with a variable, in its own; nothing is left."""
    needs("mariadb")
    with pytest.raises(portlease.ServerDiedError, match=r"(?s)mariadb.*SQL syntax.*NONSENSE"):
        recipes.mariadb(init_sql="NONSENSE;")
    with pytest.raises(portlease.ServerDiedError, match="unknown variable 'nonsense=1'"):
        recipes.mariadb(options={"nonsense": 1})


def test_mariadb_uses_a_home_again(base: Path) -> None:
    """With its data and password."""
    needs("mariadb")
    home = base / "home"
    with recipes.mariadb(home=home, init_sql="CREATE TABLE kept (n int)") as server:
        first = server.env
    with recipes.mariadb(home=home, init_sql="NONSENSE;") as server:
        assert mariadb(server.env, "SELECT count(*) FROM kept") == "0"
        assert server.env["MYSQL_PWD"] == first["MYSQL_PWD"]
    shutil.rmtree(home)


# --- etcd ---------------------------------------------------------------------------------------


def test_etcd_puts_and_gets() -> None:
    """By its JSON gateway and by etcdctl; what it has acknowledged survives restart and crash."""
    needs("etcd")
    with recipes.etcd() as server:
        http(f"{server.url}/v3/kv/put", {"key": text64("key"), "value": text64("value")})
        for crash in (False, True):
            if crash:
                server.kill()
            server.restart()
            answer = http(f"{server.url}/v3/kv/range", {"key": text64("key")})
            assert base64.b64decode(answer["kvs"][0]["value"]) == b"value"
        assert run(server.env, "etcdctl", "get", "key") == "key\nvalue"
        assert "is healthy" in run(server.env, "etcdctl", "endpoint", "health")
        assert server.server.ports.keys() == {"port", "peer"}


def test_etcd_on_another_address() -> None:
    """One that has to be written in brackets in a URL."""
    needs("etcd")
    need.capability("ipv6")
    with recipes.etcd(host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert run(server.env, "etcdctl", "put", "key", "value") == "OK"


def test_etcd_says_what_it_does_not_understand() -> None:
    """The error has its own words, and nothing is left behind."""
    needs("etcd")
    with pytest.raises(portlease.ServerDiedError, match="not defined: -nonsense"):
        recipes.etcd(args=["--nonsense"])


# --- RabbitMQ -----------------------------------------------------------------------------------


def test_rabbitmq_passes_messages_on() -> None:
    """One that is to survive a restart does; name server, node and plugins have leased ports."""
    needs("rabbitmq")
    plugins = [f"rabbitmq_{name}" for name in ("mqtt", "stomp", "stream")]
    with recipes.rabbitmq(
        plugins=plugins,
        vhost="a/b #",
        user="a user/@",
        password=PASSWORD,
        options={"channel_max": 7},
    ) as server:
        runs_as(server, "rabbitmq")
        names = {"port", "dist", "epmd", "mqtt", "stomp", "stream"}
        assert server.server.ports.keys() == names
        assert listening(server) == set(server.server.ports.values())
        with channel(server) as letters:
            letters.queue_declare("letters", durable=True)
            kept = pika.BasicProperties(delivery_mode=2)
            letters.basic_publish("", "letters", b"hello", kept)
        tree = server.process.tree()
        with watched(tree) as wait_all:
            server.restart()
            assert wait_all() == []  # epmd, which made itself a daemon, with the others
        with channel(server) as letters:
            assert letters.basic_get("letters", auto_ack=True)[2] == b"hello"
        with pytest.raises(portlease.UsageError, match="give plugins="):
            server.management_url  # noqa: B018 - to read it is the test
        assert server.env["ERL_EPMD_PORT"] == str(server.server.ports["epmd"])
        server.kill()


@contextlib.contextmanager
def channel(server: recipes.RabbitMQServer) -> Iterator[Any]:
    """A channel to it, each message confirmed."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(server.url))) as connection:
        letters = connection.channel()
        letters.confirm_delivery()
        yield letters


def listening(server: recipes.RecipeServer) -> set[int]:
    """The TCP ports on which something of its tree listens (proc(5), /proc/net/tcp)."""
    sockets = set()
    for pid in server.process.tree():
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    sockets.add(str(fd.readlink()))
    found = set()
    for file in ("tcp", "tcp6"):
        lines = Path(f"/proc/net/{file}").read_text(encoding="ascii").splitlines()[1:]
        for words in map(str.split, lines):
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add(int(words[1].rpartition(":")[2], 16))
    return found


def test_rabbitmq_wants_an_ipv4_address() -> None:
    """Erlang's nodes would have to be told otherwise."""
    needs("rabbitmq")
    with pytest.raises(portlease.UsageError, match="no IPv4 address"):
        recipes.rabbitmq(host="::1")


# --- the copies ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("moulds")
def test_a_copy_is_as_the_first_was(tmp_path: Path) -> None:
    """Contents, sizes and modes, whatever the umask; and, if we are root, another user's."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    (first / "folder" / "empty").mkdir(parents=True)
    (first / "folder").chmod(0o2750)
    contents = {
        "zeros": b"\0" * 5000,
        "folder/text": b"text",
        "folder/both": b"x\0y\0\0",
        "none": b"",
    }
    for name, content in contents.items():
        (first / name).write_bytes(content)
        (first / name).chmod(0o666)
    copy.mkdir()
    account = unprivileged()
    assert not _mould.fill(("key",), copy, account)
    _mould.keep(("key",), first)
    umask = os.umask(0o077)
    try:
        assert _mould.fill(("key",), copy, account)
    finally:
        os.umask(umask)
    assert {name: (copy / name).read_bytes() for name in contents} == contents
    names = {str(path.relative_to(first)) for path in first.rglob("*")}
    assert {str(path.relative_to(copy)) for path in copy.rglob("*")} == names
    uid = os.geteuid() if account is None else account.uid
    for name in names:
        assert (copy / name).stat().st_mode == (first / name).stat().st_mode
        assert (copy / name).stat().st_uid == uid
    with pytest.raises(FileExistsError):
        _mould.fill(("key",), copy, account)


def test_few_are_kept(moulds: dict[object, object], tmp_path: Path) -> None:
    """The first goes first."""
    for number in range(5):
        _mould.keep((number,), tmp_path)
    assert list(moulds) == [(2,), (3,), (4,)]


def test_another_version_is_told_from_the_first(tmp_path: Path) -> None:
    """A program that was replaced while we live is another one."""
    program = tmp_path / "initdb"
    program.write_text("1", encoding="ascii")
    first = _mould.identity(program)
    assert first == _mould.identity(program)
    (tmp_path / "new").write_text("2", encoding="ascii")
    (tmp_path / "new").replace(program)
    assert first != _mould.identity(program)


def test_what_is_private_is_a_new_file(tmp_path: Path) -> None:
    """A link that somebody has put there is replaced, and not followed."""
    other, link = tmp_path / "other", tmp_path / "link"
    link.symlink_to(other)
    _login.write_private(link, "secret", unprivileged())
    assert not other.exists()
    assert not link.is_symlink()
    assert link.stat().st_mode & 0o777 == 0o600


# --- what the machine lacks ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("etcd", "apt-get install etcd-server"),
        ("mariadb", "apt-get install mariadb-server"),
        ("postgresql", "apt-get install postgresql"),
        ("rabbitmq", "apt-get install rabbitmq-server"),
    ],
)
def test_one_that_is_not_installed_says_how_to_install_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it makes anything."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("portlease.recipes._recipe._HIDDEN", ())
    monkeypatch.setattr("glob.glob", lambda _: [])
    start: Callable[[], recipes.RecipeServer] = getattr(recipes, name)
    with pytest.raises(portlease.RecipeUnavailableError, match=f"is not installed.*{package}"):
        start()
