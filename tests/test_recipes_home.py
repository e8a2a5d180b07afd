"""What all recipes are made of: a home that is gone when its server is, whoever dies first.

Most of it is tried on recipes of the test's own, which need nothing but Python.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import pickle
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _need import need
from _processes import HANG_S, fork, status, wait_for, watched, with_ever_more_time
from _recipes import die, folder_for_homes, killed, marked, nothing_is_left
from portlease._tree import _janitor
from portlease.recipes import Recipe, RecipeServer
from portlease.recipes._account import Account, unprivileged
from portlease.recipes._recipe import Plan, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final, NoReturn

    from portlease._server._server import Server

# It listens, says who and where it is, and ignores SIGTERM. Until it is killed it makes its home,
# and a folder in it, again and again: whoever removes them too early does so in vain.
STUBBORN: Final = """
import os, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
home, port = sys.argv[1], int(sys.argv[2])
print(os.getuid(), os.environ["HOME"], flush=True)
listener = socket.create_server(("127.0.0.1", port))
while True:
    os.makedirs(home + "/again", exist_ok=True)
"""
# It listens, and answers with the number of times that it was started.
COUNTING: Final = """
import os, socket, sys
home, port = sys.argv[1], int(sys.argv[2])
with open(home + "/starts", "a+") as file:
    file.write("x")
print(os.getuid(), os.environ["HOME"], flush=True)
listener = socket.create_server(("127.0.0.1", port))
while True:
    with listener.accept()[0] as client:
        client.sendall(str(os.stat(home + "/starts").st_size).encode())
"""

RECIPE: Final = Recipe(
    name="counting",
    summary="a server of the test's own",
    programs=("python3",),
    packages={"apt-get install": "python3"},
)


class Counting(RecipeServer):
    """A recipe's server of the test's own."""

    recipe = RECIPE
    code = COUNTING
    python = sys.executable

    def __init__(self, settings: Settings | None = None, account: Account | None = None) -> None:
        super().__init__(settings or {}, account)

    def _plan(self, home: Path) -> Plan:
        self.prepare(home)
        return Plan(argv=[self.python, "-I", "-S", "-c", self.code, str(home), "{port}"])

    def prepare(self, home: Path) -> None:
        """Nothing, here."""

    def starts(self) -> int:
        """How often it was started with this home, as it says itself."""
        with socket.create_connection(self.address, timeout=HANG_S) as client:
            return int(client.recv(16))


class Stubborn(Counting):
    """One that has to be killed, and makes its home anew until then."""

    code = STUBBORN


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files; in the end it must be empty."""
    del tmp_path  # only so that it is made before, and elsewhere
    with folder_for_homes(monkeypatch) as path:
        yield path


def late(recipe: type[Counting], says: str) -> portlease.ServerTimeoutError:
    """The error of one that is never ready, once it *says* that, a pattern."""

    def attempt(timeout_s: float) -> portlease.ServerTimeoutError:
        with pytest.raises(portlease.ServerTimeoutError) as caught:
            recipe({"timeout_s": timeout_s})
        return caught.value

    return with_ever_more_time(attempt, lambda error: re.search(says, str(error)))


# --- in the order of things -----------------------------------------------------------------------


def test_the_home_is_there_while_the_server_is(base: Path) -> None:
    """A private folder in a folder of ours, below the one for temporary files."""
    with Counting() as server:
        assert server.home.parent.parent == base
        assert server.home.name == "counting"
        assert server.home.stat().st_mode & 0o777 == 0o700
        assert server.starts() == 1
    assert not server.home.exists()
    server.stop()  # once more does nothing


def test_restart_and_kill_keep_it() -> None:
    """So data survive both."""
    with Counting() as server:
        (server.home / "file").touch()
        server.restart()
        assert server.starts() == 2
        server.kill()
        server.restart()
        assert server.starts() == 3
        assert (server.home / "file").exists()


def test_a_home_of_ones_own_stays(tmp_path: Path, base: Path) -> None:
    """It is made if it is not there, and used again; nothing temporary is made."""
    home = tmp_path / "new" / "home"
    for times in (1, 2):
        with Counting({"home": home}) as server:
            assert server.home == home
            assert server.starts() == times
            assert list(base.iterdir()) == []
    assert (home / "starts").read_text(encoding="utf-8") == "xx"


def test_the_settings_reach_the_server() -> None:
    """Label, lease, environment and further arguments are serve()'s."""
    with portlease.lease() as lease:
        with Counting({"lease": lease, "args": ["last"], "label": "mine"}) as server:
            assert server.server.lease is lease
            assert server.port == lease.port
            assert server.server.argv[-1] == "last"
        assert lease.state != "RELEASED"
        with pytest.raises(portlease.UsageError, match="host= is the lease's"):
            Counting({"lease": lease, "host": "127.0.0.1"})
    with Counting({"label": "mine", "host": "127.0.0.1", "how": "offer"}) as server:
        assert server._bind_address() == f"127.0.0.1:{server.port}"
        assert server.server.lease.label == "mine"
        assert server.server.how == "offer"


def test_what_fails_to_start_leaves_nothing(base: Path) -> None:
    """The error has its last words, and the home is gone."""

    class Failing(Counting):
        code = "raise SystemExit('it will not')"

    with pytest.raises(portlease.ServerDiedError, match="it will not"):
        Failing()
    assert list(base.iterdir()) == []


def test_what_cannot_be_prepared_leaves_nothing(base: Path) -> None:
    """The error names the program, and has what it said."""

    class Unprepared(Counting):
        def prepare(self, home: Path) -> None:
            self._run(["sh", "-c", "echo not like this; exit 3", str(home)])

    with pytest.raises(
        portlease.ServerDiedError,
        match=r"(?s)recipe counting: sh, which prepares.*status 3.*not like this",
    ):
        Unprepared()
    assert list(base.iterdir()) == []


def test_preparing_that_takes_too_long_is_ended() -> None:
    """With all that it started."""

    class Slow(Counting):
        def prepare(self, home: Path) -> None:
            self._run(["sh", "-c", "sleep 1000 & echo started; wait", str(home)])

    error = late(Slow, "started")
    assert f"within {error.timeout_s:g} s" in str(error)


def test_what_prepares_runs_in_the_home() -> None:
    """And what it wrote is returned."""
    said = []

    class Prepared(Counting):
        def prepare(self, home: Path) -> None:
            said.append(self._run(["sh", "-c", "pwd; echo $X", str(home)], env={"X": "y"}))

    with Prepared() as server:
        assert said == [f"{server.home}\ny\n"]


def test_one_that_listens_and_never_answers_is_reported() -> None:
    """With the reason of the last attempt."""

    class Silent(Counting):
        def _answers(self, server: Server) -> bool:
            raise ConnectionResetError(f"hung up on port {server.port}")

    late(Silent, r"not ready: counting_answers\(\).*hung up")


def test_one_that_ends_before_it_answers_is_reported() -> None:
    """At once, with its status."""

    class Ending(Counting):
        code = COUNTING.replace("while True:", "os._exit(7)")
        code = code[: code.index("os._exit(7)")] + "os._exit(7)"

        def _answers(self, server: Server) -> bool:
            del server
            return False

    with pytest.raises(portlease.ServerDiedError, match="status 7"):
        Ending()


def test_a_recipe_whose_command_hides_its_home_is_refused() -> None:
    """The janitor would not find it; that is the recipe's mistake, not the user's."""

    class Hiding(Counting):
        def _plan(self, home: Path) -> Plan:
            del home
            return Plan(argv=["true"])

    with pytest.raises(AssertionError, match="must name its home"):
        Hiding()


# --- when we die ----------------------------------------------------------------------------------


def _die_in(where: str, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(f"{where}.{name}", die)


def _die_after_the_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:  # noqa: ANN401 - as Popen has it
        started: Any = real(command, **options)
        if "keeps the command" in command[4]:
            die()
        return started

    monkeypatch.setattr("subprocess.Popen", popen)


def _die_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from portlease._tree._process import Process

    real = Process.start

    def start(*args: Any, **options: Any) -> NoReturn:  # noqa: ANN401 - as start() has it
        real(*args, **options)
        die()

    monkeypatch.setattr(Process, "start", start)


@pytest.mark.parametrize(
    ("when", "server"),
    [
        pytest.param(_die_in("os", "mkdir"), Stubborn, id="before the folder is made"),
        pytest.param(_die_in("fcntl", "flock"), Stubborn, id="before it is locked"),
        pytest.param(
            _die_in("portlease.recipes._recipe", "serve"), Stubborn, id="before the keeper"
        ),
        pytest.param(_die_after_the_keeper, Stubborn, id="before the keeper is told"),
        pytest.param(_die_after_the_start, Stubborn, id="after the start"),
        pytest.param(_die_in(f"{__name__}.Stubborn", "_answers"), Stubborn, id="before it answers"),
        pytest.param(
            _die_in("portlease._server._serve.Server", "stop"), Stubborn, id="before the end"
        ),
        pytest.param(_die_in("portlease._tree._home.Home", "close"), Counting, id="in the end"),
    ],
)
def test_our_death_leaves_nothing(
    when: Callable[[pytest.MonkeyPatch], None],
    server: type[Counting],
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By SIGKILL, at whatever moment: no process, no folder."""

    def work() -> None:
        when(monkeypatch)
        with server():
            pass

    killed(work)
    nothing_is_left(base)


def test_our_death_while_preparing_leaves_nothing(base: Path) -> None:
    """Neither the program that prepares, nor what it makes."""

    class Preparing(Counting):
        def prepare(self, home: Path) -> None:
            code = STUBBORN.replace("while True:", f"os.kill({os.getpid()}, 9)\nwhile True:")
            self._run([sys.executable, "-c", code, str(home), str(self._lease.port)])

    killed(Preparing)
    nothing_is_left(base)


def test_the_folder_stays_until_the_server_has_ended(base: Path) -> None:
    """One that makes its folder anew until it is killed does not get it back."""

    def work() -> None:
        with Stubborn() as server:
            wait_for((server.home / "again").is_dir)
            die()

    killed(work)
    (folder,) = base.iterdir()
    # A second has been left to the stubborn one, and until then the janitor waits.
    assert len(_janitor.keepers(str(folder))) == 1
    assert (folder / "counting" / "again").is_dir()
    nothing_is_left(base)


def test_a_forked_child_of_ours_does_not_hide_our_death(base: Path) -> None:
    """It has a copy of the pipe whose end tells of it, and lives on."""
    reader, writer = os.pipe()

    def work() -> None:
        with Counting():
            if fork() == 0:
                os.close(writer)
                os.read(reader, 1)  # until the test closes its end
                os._exit(0)
            die()

    killed(work)
    nothing_is_left(base)
    os.close(reader)
    os.close(writer)


# --- when the janitor dies ------------------------------------------------------------------------


def janitors(base: Path) -> list[int]:
    """Those that look after folders in *base*."""
    return [
        pid
        for pid in marked(base)
        if b"removes the folder" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_without_its_janitor_the_home_is_removed_by_another(base: Path) -> None:
    """The first was killed by somebody."""
    with Counting():
        (first,) = janitors(base)
        with watched([first]) as wait_all:
            os.kill(first, signal.SIGKILL)
            assert wait_all() == []
    assert list(base.iterdir()) == []


def test_the_next_one_sweeps_what_nobody_could_remove(base: Path) -> None:
    """We and our janitor were killed, as at a container's end. All else is left alone."""

    def work() -> None:
        with Counting():
            for pid in janitors(base):
                os.kill(pid, signal.SIGKILL)
            die()

    others = {base / "portlease-dev", base / "portlease-1", base / "portlease-home-mine"}
    for other in others:
        other.mkdir()
    with Counting() as living:
        killed(work)
        (left,) = set(base.iterdir()) - {living.home.parent, *others}
        with watched(marked(left)) as wait_all:
            assert wait_all() == []
        assert left.exists()
        with Counting() as after:
            wait_for(lambda: not left.exists())
            assert after.starts() == 1
        assert living.starts() == 1
    for other in others:
        other.rmdir()  # it is still there


def test_a_file_system_without_locks_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake, as there is none such here: nothing is swept there, that is all."""

    def flock(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with Counting() as server:
        assert server.starts() == 1


def test_what_cannot_be_removed_is_told(base: Path) -> None:
    """With the reason; and nothing but the folder itself is ever removed."""
    with Counting() as server:
        folder = server.home.parent
        folder.rename(base / "moved")
        folder.symlink_to(base / "moved")
        with pytest.warns(RuntimeWarning, match="could not be removed: .*symbolic link"):
            server.stop()
    assert (base / "moved" / "counting" / "starts").exists()
    folder.unlink()
    shutil.rmtree(base / "moved")


# --- other things that can happen -----------------------------------------------------------------


def test_a_forked_child_cannot_stop_it(base: Path) -> None:
    """Server and home are the parent's."""
    with Counting() as server:
        pid = fork()
        if pid == 0:
            try:
                server.stop()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert server.starts() == 1
        assert list(base.iterdir()) == [server.home.parent]


def test_one_that_nobody_stopped_is_told_of_and_goes(base: Path) -> None:
    """As with any server, and its home goes with it."""
    server: Counting | None = Counting()
    assert server is not None
    with watched(marked(base)) as wait_all:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            server = None
            gc.collect()
        assert wait_all() == []
    assert [one.category for one in caught] == [ResourceWarning]
    assert list(base.iterdir()) == []
    with Counting():  # reaps the other's janitor
        pass


# --- another user ---------------------------------------------------------------------------------


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    """Some user who is not root; the servers run by a Python that this user can execute."""
    need.capability("other_user")
    found = unprivileged()
    assert found is not None
    monkeypatch.setattr(Counting, "python", need.everybodys_python(found.uid))
    return found


def test_root_can_have_it_run_as_another_user(account: Account) -> None:
    """The home is that user's, and HOME; the process is the one that was started."""
    with Counting({}, account) as server:
        uid = account.uid
        assert server.output == f"{uid} {server.home}\n"
        assert server.home.stat().st_uid == uid
        assert status(server.process.pid, "Uid").split() == [str(uid)] * 4
        assert status(server.process.pid, "Groups") == str(account.gid)
        server.restart()
        assert server.starts() == 2


def test_what_prepares_is_that_user_too(account: Account) -> None:
    """So that what it makes belongs to the server."""

    class Prepared(Counting):
        def prepare(self, home: Path) -> None:
            self._run(["sh", "-c", "id -u > id; exit $(id -u | grep -c ^0$)", str(home)])

    with Prepared({}, account) as server:
        assert (server.home / "id").read_text(encoding="utf-8") == f"{account.uid}\n"


def test_our_death_ends_another_users_server_too(account: Account, base: Path) -> None:
    """And its folder goes."""

    def work() -> None:
        with Stubborn({}, account):
            die()

    killed(work)
    nothing_is_left(base)


def test_a_folder_that_the_other_user_cannot_enter_is_named(account: Account, base: Path) -> None:
    """With what to do; the folder for temporary files may be root's alone."""
    base.chmod(0o700)
    with pytest.raises(portlease.UsageError, match=rf"{account.name}, who may not enter {base} "):
        Counting({}, account)
    with pytest.raises(portlease.UsageError, match="give a home="):
        Counting({"home": base}, account)


def test_a_new_home_of_ones_own_becomes_the_other_users(account: Account, base: Path) -> None:
    """One that was there before stays whose it is."""
    with Counting({"home": base / "new"}, account) as server:
        assert server.home.stat().st_uid == account.uid
    shutil.rmtree(base / "new")


def test_the_preferred_user_is_taken_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nobody; and none at all unless we are root."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    some = next(one for one in pwd.getpwall() if one.pw_uid != 0)
    assert unprivileged("no-such-user", some.pw_name) == (some.pw_name, some.pw_uid, some.pw_gid)
    found = unprivileged("no-such-user")
    assert found is not None
    assert found.uid != 0
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert unprivileged("nobody") is None


# --- programs, names ------------------------------------------------------------------------------


def test_programs_are_found_where_distributions_hide_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest version of several; but PATH comes first."""
    for version in ("9", "16", "15"):
        program = tmp_path / version / "bin" / "serverd"
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
    recipe = Recipe(
        name="x",
        summary="x",
        programs=("serverd", "other"),
        packages={"apt-get install": "x"},
        places=(f"{tmp_path}/*/bin",),
    )
    assert recipe.find() == str(tmp_path / "16" / "bin" / "serverd")
    assert recipe.missing() == ("other",)
    monkeypatch.setenv("PATH", str(tmp_path / "9" / "bin"))
    assert recipe.find("serverd") == str(tmp_path / "9" / "bin" / "serverd")
    with pytest.raises(portlease.RecipeUnavailableError, match="recipe x: other is not installed"):
        recipe.find("other")


def test_the_error_can_be_pickled() -> None:
    """It crosses the process boundary of pytest-xdist."""
    error = RECIPE.unavailable("python3", "is too old")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert str(again) == str(error)
    assert "is too old; install it by apt-get install python3" in str(error)
    assert again.packages == {"apt-get install": "python3"}


def test_importing_the_package_loads_no_recipe() -> None:
    """Each is loaded when it is first used, and what it is made of with it."""
    script = (
        "import json, sys; from portlease import recipes\n"
        "early = [name for name in sys.modules if name.startswith('portlease.recipes.')]\n"
        "heavy = [name for name in ('subprocess', 'dataclasses') if name in sys.modules]\n"
        "recipes.redis\n"
        "late = [name for name in sys.modules if name.startswith('portlease.recipes.')]\n"
        "print(json.dumps([early, heavy, sorted(late)]))"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    early, heavy, late = json.loads(done.stdout)
    assert (early, heavy) == ([], [])
    assert {"portlease.recipes._redis", "portlease.recipes._recipe"} <= set(late)
    assert "portlease.recipes._nginx" not in late


def test_every_name_is_there() -> None:
    """The recipes are functions, with a class of servers each."""
    import portlease.recipes as package

    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    assert [one.name for one in package.available()] == list(package.names())
    for name in package.names():
        assert callable(getattr(package, name))
        assert package.recipe(name).name == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        package.nonsense  # noqa: B018 - the look-up is the test
