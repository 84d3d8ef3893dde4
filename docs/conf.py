"""How the documentation becomes a site: ``make docs``.

Sphinx treats every dead link and every page outside the table of contents as an error.
"""

project = "Sluice"
extensions = ["myst_parser"]
exclude_patterns = ["README.md"]
html_theme = "furo"
html_title = "Sluice"
html_copy_source = False
myst_heading_anchors = 4
nitpicky = True
