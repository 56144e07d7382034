"""Pieces of a page, and the page: every text is escaped here, so that a file's name cannot become markup."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isnan

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --ink: #1d1e20; --dim: #55585e; --accent: #1f6fc0 }
@media (prefers-color-scheme: dark) { :root { --ink: #ececee; --dim: #b0b4bb; --accent: #6aaeff } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin-top: 2rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } thead th { background: var(--soft) }
.facts th, .facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top }
.pictures, .charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: 1rem }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)) }
figure { margin: 0 } figure img { width: 100%; image-rendering: pixelated; background: #000 }
figure svg { width: 100%; height: auto } svg text { fill: var(--dim); font: 12px system-ui, sans-serif }
svg .bar { fill: var(--accent) } svg .axis { stroke: var(--line) } svg .line { stroke: var(--accent); fill: none }
.s0 { fill: #3b82c4 } .s1 { fill: #d9822b } .s2 { fill: #2f9e7a } .s3 { fill: #b065b8 } .s4 { fill: #8c8c3e }
.s5 { fill: #c2556a } .s6 { fill: #6c7a89 } .s7 { fill: #a0703c }
figcaption { font-size: .85rem; overflow-wrap: anywhere } .key { display: inline-block; width: .8rem; height: .8rem }
.green { color: #18a050 } .red { color: #e03030 } .yellow { color: #b89000 }
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture and what it shows."""

    url: str
    alt: str
    caption: str


def document(title: str, body: str) -> str:
    """The whole page; `body` is HTML made here."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A part of a page under its heading; nothing at all when there is nothing in it."""
    inside = "".join(parts)
    return f"<h2>{escape(heading)}</h2>{inside}" if inside else ""


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts with a header row; it scrolls by itself where it is too wide."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(entries: Mapping[str, object]) -> str:
    """Names and values, one a row."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>' for name, value in entries.items()
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def figures(pictures: Iterable[Figure]) -> str:
    """Pictures side by side, as many as the window is wide."""
    shown = "".join(
        f'<figure><img src="{one.url}" alt="{escape(one.alt, quote=True)}" loading="lazy">'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in pictures
    )
    return f'<div class="pictures">{shown}</div>' if shown else ""


def png_url(png: bytes) -> str:
    """A PNG file as text that a page can hold."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table: whole ones without decimals, undefined ones empty."""
    if value is None or isnan(value):
        return ""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.{digits}f}"
