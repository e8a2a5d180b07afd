"""Takeover, shown on suites that nobody here wrote, and in a storm."""
