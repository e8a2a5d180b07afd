"""For :mod:`unittest`: leases and servers that end with their test, or with its class.

>>> from portlease.unittest import LeaseMixin
>>> class TestClient(LeaseMixin, unittest.TestCase):
...     def test_it(self):
...         server = self.serve(["redis-server", "--port", "{port}"])

The same without a mixin, since leases and servers are context managers:
``self.enterContext(portlease.lease())``. See docs/unittest.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import portlease
from portlease._onlooker import look
from portlease._own_binds import let_own_binds_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Unpack
    from unittest import IsolatedAsyncioTestCase, TestCase

    from portlease import AsyncServer, Lease, LeaseGroup, Server
    from portlease._server._command import Options
    from portlease._tree._process import StrPath
    from portlease._wish import Kind
else:  # whoever mixes it in has imported them; others need not
    TestCase = IsolatedAsyncioTestCase = object

__all__ = ["AsyncLeaseMixin", "LeaseMixin"]


class LeaseMixin(TestCase):
    """Beside :class:`unittest.TestCase`, and before it in the list of bases.

    What its methods give is taken back after the test, last things first, when ``tearDown()`` is
    over; what its class methods give, when ``tearDownClass()`` is. Leases are labelled with the
    test's ``id()``, so that ``portlease ls`` names it.

    A server in this very process may bind the ports with or without SO_REUSEADDR, from the first
    lease on.
    """

    # --- until the end of the test ---

    def lease(self, kind: Kind = "tcp", **options: Any) -> Lease:  # noqa: ANN401
        """Take a port; options and errors are those of :func:`portlease.lease`."""
        let_own_binds_in()
        options.setdefault("label", self._label())
        return self.enterContext(portlease.lease(kind, **options))

    def lease_block(
        self,
        n: int = 1,
        kind: Kind = "tcp",
        *,
        offsets: Iterable[int] = (0,),
        **options: Any,  # noqa: ANN401
    ) -> LeaseGroup:
        """Take *n* consecutive ports; all is as in :func:`portlease.lease_block`."""
        let_own_binds_in()
        options.setdefault("label", self._label())
        return self.enterContext(portlease.lease_block(n, kind, offsets=offsets, **options))

    def leased_port(self, kind: Kind = "tcp", **options: Any) -> int:  # noqa: ANN401
        """Take a port, and return its number, a plain int; all else is as in :meth:`lease`."""
        return self.lease(kind, **options).port

    def serve(
        self,
        args: Sequence[StrPath],
        *,
        lease: Lease | None = None,
        **options: Unpack[Options],
    ) -> Server:
        """Start a server on a leased port; arguments and errors as :func:`portlease.serve`.

        Returns:
            The server, once it listens; stopped after the test.
        """
        options.setdefault("label", self._label())
        return self.enterContext(portlease.serve(args, lease=lease, **options))

    # --- until the end of the class ---

    @classmethod
    def class_lease(cls, kind: Kind = "tcp", **options: Any) -> Lease:  # noqa: ANN401
        """Take a port for all tests of the class: in ``setUpClass()``."""
        let_own_binds_in()
        options.setdefault("label", cls._class_label())
        return cls.enterClassContext(portlease.lease(kind, **options))

    @classmethod
    def class_leased_port(cls, kind: Kind = "tcp", **options: Any) -> int:  # noqa: ANN401
        """Take a port for all tests of the class, and return its number, a plain int."""
        return cls.class_lease(kind, **options).port

    @classmethod
    def class_serve(
        cls,
        args: Sequence[StrPath],
        *,
        lease: Lease | None = None,
        **options: Unpack[Options],
    ) -> Server:
        """Start a server for all tests of the class: in ``setUpClass()``."""
        options.setdefault("label", cls._class_label())
        return cls.enterClassContext(portlease.serve(args, lease=lease, **options))

    # --- how ---

    def _label(self) -> str:
        return look.label or self.id()  # pytest, if it runs the test, knows its worker too

    @classmethod
    def _class_label(cls) -> str:
        return look.label or f"{cls.__module__}.{cls.__qualname__}"


class AsyncLeaseMixin(LeaseMixin, IsolatedAsyncioTestCase):
    """The same beside :class:`unittest.IsolatedAsyncioTestCase`: its loop goes on meanwhile."""

    async def aserve(
        self,
        args: Sequence[StrPath],
        *,
        lease: Lease | None = None,
        **options: Unpack[Options],
    ) -> AsyncServer:
        """Start a server; arguments and errors as :func:`portlease.aserve`.

        Returns:
            The server, once it listens; stopped after the test, in its loop.
        """
        options.setdefault("label", self._label())
        return await self.enterAsyncContext(portlease.aserve(args, lease=lease, **options))
