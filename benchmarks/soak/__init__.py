"""A million leases and 2,000 servers by eight processes: ``python -m benchmarks.soak``.

It writes docs/soak.md. The processes (:mod:`._worker`) take leases of every kind (:mod:`._leases`)
and start servers by every means (:mod:`._servers`); some of them are killed. Three detectors look
for a port that two had at once: a ledger of claims (:mod:`._ledger`), the kernel's own list of
sockets (:mod:`._kernel`), and what everybody wrote down (:mod:`._log`). The control
(:mod:`._unheld`) is what the detectors say of ports that nobody holds. What is left behind is
counted (:mod:`._counts`).
"""
