"""How Sphinx builds the manual: `make docs`."""

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extension"))

from knetc import __version__  # noqa: E402

project = "knetc"
version = release = __version__
copyright = "the authors of knetc"

extensions = ["myst_parser", "sphinx.ext.autodoc", "generated"]
exclude_patterns = ["_build", "_extension"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]
default_role = "code"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

autodoc_typehints = "none"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "knetc"
html_copy_source = False

# What stands outside this folder and has a page here that includes it.
INCLUDED = {
    "examples/README.md": "examples.md",
    "examples/cpp/README.md": "cpp-example.md",
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def to_pages(app, name, content):
    """Links to files outside this folder as links to the pages that include them; they work on the disk as they are."""
    folder = Path(app.env.doc2path(name)).parent

    def page(link):
        target = os.path.normpath(folder / link[1])
        inside = INCLUDED.get(os.path.relpath(target, HERE.parent))
        return f"]({os.path.relpath(HERE / inside, folder)}{link[2] or ''})" if inside else link[0]

    content[0] = re.sub(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)", page, content[0])


def without_arguments(app, what, name, obj, options, signature, returns):
    """Classes of errors without the arguments of their constructors, which users do not call."""
    return ("", None) if what in ("class", "exception") else None


def setup(app):
    """Registers what is above."""
    app.connect("autodoc-process-signature", without_arguments)
    app.connect("source-read", to_pages)
