"""Settings of Sphinx for the site, which build.py makes."""

from importlib import metadata

project = "costsim"
author = "The costsim developers"
release = metadata.version("costsim")
html_title = f"costsim {release}"
extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]
html_theme = "furo"
html_show_copyright = False
html_show_sourcelink = False
