"""Text as HTML, and a table for notebooks. Without torch, so that captions load fast."""

import html
from collections.abc import Iterable, Sequence


def escaped(text: str) -> str:
    """Text for HTML, also within quotes. Other than ASCII is written as numbers, so half a surrogate does no harm."""
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode()


def rows_as_html(names: Sequence[str], rows: Iterable[Sequence[str]], *, title: str) -> str:
    """Return a table as HTML. The cells are shown as text, not as HTML.

    Args:
        names: Names of the columns.
        rows: The rows, each with one string per column.
        title: Text above the table.
    """
    head = "".join(f"<th>{escaped(name)}</th>" for name in names)
    cells = [[f'<td style="text-align:start" dir="auto">{escaped(text)}</td>' for text in row] for row in rows]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return (
        f'<table><caption style="text-align:start">{escaped(title)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )
