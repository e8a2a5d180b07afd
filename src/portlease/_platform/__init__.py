"""What the operating system does for a lease, behind one contract; one small file per system.

``backend`` is the module for this system. What it offers is written down once, in
:mod:`portlease._platform._contract`, and checked by the type checker against each of the three.

- Linux (:mod:`._linux`): the whole promise. Holds can be offered, leases are published in and
  confined to the network namespace.
- macOS (:mod:`._darwin`) and Windows (:mod:`._windows`): the lesser promise of docs/promise.md. A
  hold cannot be shared there, so a lease steps aside for every server, and its guard is a lock file
  of the ``filelock`` library.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portlease._platform._contract import Backend

if sys.platform == "linux":
    from portlease._platform import _linux as _system
elif sys.platform == "win32":
    from portlease._platform import _windows as _system
else:
    from portlease._platform import _darwin as _system

backend: Backend = _system

# This process. Asking the kernel anew takes 0.2 us, and a lease wants to know four times.
# Renewed in a forked child, so used as `_platform.pid`.
pid = os.getpid()

# The one lock of this package: held while a lease takes or gives up sockets, and while a child
# process is started. A child has a copy of every descriptor from its fork until its exec (close-on-
# exec acts only there), so a hold that is closed in that moment is still bound, and the server it
# was closed for meets EADDRINUSE; and a fork in the middle of a take would leave a socket in the
# child that nobody there knows of. os.fork() waits for it below; children that other libraries
# start from other threads in that moment are not covered (docs/promise.md).
# Reentrant, because a lease may be garbage collected, and release itself, anywhere in there.
spawn_lock = RLock()


def _new_process() -> None:
    global pid  # noqa: PLW0603 - it is another process now
    pid = os.getpid()


def guard_forks() -> None:
    """Have every os.fork() take the lock; called when all other hooks of ours are registered.

    `before` hooks run in the opposite order of their registration, the others in that order: the
    lock, registered last, is taken first. Its own C methods, so that no interrupt (Ctrl-C in a
    Python function) can leave it locked; logging and concurrent.futures do the same.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=spawn_lock.acquire,
            after_in_parent=spawn_lock.release,
            after_in_child=spawn_lock._at_fork_reinit,  # type: ignore[attr-defined]
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_process)
