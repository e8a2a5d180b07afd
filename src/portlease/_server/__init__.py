"""A server on leased ports: started, proved ready, stopped with all that it started.

From the bottom up:

- :mod:`._template`, :mod:`._ready`: pure decisions, on ``{port}`` and on what counts as ready;
- :mod:`._keeper`: the small process between us and a server, a script of its own;
- :mod:`._process`: a command with all it starts (:mod:`._process_linux` under a keeper,
  :mod:`._process_portable` without one);
- :mod:`._broker`: in the keeper: binds for the server, beside a lease that stays held;
- :mod:`._output`, :mod:`._probe`, :mod:`._unix`: what a server writes, and whether it listens;
- :mod:`._handover`, :mod:`._presets`: sockets that it inherits;
- :mod:`._command`: what is to be run, checked; :mod:`._check`, :mod:`._trial`: ``ready=``;
- :mod:`._means`: by which of four means it gets its port;
- :mod:`._attempt`, :mod:`._awaited`, :mod:`._failure`: one start of it, what that waits for, and
  why it failed; :mod:`._starter`: one start after the other; :mod:`._cancel`: breaks them off;
- :mod:`._server`, :mod:`._crash`: ``Server``; :mod:`._serve`: ``serve()``;
- :mod:`._group`, :mod:`._async`: several of them, and their twins for asyncio and trio.
"""
