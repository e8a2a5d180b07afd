"""What the site is built with, beside Sphinx: read by conf.py, never installed."""
