"""What may be asked for, and what each answer covers."""

# ruff: noqa: S104 - holds and thieves are everywhere on purpose, and nothing serves there
from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _need import in_new_netns, need
from _thieves import silent
from portlease import _platform, _wish

if TYPE_CHECKING:
    from collections.abc import Callable


def bound_to(lease: portlease.Lease) -> list[tuple[str, int]]:
    """Address and socket type of what holds the lease, from the sockets themselves."""
    socks = lease.hand_over_all()
    try:
        assert all(sock.getsockname()[1] == lease.port for sock in socks)
        return [(sock.getsockname()[0], int(sock.type)) for sock in socks]
    finally:
        for sock in socks:
            sock.close()


def addresses(**options: Any) -> list[str]:  # noqa: ANN401 - what lease() takes
    """The addresses that a lease with these options is bound to."""
    with portlease.lease(offer=False, **options) as lease:
        return [address for address, _ in bound_to(lease)]


# --- hosts and families -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (None, ["::"]),
        ("", ["::"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("0.0.0.0", ["0.0.0.0"]),
        ("::", ["::"]),
        ("127.1", ["127.0.0.1"]),
        (["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        (("127.0.0.1", "127.0.0.1"), ["127.0.0.1"]),
        (["0.0.0.0", "::1"], ["0.0.0.0", "::1"]),
    ],
)
def test_a_host_is_what_is_bound(host: Any, expected: list[str]) -> None:  # noqa: ANN401 - of any kind
    """Addresses are taken as they are, each once, in their order."""
    need.capability("ipv6")
    assert addresses(host=host) == expected


def test_localhost_is_both_of_its_addresses() -> None:
    """Wherever a client is led by the name, the port is held."""
    need.capability("ipv6")
    known = {str(found[4][0]) for found in socket.getaddrinfo("localhost", None)}
    assert set(addresses(host="localhost")) == known


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (["0.0.0.0", "127.0.0.1"], {"0.0.0.0"}),
        (["127.0.0.1", "0.0.0.0"], {"0.0.0.0"}),
        (["::", "127.0.0.1", "::1"], {"::"}),
        (["::1", "::", "0.0.0.0"], {"::"}),
    ],
)
def test_an_address_within_another_does_not_stand_in_its_way(
    host: list[str], expected: set[str]
) -> None:
    """A wildcard and an address that it covers: one socket holds both."""
    need.capability("ipv6")
    assert set(addresses(host=host)) == expected


@pytest.mark.parametrize(
    ("family", "host", "expected"),
    [
        (socket.AF_INET, None, ["0.0.0.0"]),
        (socket.AF_INET6, None, ["::"]),
        (int(socket.AF_INET), None, ["0.0.0.0"]),
        (socket.AF_INET, "localhost", ["127.0.0.1"]),
        (socket.AF_INET6, "::", ["::"]),
    ],
)
def test_a_family_is_that_family_alone(family: int, host: str | None, expected: list[str]) -> None:
    """The other family's addresses are neither bound nor held."""
    need.capability("ipv6")
    assert addresses(family=family, host=host) == expected
    with portlease.lease(family=family, host=host, offer=False) as lease:
        other = socket.AF_INET6 if family == socket.AF_INET else socket.AF_INET
        with socket.socket(other) as sock:
            if other == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(("", lease.port))


def test_the_default_is_every_address() -> None:
    """One dual-stack socket, whatever net.ipv6.bindv6only says."""
    need.capability("ipv6")
    with portlease.lease(offer=False) as lease:
        assert (lease.host, lease.scope) == (None, "*")
        for address in ("127.0.0.1", "127.0.0.2", "::1"):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family) as sock, pytest.raises(OSError, match="in use"):
                sock.bind((address, lease.port))


@pytest.mark.parametrize("kind", ["tcp", "udp", "both"])
def test_a_kind_is_its_socket_types(kind: Any) -> None:  # noqa: ANN401 - of a Literal
    """On every address that was given."""
    types = {"tcp": [1], "udp": [2], "both": [1, 2]}[kind]
    with portlease.lease(kind, host=["127.0.0.1"], offer=False) as lease:
        assert bound_to(lease) == [("127.0.0.1", socktype) for socktype in types]


# --- other machines -----------------------------------------------------------------------------


def test_a_machine_without_ipv6_addresses() -> None:
    """net.ipv6.conf.all.disable_ipv6=1: leases hold IPv4, localhost is 127.0.0.1."""
    done = in_new_netns(
        """
        import socket, portlease
        for scope in ("all", "lo"):
            with open(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6", "w") as file:
                file.write("1")
        for host in (None, "localhost", "127.0.0.1", "0.0.0.0"):
            for kind in ("tcp", "udp", "both"):
                with portlease.lease(kind, host=host, offer=False) as lease:
                    for socktype in {"tcp": [1], "udp": [2], "both": [1, 2]}[kind]:
                        with socket.socket(socket.AF_INET, socktype) as sock:
                            assert sock.connect_ex(("127.0.0.1", 1)) in (0, 111)
                        with socket.socket(socket.AF_INET, socktype) as sock:
                            try:
                                sock.bind(("127.0.0.1", lease.port))
                            except OSError:
                                pass
                            else:
                                raise AssertionError((host, kind))
        with portlease.lease() as lease, lease.listen() as server:
            socket.create_connection(("127.0.0.1", lease.port)).close()
        try:
            portlease.lease(host="::1")
        except portlease.UsageError as error:
            print(error)
        """
    )
    assert "ip address" in silent(done)


def test_a_machine_whose_sockets_are_ipv6_only() -> None:
    """net.ipv6.bindv6only=1: leases are dual-stack all the same, and so is what they hand over."""
    done = in_new_netns(
        """
        import socket, portlease
        with open("/proc/sys/net/ipv6/bindv6only", "w") as file:
            file.write("1")
        with portlease.lease(offer=False) as lease:
            with socket.socket() as sock:
                try:
                    sock.bind(("127.0.0.1", lease.port))
                except OSError:
                    pass
                else:
                    raise AssertionError
        with portlease.lease() as lease, lease.listen() as server:
            for host in ("127.0.0.1", "::1"):
                socket.create_connection((host, lease.port)).close()
        with portlease.lease(family=socket.AF_INET6, offer=False) as lease, socket.socket() as sock:
            sock.bind(("127.0.0.1", lease.port))
        """
    )
    silent(done)


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Booted with ipv6.disable=1 there are no such sockets at all: leases hold 0.0.0.0.

    A kernel without IPv6 cannot be had by asking; that is the one answer of it which is made up.
    """
    monkeypatch.setattr(_platform.backend, "dual_stack", lambda: False)
    monkeypatch.setattr(_wish, "_plain", {})
    assert addresses() == ["0.0.0.0"]
    with portlease.lease(offer=False) as lease:
        assert lease.scope == "0.0.0.0"


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"kind": "sctp"}, "'tcp', 'udp' or 'both'"),
        ({"kind": None}, "'tcp', 'udp' or 'both'"),
        ({"kind": ["tcp"]}, "'tcp', 'udp' or 'both'"),
        ({"kind": socket.SOCK_STREAM}, "'tcp', 'udp' or 'both'"),
        ({"family": socket.AF_UNIX}, "AF_INET"),
        ({"family": "inet"}, "AF_INET"),
        ({"host": "198.51.100.7"}, "ip address"),
        ({"host": "2001:db8::7"}, "ip address"),
        ({"host": ["127.0.0.1", "198.51.100.7"]}, "ip address"),
        ({"host": "fe80::1"}, "ip address"),
        ({"host": "::ffff:127.0.0.1"}, "address"),
        ({"host": "x" * 70}, "host"),
        ({"host": 127}, "host"),
        ({"host": b"127.0.0.1"}, "host"),
        ({"host": [None]}, "host"),
        ({"host": "127.0.0.1", "family": socket.AF_INET6}, "host"),
        ({"host": "::", "family": socket.AF_INET}, "host"),
        ({"host": "::1", "family": socket.AF_INET}, "host"),
        ({"ports": []}, "ports="),
        ({"ports": [0]}, "1 to 65535"),
        ({"ports": [65536]}, "1 to 65535"),
        ({"ports": [-1]}, "1 to 65535"),
        ({"ports": [8080, 10**30]}, "1 to 65535"),
        ({"ports": ["8080"]}, "no number"),
        ({"ports": "8080"}, r"ports=\[8080\]"),
        ({"ports": [8080.0]}, "no number"),
        ({"ports": [None]}, "no number"),
        ({"ports": 8080}, r"ports=\[8080\]"),
        ({"label": 3}, "label"),
        ({"label": b"x"}, "label"),
    ],
    ids=str,
)
def test_what_can_never_work_is_a_usage_error(options: dict[str, Any], remedy: str) -> None:
    """It names the argument and what would do; and it is a ValueError."""
    with pytest.raises(portlease.UsageError, match=remedy) as caught:
        portlease.lease(**options)
    assert isinstance(caught.value, ValueError)
    for name, value in options.items():
        if isinstance(value, str):  # the culprit is named
            assert value in str(caught.value), name


def test_a_host_that_nobody_knows() -> None:
    """Asked in a namespace that no name server can be reached from: an error, not a hang."""
    done = in_new_netns(
        """
        import portlease
        for host in ("no-such-host.invalid", "127.0.0.256", "*"):
            try:
                portlease.lease(host=host)
            except portlease.UsageError as error:
                assert repr(host) in str(error), error
            else:
                raise AssertionError(host)
        """
    )
    silent(done)


def test_a_name_of_somewhere_else() -> None:
    """A name all of whose addresses are other machines': UsageError, and no lease of nothing."""
    unshare = need.program("unshare")
    need.capability("root")
    done = in_new_netns(
        """
        import subprocess, sys, tempfile
        script = '''
        import portlease
        try:
            lease = portlease.lease(host="elsewhere")
        except portlease.UsageError as error:
            assert "192.0.2.1" in str(error), error
        else:
            raise AssertionError(lease)
        with portlease.lease(host="both-of-it", offer=False) as lease:
            assert lease.scope == "127.0.0.1", lease.scope
        '''
        import textwrap
        with tempfile.NamedTemporaryFile("w") as hosts:
            hosts.write("192.0.2.1 elsewhere both-of-it\\n192.0.2.2 elsewhere\\n"
                        "127.0.0.1 both-of-it\\n")
            hosts.flush()
            enter = f"mount --bind {hosts.name} /etc/hosts && exec \\"$@\\""
            command = [sys.argv[1], "--mount", "sh", "-c", enter, "sh", sys.executable, "-c"]
            subprocess.run([*command, textwrap.dedent(script)], check=True)
        """,
        unshare,
    )
    silent(done)


# --- ports --------------------------------------------------------------------------------------


@pytest.fixture
def numbers() -> tuple[int, ...]:
    """Three numbers that were free a moment ago."""
    with portlease.lease_many(3) as leases:
        return leases.ports


class Number:
    """A number of somebody else's making, as numpy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        """Return its value."""
        return self.value


@pytest.mark.parametrize(
    "kind",
    [
        list,
        lambda numbers: numbers * 2,
        set,
        frozenset,
        dict.fromkeys,
        lambda numbers: range(numbers[0], numbers[0] + 1),
        lambda numbers: [Number(numbers[0])],
        iter,
        lambda numbers: (number for number in numbers),
    ],
)
def test_ports_may_be_any_iterable_of_numbers(
    kind: Callable[[tuple[int, ...]], Any], numbers: tuple[int, ...]
) -> None:
    """Each is looked at once."""
    with portlease.lease(ports=kind(numbers[:1])) as lease:
        assert lease.port == numbers[0]
        assert type(lease.port) is int


def test_a_lease_stands_for_its_number_in_ports() -> None:
    """To take again what was released."""
    with portlease.lease() as lease:
        pass
    ports: Any = [lease]  # ports= is annotated for plain numbers
    with portlease.lease(ports=ports) as again:
        assert again.port == lease.port


def test_all_of_the_ports_are_tried(numbers: tuple[int, ...]) -> None:
    """As many leases as there are numbers, whatever chance draws; then it says so."""
    with portlease.lease_many(3, ports=numbers) as leases:
        assert sorted(leases.ports) == sorted(numbers)
        with pytest.raises(portlease.PortUnavailableError, match="none of 3 ports") as caught:
            portlease.lease(ports=numbers)
        assert sorted(caught.value.ports) == sorted(numbers)
        assert str(numbers[2]) in str(caught.value)
