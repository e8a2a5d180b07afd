"""Real servers, by every means, as root and as an ordinary user: ``python -m benchmarks.servers``.

It writes docs/servers.md. Each part is a module: what real servers do (:mod:`._cells`), who steals
a port (:mod:`._thefts`), what a bind costs (:mod:`._binds`), how soon a server is known to be ready
(:mod:`._delays`), and what is left behind (:mod:`._leftovers`).
"""
