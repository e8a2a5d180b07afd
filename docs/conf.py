"""The site: `make docs`. Sphinx reads this file; every warning of it is an error."""

from __future__ import annotations

import sys
from pathlib import Path

import portlease

sys.path.insert(0, str(Path(__file__).parent))

project = "portlease"
author = "The portlease developers"
project_copyright = author
version = release = portlease.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "_site._extension",
]
exclude_patterns = ["_build", "_site"]
nitpicky = True

# The same files are read on code hosts, so they are plain Markdown: links go to files, anchors are
# those that a code host makes of headings.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

default_role = "code"  # `x` in a docstring is code
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
# What the standard library calls its own is not looked up: that would need the network.
nitpick_ignore_regex = [
    ("py:class", "Path"),
    ("py:mod", "multiprocessing"),
    ("py:.*", r"(asyncio|collections|os|pathlib|re|socket|ssl|subprocess|typing|unittest)\b.*"),
]

html_theme = "furo"
html_title = "portlease"
html_static_path = ["_static"]
html_css_files = ["portlease.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    # Nothing is fetched from elsewhere: the system's own letters.
    "light_css_variables": {"font-stack": "system-ui, sans-serif"},
    "sidebar_hide_name": False,
}
pygments_style = "friendly"
pygments_dark_style = "monokai"
