"""Pages that show results in a browser, each one file that needs nothing else."""

from elsjax.pages.mosaic import mosaic_page, page_name
from elsjax.pages.notebook import NotebookPage
from elsjax.pages.report import Picture, report_page
from elsjax.pages.words import DENOISERS, MACHINES, Machine

__all__ = [
    "DENOISERS",
    "MACHINES",
    "Machine",
    "NotebookPage",
    "Picture",
    "mosaic_page",
    "page_name",
    "report_page",
]
