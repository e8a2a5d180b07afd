"""``portlease lint``: what the text of a test says about its ports. Loaded by that command alone.

From bottom to top: the parsed source (:mod:`._source`), who is called what in it
(:mod:`._scopes`), which numbers and texts an expression stands for (:mod:`._values`), which calls
take a port (:mod:`._calls`, with :mod:`._places`), and which programs (:mod:`._commands`, with
:mod:`._programs`), where none is ever opened (:mod:`._pretence`), all of it for one module
(:mod:`._module`); the checks (:mod:`._checks` and those that it calls); which files
(:mod:`._files`), and many (:mod:`._run`). :mod:`._plan` (with :mod:`._parts`), :mod:`._rewrite`,
:mod:`._proof`, :mod:`._left` and :mod:`._fix` rewrite. What a rule and a finding are is in
:mod:`portlease._findings`.
"""
