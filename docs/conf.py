"""The documentation: `sphinx-build -W docs build/docs` makes it, with nothing from outside."""

import abc
import os
import re
import shutil
from pathlib import Path
from typing import Any

import latex2mathml.converter
from docutils import nodes
from jaxtyping import ArrayLike
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.typing import stringify_annotation

# Of the kernels that execute pages: most of their time would be compilation.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import elsjax

# A page lies below the folder of this file, and links do not go through a symbolic link.
shutil.copytree("../notebooks", "notebooks", dirs_exist_ok=True)

project = "elsjax"
author = "The elsjax authors"
version = release = elsjax.__version__
copyright = author

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["build"]
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_render_markdown_format = "myst"

bibtex_bibfiles = ["../elsjax/references.bib"]
bibtex_reference_style = "author_year"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {
    "show-inheritance": True,
    "exclude-members": "tree_flatten,tree_unflatten",
    "special-members": "__call__",
}
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False

html_theme = "pydata_sphinx_theme"
html_title = "elsjax"
html_static_path = ["_static"]
html_css_files = ["elsjax.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_favicon = html_logo = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
# Beside the text, the pages of a section; a page at the top has none.
html_sidebars = {path.stem: [] for path in Path(__file__).parent.glob("*.md")}
html_theme_options = {
    "header_links_before_dropdown": 7,
    "logo": {"text": "elsjax", "alt_text": "elsjax, start"},
    "navbar_persistent": ["search-button"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

logger = logging.getLogger(__name__)
ARRAY_LIKE = stringify_annotation(ArrayLike, "smart")


def mathml(translator: nodes.NodeVisitor, node: nodes.Element) -> None:
    """Formulas as MathML, which browsers and screen readers know without a script."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def as_written(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Docstrings are plain text: indented formulas stay as they are, norms are no markup."""
    written: list[str] = []
    formula = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not formula and written[-1:] == [""]:
            written += ["::", ""]
            formula = True
        formula = formula and (indented or not line)
        written.append(line if formula else line.replace("|", r"\|").replace("*", r"\*"))
    lines[:] = written


def shorter(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Signatures with the names of types rather than what these stand for."""

    def renamed(part: str) -> str:
        part = part.replace(ARRAY_LIKE, "ArrayLike").replace("jaxlib._jax.Array", "Array")
        return re.sub(r"(\w+)\[Array, ('.*?')\] \| \1\[ndarray, \2\]", r"\1[ArrayLike, \2]", part)

    return signature and renamed(signature), returns and renamed(returns)


def without_abc(app: Sphinx, name: str, obj: object, options: object, bases: list[type]) -> None:
    """That a base is abstract is of no interest."""
    bases[:] = [base for base in bases if base is not abc.ABC]


def accessible(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """What screen readers cannot make sense of: lists without terms or items, labels of nothing."""

    def lines(signature: re.Match[str]) -> str:
        divided = re.sub("(</?)dd>", r"\1div>", signature[1])
        return f'(</span><div class="sig-lines">{divided}</div>'

    if "body" in context:
        body = re.sub(r"\(</span>\s*<dl>(.*?)</dl>", lines, context["body"], flags=re.DOTALL)
        label = ' aria-label="Toggle hidden content"'
        body = body.replace('role="doc-biblioentry"', 'role="listitem"')
        context["body"] = body.replace(f"<summary{label}>", "<summary>")


def check_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warns, and so fails the build, of public names that the API pages leave out."""
    domain = env.domains["py"]
    assert isinstance(domain, PythonDomain)
    for module in (elsjax, elsjax.nn):
        for name in module.__all__:
            public = f"{module.__name__}.{name}"
            if public != "elsjax.nn" and public not in domain.objects:
                logger.warning("%s is public, but on no page of docs/api", public)
            elif not getattr(module, name).__doc__:
                logger.warning("%s is public, but has no docstring", public)


def setup(app: Sphinx) -> dict[str, bool]:
    """What this page of settings adds to Sphinx."""
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("autodoc-process-docstring", as_written, priority=100)
    app.connect("autodoc-process-signature", shorter)
    app.connect("autodoc-process-bases", without_abc)
    app.connect("html-page-context", accessible)
    app.connect("env-check-consistency", check_public_names)
    return {"parallel_read_safe": True}
