"""A page that shows the results of a run: one file, for a browser."""

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: 0.2rem 0.8rem; border-bottom: 1px solid #ddd; text-align: right }
figure { margin: 2rem 0 } img { max-width: 100% } figcaption { color: #555 }
pre { background: #f6f6f6; padding: 1rem; overflow: auto; font-size: 13px }
"""


class Picture:
    """A figure of a report.

    Attributes:
      file: name of its file.
      caption: what it shows.
      png: its content.
    """

    def __init__(self, file: str, caption: str, figure: Figure) -> None:
        self.file = file
        self.caption = caption
        content = io.BytesIO()
        figure.savefig(content, format="png")
        self.png = content.getvalue()


def report_page(
    title: str,
    paragraphs: Sequence[str],
    table: Sequence[Sequence[str]],
    pictures: Sequence[Picture],
    config: dict[str, Any],
) -> str:
    """The page, with its pictures in it.

    Args:
      title: of the page.
      paragraphs: what was done and found.
      table: rows of cells, the header first.
      pictures: the figures.
      config: the configuration of the run.

    Returns:
      HTML.
    """

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    figures = [
        f'<figure><img alt="{html.escape(picture.caption)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture.png).decode()}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    ]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">',
            f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{html.escape(title)}</h1>",
            *[f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs],
            "<table>",
            row(table[0], "th"),
            *[row(cells, "td") for cells in table[1:]],
            "</table>",
            *figures,
            f"<h2>Configuration</h2><pre>{html.escape(json.dumps(config, indent=2))}</pre>",
            "</body></html>\n",
        ]
    )
