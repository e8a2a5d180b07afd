"""A command with all that it starts: run as one thing, ended as one thing, and served its binds.

From the bottom up:

- :mod:`._broker`: in the keeper: binds for the command, beside a lease that stays held;
- :mod:`._keeper`: the small process between us and the command, a script of its own;
- :mod:`._process`: the command, and what can be asked of its tree (:mod:`._process_linux` under a
  keeper, :mod:`._process_portable` without one);
- :mod:`._janitor`, :mod:`._home`: a temporary folder that goes when the tree has ended.
"""
