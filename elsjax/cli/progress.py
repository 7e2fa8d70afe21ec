"""Progress callbacks of the library, drawn as bars."""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A callback, `progress(done, total)`, that draws a bar from its first call on."""
    with bars(unit) as progress:
        yield lambda done, total: progress(description, done, total)


@contextlib.contextmanager
def bars(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A callback, `progress(name, done, total)`, that draws one bar after another, by name."""
    drawn: tqdm | None = None
    drawn_name = ""

    def progress(name: str, done: int, total: int) -> None:
        nonlocal drawn, drawn_name
        if drawn is None or name != drawn_name:
            if drawn is not None:
                drawn.close()
            drawn = tqdm(total=total, initial=done, desc=name, unit=unit)
            drawn_name = name
        drawn.update(done - drawn.n)

    try:
        yield progress
    finally:
        if drawn is not None:
            drawn.close()
