"""The files that the pages are made of, and how values enter them."""

import html
import importlib.resources
import json
from string import Template
from typing import Any


def asset(name: str) -> str:
    """The text of a file of this package."""
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")


def page(name: str, *, title: str, style: str, **values: str) -> str:
    """A page, of a template and its values, which are HTML: what is text has been escaped.

    Args:
      name: file of the template of its body.
      title: of the page.
      style: CSS.
      values: by the name of their place in the body, all of them.

    Returns:
      HTML.
    """
    body = Template(asset(name)).substitute(values, title=title)
    return Template(asset("page.html")).substitute(title=title, style=style, body=body)


def script_json(values: Any) -> str:
    """JSON that can stand in a script element: no markup begins in it."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def config_html(config: dict[str, Any]) -> str:
    """A configuration as escaped, indented JSON.

    Raises:
      ValueError: if it is none.
    """
    if not isinstance(config, dict):
        raise ValueError(f"config={config!r} must be a dict")
    try:
        return html.escape(json.dumps(config, indent=2))
    except TypeError as error:
        raise ValueError(f"config must hold JSON values: {error}") from error
