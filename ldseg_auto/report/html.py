"""The page: one HTML file with its own style, no script, no link to anything outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ldseg_auto.evaluation.picture import COLOURS

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --card: #f6f7f8; --ink: #1c2126; --muted: #5b646d; --rule: #d9dde1;
  --main: #0072b2; --other: #d55e00; --third: #009e73; --odd: #b3261e; --soft: rgba(0, 114, 178, 0.28); }
@media (prefers-color-scheme: dark) { :root { --page: #15181b; --card: #1f2327; --ink: #e6e8ea; --muted: #a0a8b0; --rule: #3a4047;
  --main: #56b4e9; --other: #f0a45d; --third: #3fc79a; --odd: #ff8a80; --soft: rgba(86, 180, 233, 0.3); } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 60px; max-width: 1080px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 20px; margin: 40px 0 8px; }
h3 { font-size: 15px; margin: 18px 0 6px; } p { margin: 6px 0; max-width: 75ch; } .muted { color: var(--muted); }
a { color: var(--main); } nav { margin: 12px 0; display: flex; flex-wrap: wrap; gap: 4px 16px; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0; }
.tile { background: var(--card); border-radius: 6px; padding: 8px 14px; } .tile b { display: block; font-size: 20px; line-height: 1.3; }
.tile span, figcaption { color: var(--muted); font-size: 13px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 4px 16px 4px 0; border-bottom: 1px solid var(--rule); overflow-wrap: break-word; }
th { font-weight: 600; } td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 18px 28px; align-items: start;
  margin-top: 12px; }
figure { margin: 0; } .charts figure > b { display: block; margin-bottom: 2px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--muted); font-size: 11px; text-anchor: middle; } svg text.left, svg text.name { text-anchor: end; }
svg text.name { fill: var(--ink); font-size: 12px; } svg text.above { text-anchor: start; }
svg .rule { stroke: var(--rule); stroke-width: 1; } svg .target { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 5 4; }
svg .area { fill: var(--soft); } svg .step { fill: none; stroke: var(--other); stroke-width: 1.6; }
svg .hit { fill: transparent; } svg .hit:hover { fill: var(--rule); fill-opacity: 0.4; }
svg circle.case { fill: var(--main); fill-opacity: 0.45; } svg circle.odd { fill: var(--odd); }
svg .range line { stroke-width: 1.2; } svg .range.case line { stroke: var(--main); stroke-opacity: 0.5; }
svg .range.case circle { fill: var(--main); } svg .range.odd line { stroke: var(--odd); } svg .range.odd circle { fill: var(--odd); }
svg .median { stroke: var(--ink); stroke-width: 1.6; } svg .line { fill: none; stroke-width: 2; }
svg .line.s0 { stroke: var(--main); } svg .line.s1 { stroke: var(--other); } svg .line.s2 { stroke: var(--third); }
svg circle.s0 { fill: var(--main); } svg circle.s1 { fill: var(--other); } svg circle.s2 { fill: var(--third); }
svg .ring { fill: none; stroke: var(--ink); stroke-width: 1.8; pointer-events: all; }
svg .line.t0 { stroke: var(--ink); stroke-width: 2.4; } svg circle.t0, .key i.t0 { fill: var(--ink); background: var(--ink); }
svg .line.t1 { stroke: var(--main); } svg circle.t1, .key i.t1 { fill: var(--main); background: var(--main); }
svg .line.t2 { stroke: var(--other); } svg circle.t2, .key i.t2 { fill: var(--other); background: var(--other); }
svg .line.t3 { stroke: var(--third); } svg circle.t3, .key i.t3 { fill: var(--third); background: var(--third); }
svg .line.t4 { stroke: #b0649b; } svg circle.t4, .key i.t4 { fill: #b0649b; background: #b0649b; }
svg .line.t5 { stroke: #8a8f98; } svg circle.t5, .key i.t5 { fill: #8a8f98; background: #8a8f98; }
svg .line.t6 { stroke: #a6761d; } svg circle.t6, .key i.t6 { fill: #a6761d; background: #a6761d; }
.pictures img { max-width: 100%; height: auto; }
.key { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; color: var(--muted); }
.key i { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin-right: 6px; vertical-align: -1px; }
.cases { display: flex; flex-wrap: wrap; gap: 14px; margin: 10px 0; } .cases figure { width: 208px; }
.cases figcaption { overflow-wrap: anywhere; line-height: 1.35; } .cases figcaption b { color: var(--ink); font-weight: 600; }
.layers { position: relative; display: block; background: #000; margin: 0 auto 4px; }
.layers img { position: absolute; inset: 0; width: 100%; height: 100%; }
.layers:hover img + img, .layers:focus img + img { visibility: hidden; }
.meter { background: var(--card); height: 14px; border-radius: 3px; position: relative; min-width: 160px; }
.meter i { position: absolute; left: 0; top: 0; bottom: 0; border-radius: 3px; background: var(--main); }
.meter i.over { background: var(--odd); }
.warning { border-left: 4px solid var(--odd); padding: 2px 0 2px 12px; margin: 10px 0; }
@media print { .scroll { overflow: visible; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page with its anchor."""

    anchor: str
    title: str
    body: str  # HTML


def page(title: str, lead: str, sections: Sequence[Section], key: str) -> str:
    """The whole file.

    Args:
        lead: HTML above the first section.
        key: names what the page was made from.
    """
    style = STYLE + "".join(f".k{i} {{ background: {colour}; }}\n" for i, colour in enumerate(COLOURS))
    nav = " ".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections)
    body = "\n".join(f'<section id="{s.anchor}"><h2>{escape(s.title)}</h2>\n{s.body}\n</section>' for s in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="made-from" content="{escape(key)}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n<style>{style}</style>\n'
        f"</head>\n<body>\n<h1>{escape(title)}</h1>\n{lead}\n<nav>{nav}</nav>\n{body}\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of text; the columns `numbers` are set to the right."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=num' * (i in numbers)}>{escape(v)}</{tag}>" for i, v in enumerate(values))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(title: str, content: str, caption: str = "") -> str:
    """A chart with its title and a line below."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure><b>{escape(title)}</b>{content}{below}</figure>"


def charts(figures: Sequence[str]) -> str:
    """Figures side by side, where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'


def paragraph(text: str, style: str = "") -> str:
    """Escaped text."""
    return f"<p{f' class={style}' if style else ''}>{escape(text)}</p>"


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Numbers with their names."""
    return f'<div class="tiles">{"".join(f"<div class=tile><b>{escape(n)}</b><span>{escape(t)}</span></div>" for n, t in values)}</div>'


def key(names: Sequence[str]) -> str:
    """The colours of the classes."""
    items = "".join(f'<span><i class="k{i % len(COLOURS)}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<div class="key">{items}</div>'
