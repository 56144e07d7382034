"""Charts as inline SVG: a title that a screen reader says, a bar or a line, its scale. Colours follow the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 12, 36
SERIES_COLOURS = 8


def histogram(title: str, edges: Sequence[float], counts: Sequence[int], unit: str, logarithmic: bool = False) -> str:
    """Bars between `edges` (one more than `counts`), evenly wide: over a logarithmic scale the edges are geometric."""
    most, width = max([*counts, 1]), (WIDTH - LEFT - RIGHT) / max(len(counts), 1)
    bars = "".join(
        _bar("bar", LEFT + i * width, count / most, width - (1 if width > 3 else 0), _range(edges, i, unit, count))
        for i, count in enumerate(counts)
        if count
    )
    ticks = [(LEFT + i * width, _short(edges[i])) for i in _spread(len(counts))]
    return _chart(title, bars, ticks, f"{most:,}", unit + (", logarithmic" if logarithmic else ""))


def bars(title: str, values: Mapping[str, float], unit: str) -> str:
    """One bar a name."""
    most, width = max([*values.values(), 1e-12]), (WIDTH - LEFT - RIGHT) / max(len(values), 1)
    drawn = "".join(
        _bar("bar", LEFT + i * width + 2, value / most, max(1, width - 4), f"{name}: {_short(value)} {unit}")
        for i, (name, value) in enumerate(values.items())
    )
    ticks = [(LEFT + (i + 0.2) * width, name[:12]) for i, name in enumerate(values)] if len(values) <= 12 else []
    return _chart(title, drawn, ticks, _short(most), unit)


def line(title: str, points: Sequence[tuple[float, float]], x_unit: str, y_unit: str) -> str:
    """A line through points in order of x."""
    last, most = max([x for x, _ in points] + [1e-9]), max([y for _, y in points] + [1e-9])
    across, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    path = " ".join(f"{LEFT + across * x / last:.1f},{TOP + tall * (1 - y / most):.1f}" for x, y in points)
    ticks = [(LEFT, "0"), (WIDTH - RIGHT - 40, _short(last))]
    return _chart(
        title, f'<polyline class="line" stroke-width="2" points="{path}"/>', ticks, _short(most), x_unit, y_unit
    )


def stacked(title: str, rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """One horizontal bar a row, made of named parts: seconds by stage, shares of classes."""
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    most, step = max([sum(parts.values()) for parts in rows.values()] + [1e-12]), 22
    drawn, height = [], TOP + step * len(rows) + 8
    for i, (row, parts) in enumerate(rows.items()):
        x, y = 150.0, TOP + i * step
        drawn.append(f'<text x="144" y="{y + 13}" text-anchor="end">{escape(_cut(row))}</text>')
        for name, value in parts.items():
            width = (WIDTH - 150 - RIGHT) * value / most
            tip = escape(f"{row}, {name}: {_short(value)} {unit}")
            colour = f"s{names.index(name) % SERIES_COLOURS}"
            box = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{step - 6}"'
            drawn.append(f'<rect class="{colour}" {box}><title>{tip}</title></rect>')
            x += width
    key = " ".join(
        f'<span><svg class="key" viewBox="0 0 9 9" aria-hidden="true"><rect class="s{i % SERIES_COLOURS}" width="9" '
        f'height="9"/></svg> {escape(name)}</span>'
        for i, name in enumerate(names)
    )
    named = f'role="img" aria-label="{escape(title, quote=True)}"'
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" {named}>{"".join(drawn)}</svg>'
    return f"<figure><figcaption>{escape(title)}, {escape(unit)}</figcaption>{svg}<div>{key}</div></figure>"


def _chart(title: str, drawn: str, ticks: Sequence[tuple[float, str]], top: str, x_unit: str, y_unit: str = "") -> str:
    floor = HEIGHT - BOTTOM
    labels = "".join(f'<text x="{x:.1f}" y="{floor + 14}">{escape(text)}</text>' for x, text in ticks)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{drawn}'
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>{labels}'
        f'<text x="{LEFT - 6}" y="{TOP + 10}" text-anchor="end">{escape(top)}</text>'
        f'<text x="{LEFT - 6}" y="{floor}" text-anchor="end">{escape(y_unit) or "0"}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x_unit)}</text></svg></figure>'
    )


def _bar(kind: str, x: float, share: float, width: float, tip: str) -> str:
    tall = (HEIGHT - TOP - BOTTOM) * share
    box = f'x="{x:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
    return f'<rect class="{kind}" {box}><title>{escape(tip)}</title></rect>'


def _range(edges: Sequence[float], i: int, unit: str, count: int) -> str:
    return f"{_short(edges[i])} to {_short(edges[i + 1])} {unit}: {count:,}"


def _spread(count: int, most: int = 6) -> range:
    return range(0, count, max(1, -(-count // most)))


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cut(name: str, most: int = 22) -> str:
    return name if len(name) <= most else "..." + name[3 - most :]
