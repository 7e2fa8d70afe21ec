"""Pages in notebooks."""

import html

from elsjax import checks


class NotebookPage:
    """A page that a notebook shows below the cell whose value it is.

    Args:
      page: HTML, as `mosaic_page` gives it.
      height: in CSS pixels.

    Raises:
      ValueError: if the height is no positive integer.
    """

    def __init__(self, page: str, height: int = 900) -> None:
        self.page = page
        self.height = checks.positive_int("height", height)

    def _repr_html_(self) -> str:
        # In a frame of its own, whose styles and scripts do not reach the notebook.
        return (
            f'<iframe sandbox="allow-scripts" title="elsjax" width="100%" height="{self.height}" '
            f'style="border: 0" srcdoc="{html.escape(self.page)}"></iframe>'
        )
