"""The report of a comparison."""

import base64
import html
import io
import urllib.parse
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from elsjax.pages.templates import asset, config_html, page
from elsjax.pages.words import DENOISERS


class Picture:
    """A figure of a report.

    Attributes:
      file: name of its file.
      caption: what it shows.
      alt: what there is to be seen, for those who do not see it.
      png: its content.
    """

    def __init__(self, file: str, caption: str, alt: str, figure: Figure) -> None:
        self.file = file
        self.caption = caption
        self.alt = alt
        content = io.BytesIO()
        figure.savefig(content, format="png")
        self.png = content.getvalue()


def report_page(
    title: str,
    paragraphs: Sequence[str],
    table: Sequence[Sequence[str]],
    pictures: Sequence[Picture],
    config: dict[str, Any],
    *,
    machines: Sequence[str] = (),
    mosaic: str | None = None,
) -> str:
    """The page, with its pictures in it.

    Args:
      title: of the page.
      paragraphs: what was done and found.
      table: rows of cells, the header first. The first cell of a row says what it is about.
      pictures: the figures.
      config: the configuration of the run.
      machines: the kinds of machine that are explained.
      mosaic: file of a mosaic page that lies beside, to link to; None if there is none.

    Returns:
      HTML.

    Raises:
      ValueError: if the configuration is no dict of JSON values.
    """
    return page(
        "report.html",
        title=html.escape(title),
        style=asset("page.css") + asset("report.css"),
        script=asset("report.js"),
        paragraphs="\n".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs),
        mosaic="" if mosaic is None else _link(mosaic),
        head=_row(table[0], "col"),
        rows="\n".join(_row(cells, "row") for cells in table[1:]),
        machines=_explained(machines),
        pictures="\n".join(map(_figure, pictures)),
        config=config_html(config),
    )


def _link(file: str) -> str:
    address = html.escape(urllib.parse.quote(file))
    return f'<p><a href="{address}">Where the pixels come from</a>: the mosaics of this run.</p>'


def _row(cells: Sequence[str], scope: str) -> str:
    """A row whose cells, or whose first cell alone, are headers."""
    tags = [f'th scope="{scope}"'] + ["td" if scope == "row" else 'th scope="col"'] * len(cells)
    found = [
        f"<{tag}>{html.escape(cell)}</{tag[:2]}>" for cell, tag in zip(cells, tags, strict=False)
    ]
    return f"<tr>{''.join(found)}</tr>"


def _explained(kinds: Sequence[str]) -> str:
    """What the machines do; "" without any."""
    if not kinds:
        return ""
    found = [f"<dt>{DENOISERS[k].name}</dt><dd>{DENOISERS[k].sentence}</dd>" for k in kinds]
    return f'<h2>The machines</h2>\n<dl class="machines">{"".join(found)}</dl>'


def _figure(picture: Picture) -> str:
    content = base64.b64encode(picture.png).decode()
    return (
        f'<figure><button type="button" class="enlarge" aria-haspopup="dialog">'
        f'<img alt="{html.escape(picture.alt)}" src="data:image/png;base64,{content}"></button>'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )
