"""N instances of any suite at once, and what fails only in company (`portlease repeat`).

Theory of operation
-------------------
The suite runs once alone, which is the *baseline*, and then in *rounds* of N instances at once.
Every such *run* (:mod:`._run`) is a process tree under a keeper of its own, so that nothing of it
outlives us, with a folder of its own for temporary files. What it tells is read while it goes
(:mod:`._pace`), and once it is over (:mod:`._results`): JUnit XML where its runner writes it, the
lines that test runners end with where not, its exit status in any case. The network is watched from
two sides: the trail that Python processes leave of their binds (:mod:`portlease._trail`), and the
kernel's table of sockets, sampled, for all others (:mod:`._watch`).

Then it is all pure: :mod:`._verdict` compares company with the baseline, :mod:`._causes` reads the
cause of a failure from its text, and :mod:`._culprits` finds who had the port. The report is drawn
as a table, as JSON, as JUnit XML (:mod:`._merged`), as a page (:mod:`portlease._page`) and as a
trace for Perfetto (:mod:`._trace`).
"""
