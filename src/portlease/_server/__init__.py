"""A server on leased ports: started, proved ready, stopped with all that it started.

From the bottom up, on :mod:`portlease._tree`, the command with all that it starts:

- :mod:`._template`, :mod:`._ready`: pure decisions, on ``{port}`` and on what counts as ready;
- :mod:`._output`, :mod:`._probe`, :mod:`._unix`: what a server writes, and whether it listens;
- :mod:`._handover`, :mod:`._presets`: sockets that it inherits;
- :mod:`._command`: what is to be run, checked; :mod:`._check`, :mod:`._trial`: ``ready=``;
- :mod:`._means`: by which of four means it gets its port;
- :mod:`._attempt`, :mod:`._awaited`, :mod:`._failure`: one start of it, what that waits for, and
  why it failed; :mod:`._starter`: one start after the other; :mod:`._cancel`: breaks them off;
- :mod:`._server`, :mod:`._crash`: ``Server``; :mod:`._serve`: ``serve()``;
- :mod:`._group`, :mod:`._async`: several of them, and their twins for asyncio and trio.
"""
