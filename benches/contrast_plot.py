"""Accuracy by the number of trained numbers, as an SVG that needs nothing else."""

import math
import statistics
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 64, 336, 24, 56
COLOURS = {"grpo own": "#1f6fb4", "sft own": "#c2571a", "sft other": "#6b3fa0"}


class Curve(NamedTuple):
    """The accuracies of each seed, by the number of numbers."""

    name: str
    points: dict[int, list[float]]
    way: str
    solid: bool


def svg(curves: list[Curve], base: float) -> str:
    """Means joined by lines, bars from the least to the greatest seed, the base as a grey line."""
    params = sorted({p for curve in curves for p in curve.points})
    values = [v for curve in curves for found in curve.points.values() for v in found] + [base]
    low, high = math.floor(min(values) * 10) / 10, min(1.0, math.ceil(max(values) * 10) / 10)
    first, last = math.log(max(1, min(params))), math.log(max(params))

    def x(count: float) -> float:
        share = (math.log(count) - first) / ((last - first) or 1)
        return LEFT + 16 + share * (WIDTH - LEFT - RIGHT - 32)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    def text(at: float, of: float, words: str, anchor: str = "start", more: str = "") -> str:
        return f'<text x="{at:.1f}" y="{of:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'

    def line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
        return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'

    right = WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="13" fill="#222">',
        "<title>Held-out accuracy by the number of trained numbers</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for tick in range(round(low * 10), round(high * 10) + 1):
        parts += [line(LEFT, y(tick / 10), right, y(tick / 10), "#e4e4e4"),
                  text(LEFT - 8, y(tick / 10) + 4, f"{10 * tick} %", "end")]
    parts += [text(x(count), HEIGHT - BOTTOM + 20, str(count), "middle") for count in params]
    parts += [text((LEFT + right) / 2, HEIGHT - 12, "trained numbers", "middle"),
              line(LEFT, y(base), right, y(base), "#777", ' stroke-dasharray="2 4" stroke-width="1.5"'),
              line(right + 12, TOP + 6, right + 36, TOP + 6, "#777", ' stroke-dasharray="2 4" stroke-width="1.5"'),
              text(right + 42, TOP + 10, "base")]
    for index, curve in enumerate(curves):
        colour = COLOURS[curve.way]
        dash = "" if curve.solid else ' stroke-dasharray="6 4"'
        # Side by side, so that bars of one number of numbers do not hide each other.
        places = {count: x(count) + 3 * (index - (len(curves) - 1) / 2) for count in curve.points}
        means = {count: statistics.mean(found) for count, found in curve.points.items()}
        way = " ".join(f"{places[count]:.1f},{y(mean):.1f}" for count, mean in means.items())
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for count, found in curve.points.items():
            at = places[count]
            parts.append(line(at, y(min(found)), at, y(max(found)), colour))
            if len(curve.points) > 1:
                parts.append(f'<circle cx="{at:.1f}" cy="{y(means[count]):.1f}" r="3.5" fill="{colour}"/>')
            else:
                parts.append(f'<rect x="{at - 4:.1f}" y="{y(means[count]) - 4:.1f}" width="8" height="8" '
                             f'fill="{colour}"/>')
        row = TOP + 10 + 22 * (index + 1)
        if len(curve.points) > 1:
            parts.append(line(right + 12, row - 4, right + 36, row - 4, colour, f' stroke-width="2"{dash}'))
        else:
            parts.append(f'<rect x="{right + 20}" y="{row - 8}" width="8" height="8" fill="{colour}"/>')
        parts.append(text(right + 42, row, curve.name))
    return "\n".join([*parts, "</svg>"]) + "\n"
