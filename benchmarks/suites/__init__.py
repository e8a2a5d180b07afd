"""Suites that nobody here wrote, several instances at once: ``python -m benchmarks.suites``."""
