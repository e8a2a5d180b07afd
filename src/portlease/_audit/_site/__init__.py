"""The folder that audited Python programs have in front of their PYTHONPATH."""
