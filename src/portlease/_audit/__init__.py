"""The audit: every bind of a process tree, where its number came from, and what to do about it."""
