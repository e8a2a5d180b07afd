"""Run a command for which one system call fails with one errno, by a seccomp filter.

``python _forbid.py NUMBER ERRNO COMMAND...``: what a container's profile, or an old kernel, does.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys


def forbid(number: int, code: int, argument: int | None = None) -> None:
    """Have system call *number* fail with errno *code* in this process and all that it starts.

    With *argument* only where that is its first one.
    """
    first = () if argument is None else ((0x20, 0, 0, 16), (0x15, 0, 1, argument))
    steps = (
        (0x20, 0, 0, 0),  # load seccomp_data.nr
        (0x15, 0, 1 + len(first), number),
        *first,  # load seccomp_data.args[0], its lower half on what is little-endian
        (0x06, 0, 0, 0x00050000 | code),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP with SECCOMP_MODE_FILTER: prctl(2)
    for arguments in ((38, 1, 0, 0, 0), (22, 2, fprog, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    forbid(int(sys.argv[1]), int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606 - to become it is the point
