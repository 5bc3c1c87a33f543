"""What was measured, as a table, as ratios, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from xml.sax.saxutils import escape

from bench.measure import FIGURES, Figure

WIRE = " @wire"


@dataclass
class Results:
    """Values by contender and figure, one for each round; NaN-free: what failed is absent."""

    rounds: int = 0
    values: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    """Title of the contender, name of the figure, number of the round: value."""
    missing: list[str] = field(default_factory=list)
    """What could not be measured and why, for people."""
    about: dict[str, str] = field(default_factory=dict)
    """Machine and versions."""

    def add(self, title: str, figure: str, number: int, value: float) -> None:
        """Note a value of round *number*."""
        self.values.setdefault(title, {}).setdefault(figure, {})[number] = value

    def of(self, title: str, figure: str) -> dict[int, float]:
        """The values by round; empty if there are none."""
        return self.values.get(title, {}).get(figure, {})


@dataclass(frozen=True)
class Target:
    """A ratio that is promised: of one contender to another, or its inverse if less is better."""

    what: str
    figure: str
    ours: str
    theirs: str
    target: float


GO = "wireguard-go"
TARGETS = (
    Target("native UDP", "tcp", "pyvpn", GO, 1.3),
    Target("native UDP", "reverse", "pyvpn", GO, 1.3),
    Target("native UDP", "tcp", "pyvpn" + WIRE, GO + WIRE, 1.5),
    Target("native UDP", "reverse", "pyvpn" + WIRE, GO + WIRE, 1.5),
    Target("server with an app", "tcp", "pyvpn, app", GO, 0.65),
    Target("server with an app", "reverse", "pyvpn, app", GO, 0.65),
    Target("native UDP", "cpu", "pyvpn", GO, 0.75),
    Target("native UDP", "udp", "pyvpn", GO, 2.0),
    Target("native UDP", "small", "pyvpn", GO, 1.0),
    Target("native UDP", "ping", "pyvpn", GO, 1.2),
    Target("native UDP", "loaded99", "pyvpn", GO, 1.0),
    Target("server", "rss", "pyvpn", GO, 0.4),
    Target("native UDP", "tcp", "pyvpn", "OpenVPN", 4.0),
    Target("TLS", "tcp", "pyvpn TLS", "ocserv TLS", 2.5),
)


def ratios(results: Results, figure: str, ours: str, theirs: str) -> list[float]:
    """Ours by theirs, of each round that has both, sorted.

    By round: the machine's speed drifts, and what was measured side by side drifts together.
    """
    one, other = results.of(ours, figure), results.of(theirs, figure)
    return sorted(one[number] / other[number] for number in one if other.get(number))


def spell(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    if not values:
        return "-"
    shown = f"{median(values):.{digits}f}"
    low, high = (f"{edge:.{digits}f}" for edge in (min(values), max(values)))
    return shown if low == high else f"{shown} ({low}-{high})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A grid table of reStructuredText; the first row has the titles."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    text = [line]
    for number, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        text.append("| " + " | ".join(cells) + " |")
        text.append(line.replace("-", "=") if number == 0 else line)
    return "\n".join(text)


def to_rst(results: Results) -> str:
    """The whole report."""
    present = [name for name in FIGURES if any(name in each for each in results.values.values())]
    text = ["Side by side", "============", ""]
    text += [f"* {key}: {value}" for key, value in results.about.items()]
    text += ["", f"Medians of {results.rounds} rounds, ranges in brackets."]
    for wire in (False, True):
        titles = [title for title in results.values if title.endswith(WIRE) == wire]
        if not titles:
            continue
        rows = [["", *(title.removesuffix(WIRE) for title in titles)]]
        for name in present:
            figure = FIGURES[name]
            found = [list(results.of(each, name).values()) for each in titles]
            cells = [spell(each, figure.digits) for each in found]
            rows.append([f"{figure.title}, {figure.unit}", *cells])
        said = "each packet crosses the cable alone (@wire)" if wire else "the cable has offloads"
        text += ["", f"Where {said}:", "", table(rows)]
    if compared := _against(results):
        text += ["", "Ratios", "======", "", "Of each round, then the median.", "", compared]
    if results.missing:
        text += ["", "Missing", "=======", "", *(f"* {each}" for each in results.missing)]
    return "\n".join(text) + "\n"


def _against(results: Results) -> str:
    rows = [["", "of", "against", "ratio", "target", ""]]
    for target in TARGETS:
        found = ratios(results, target.figure, target.ours, target.theirs)
        if not found:
            continue
        figure = FIGURES[target.figure]
        more = figure.more_is_better
        met = median(found) >= target.target if more else median(found) <= target.target
        rows.append(
            [
                f"{target.what}: {figure.title}",
                target.ours,
                target.theirs,
                spell(found, 2),
                f"{'>=' if more else '<='} {target.target:g}",
                "met" if met else "not met",
            ]
        )
    return table(rows) if len(rows) > 1 else ""


# -- the picture

WIDTH, BAR, GAP, LEFT, TOP = 960, 16, 26, 190, 34
_OURS, _OTHERS = "#2b6cb0", "#a0aec0"


def to_svg(results: Results, shown: Sequence[str] = ("tcp", "reverse", "four", "cpu")) -> str:
    """Bars for some of the figures: medians, and the range as a line."""
    panels: list[str] = []
    y = 10
    for name in shown:
        figure = FIGURES[name]
        medians = {
            title: list(results.of(title, name).values())
            for title in results.values
            if results.of(title, name)
        }
        if medians:
            panels += _panel(figure, medians, y)
            y += TOP + BAR * len(medians) + GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}"'
            f' viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{y}" fill="white"/>',
            *panels,
            "</svg>\n",
        ]
    )


def _panel(figure: Figure, values: Mapping[str, Sequence[float]], y: int) -> list[str]:
    most = max(map(max, values.values())) or 1.0
    scale = (WIDTH - LEFT - 120) / most
    better = "more" if figure.more_is_better else "less"
    title = escape(f"{figure.title}, {figure.unit} ({better} is better)")
    lines = [f'<text x="10" y="{y + 14}" font-size="13" font-weight="bold">{title}</text>']
    for number, (name, found) in enumerate(values.items()):
        top = y + TOP - 10 + BAR * number
        middle, width = top + BAR / 2, median(found) * scale
        colour = _OURS if name.startswith("pyvpn") else _OTHERS
        low, high = LEFT + min(found) * scale, LEFT + max(found) * scale
        lines += [
            f'<text x="{LEFT - 6}" y="{middle + 4:.0f}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{top + 2}" width="{width:.1f}" height="{BAR - 4}"'
            f' fill="{colour}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="black"/>',
            f'<text x="{high + 6:.1f}" y="{middle + 4:.0f}">'
            f"{escape(spell(found, figure.digits))}</text>",
        ]
    return lines
