"""A comparison as one HTML page, by the parts of a report."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dnewton import __version__
from dnewton.reporting import compare_tables, page, pictures
from dnewton.reporting.compare_pictures import charts
from dnewton.reporting.comparison import Entry, Target, methods
from dnewton.reporting.groups import Group
from dnewton.reporting.marks import escape
from dnewton.reporting.tables import Table, html_table


def compare_page(entries: Sequence[Entry], targets: Sequence[Target], title: str, notes: Sequence[str]) -> str:
    """The page: tables and curves of the methods, then what a report says of the runs; time, messages and layouts of
    the first run of each method."""
    found = methods(entries)
    drawn = [method for method in found if method.drawn]
    groups = [Group(m.label, [e.run for e in m.drawn], m.index) for m in drawn]
    firsts = [method.drawn[0].run for method in drawn]
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Written by dnewton {escape(__version__)} on {time.strftime("%Y-%m-%d %H:%M")}.</p>',
        *(f'<p class="warn">{escape(text)}</p>' for text in [*notes, *compare_tables.failures(entries)]),
        _table(compare_tables.ends(found)),
        *(_table(compare_tables.reached(found, target)) for target in targets),
        *page.section("Convergence", charts(found, targets)),
        *page.section("The methods", pictures.method(groups)),
        *page.cost(firsts),
        *page.layouts(firsts),
        "<h2>Runs in detail</h2>",
        *(page.details(entry.run) for entry in entries),
    ]
    return page.document(title, body)


def _table(table: Table) -> str:
    """With its rows of least and most indented."""
    head, rows = table
    return html_table(head, [[cell.replace("  ", "\N{NO-BREAK SPACE}" * 3) for cell in row] for row in rows])
