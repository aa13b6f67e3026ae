"""Plots as SVG written by hand: a few lines need no plotting library."""

from __future__ import annotations

import math
import statistics

from bench.results import Latency

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 320, 72, 40, 16, 60
_COLOURS = {"p50": "#2a9d8f", "p99": "#e76f51"}
_BUDGET_MS = 50.0


def latency_plot(found: Latency) -> str:
    """Medians of the runs by rate, both axes logarithmic; the dashed line is the budget of 50 ms."""
    rates = sorted({one.rate for run in found.runs for one in run})
    measured = [one for run in found.runs for one in run if one.latency_ms is not None]
    lines = {
        name: [
            (rate, statistics.median(getattr(one.latency_ms, name) for one in measured if one.rate == rate))
            for rate in sorted({one.rate for one in measured})
        ]
        for name in _COLOURS
    }
    values = [ms for points in lines.values() for _, ms in points] + [_BUDGET_MS]
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))

    def x(rate: float) -> float:
        span = math.log(rates[-1] / rates[0]) or 1.0
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(rate / rates[0]) / span

    def y(ms: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * math.log(ms / low) / math.log(high / low)

    marks: list[str] = []
    ms = float(low)
    while ms <= high * 1.001:
        marks.append(_line(_LEFT, y(ms), _WIDTH - _RIGHT, y(ms), "#ddd"))
        marks.append(_text(_LEFT - 6, y(ms) + 4, f"{ms:,.0f} ms" if ms >= 1 else f"{ms:g} ms", "end"))
        ms *= 10
    marks += [_text(x(rate), _HEIGHT - _BOTTOM + 18, f"{rate:g}", "middle") for rate in rates]
    marks.append(_line(_LEFT, y(_BUDGET_MS), _WIDTH - _RIGHT, y(_BUDGET_MS), "#888", "4 4"))
    marks.append(_text(_WIDTH - _RIGHT + 6, y(_BUDGET_MS) + 4, "50 ms", "start"))
    for name, points in lines.items():
        if not points:
            continue
        path = " ".join(f"{x(rate):.1f},{y(ms):.1f}" for rate, ms in points)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{_COLOURS[name]}" stroke-width="2"/>')
        marks += [f'<circle cx="{x(rate):.1f}" cy="{y(ms):.1f}" r="3" fill="{_COLOURS[name]}"/>' for rate, ms in points]
        marks.append(_text(x(points[-1][0]) + 8, y(points[-1][1]) - 6, name, "start", _COLOURS[name]))
    marks.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "events/s", "middle"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>', *marks, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "none") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-dasharray="{dashes}"/>'
    )


def _text(x: float, y: float, words: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


_KIND_COLOURS = ("#2a9d8f", "#457b9d", "#e9a23b", "#e76f51", "#6d597a")
_TICKS = ((1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3_600, "1 h"), (86_400, "1 d"))


def delay_plot(delays_ms: dict[str, list[int]]) -> str:
    """By kind, the share of its positives that is known so long after the exposure; time is logarithmic. Delays in order."""
    first_s, last_s = 0.1, max(3_600.0, *(found[-1] / 1000 for found in delays_ms.values()))

    def x(seconds: float) -> float:
        share = math.log(max(seconds, first_s) / first_s) / math.log(last_s / first_s)
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share

    def y(share: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * share

    marks = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        marks.append(_line(_LEFT, y(share), _WIDTH - _RIGHT, y(share), "#ddd"))
        marks.append(_text(_LEFT - 6, y(share) + 4, f"{100 * share:.0f} %", "end"))
    for seconds, name in _TICKS:
        if seconds <= last_s:
            marks.append(_text(x(seconds), _HEIGHT - _BOTTOM + 18, name, "middle"))
    for number, (kind, found) in enumerate(delays_ms.items()):
        colour = _KIND_COLOURS[number]
        places = sorted({round(step * (len(found) - 1) / 200) for step in range(201)})
        path = " ".join(f"{x(found[place] / 1000):.1f},{y((place + 1) / len(found)):.1f}" for place in places)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        marks.append(_text(_LEFT + 12, _TOP + 18 * (number + 1), kind, "start", colour))
    marks.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "after the exposure", "middle"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>', *marks, "</svg>", ""])
