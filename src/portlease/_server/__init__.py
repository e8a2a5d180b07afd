"""A server on leased ports: started, proved ready, stopped with all that it started.

From the bottom up:

- :mod:`._template`, :mod:`._ready`: pure decisions, on ``{port}`` and on what counts as ready;
- :mod:`._keeper`: the small process between us and a server, a script of its own;
- :mod:`._process`: a command with all it starts (:mod:`._process_linux` under a keeper,
  :mod:`._process_portable` without one);
- :mod:`._output`, :mod:`._probe`: what a server writes, and whether it listens;
- :mod:`._command`, :mod:`._attempt`: what is to be run, checked; one start of it, and its failure;
- :mod:`._serve`: ``serve()`` and ``Server``.
"""
