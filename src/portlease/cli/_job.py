"""One of many: a server, its client, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portlease._server import _ready
from portlease.cli import _say

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from portlease._server._command import How

HEADINGS: Final = ("#", "PORT", "READY MS", "CLIENT S", "STATUS", "RESULT")
OVER: Final = frozenset({"ok", "failed", "stopped"})


@dataclass
class Job:
    """How far it is.

    ``state``: ``starting``, ``ready``, ``client``; in the end ``ok``, ``failed`` or ``stopped``.
    Times are in seconds. ``defect`` is an error that should not be.
    """

    number: int
    state: str = "starting"
    ports: Mapping[str, int] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    host: str | None = None
    pid: int | None = None
    ready_s: float | None = None
    starts: int | None = None
    how: How | None = None
    why: str | None = None
    client_s: float | None = None
    status: int | None = None
    error: str | None = None
    output: str = ""
    errors: str = ""
    server_output: str = ""
    defect: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.state in OVER

    def finish(self, *, stopped: bool) -> None:
        """It is over; *stopped*: because everything was, and not for a reason of its own."""
        if stopped:
            self.state, self.status, self.error = "stopped", None, None
        else:
            self.state = "ok" if self.status == 0 else "failed"

    def shown(self, *, whole: bool) -> str:
        """The server's output, or the end of it."""
        return self.server_output if whole else _ready.tail(self.server_output)

    def as_dict(self) -> dict[str, object]:
        """For JSON, once it is over."""
        return {
            "number": self.number,
            "result": self.state,
            "status": self.status,
            "error": self.error,
            "host": self.host,
            "ports": self.ports,
            "paths": self.paths,
            "ready_s": None if self.ready_s is None else round(self.ready_s, 4),
            "starts": self.starts,
            "how": self.how,
            "why": self.why,
            "client_s": None if self.client_s is None else round(self.client_s, 4),
            "output": self.output,
            "errors": self.errors,
            "server_output": self.server_output,
        }

    def as_server(self) -> dict[str, object]:
        """For JSON, once it is ready."""
        return {
            "number": self.number,
            "host": self.host,
            "ports": self.ports,
            "paths": self.paths,
            "pid": self.pid,
            "ready_s": round(self.ready_s or 0.0, 4),
            "starts": self.starts,
            "how": self.how,
            "why": self.why,
        }

    def row(self) -> tuple[str, ...]:
        """For a table with ``HEADINGS``."""
        return (
            str(self.number),
            _say.ports(self.ports) if self.ports else "-",
            "-" if self.ready_s is None else f"{self.ready_s * 1000:.0f}",
            "-" if self.client_s is None else f"{self.client_s:.2f}",
            "-" if self.status is None else str(self.status),
            self.state,
        )
