"""How `portlease lint` does on the suites of well-known packages."""
