"""CSS and JavaScript of the report. The page prints well, and works without the script."""

from __future__ import annotations

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfb; --card: #fff; --ink: #1b1e23; --soft: #59606b; --rule: #dfe2e7; --focus: #0b57d0;
  --current: #17725f; --behind: #a85a00; --drifted: #8a3ab9; --failed: #b3261e; --unreachable: #6a717c;
  --wash: #f1f3f5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121417; --card: #181b1f; --ink: #e7e9ec; --soft: #a3abb6; --rule: #2c3138; --focus: #8ab4f8;
    --current: #4dbf9f; --behind: #f0a348; --drifted: #cf9bef; --failed: #ff8a80; --unreachable: #98a1ad;
    --wash: #1f2328;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.75rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; border-radius: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--card); padding: .25rem .5rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--rule); }
h3 { font-size: .95rem; margin: 1.25rem 0 .4rem; }
p { margin: .35rem 0; max-width: 50rem; }
a { color: var(--focus); }
.soft { color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; list-style: none; margin: .9rem 0 0; padding: 0; }
nav { font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(8, 1fr); gap: 1px; margin: 1.4rem 0 0;
  background: var(--rule); border: 1px solid var(--rule); border-radius: 6px; overflow: hidden; }
.tiles div { background: var(--card); padding: .6rem .85rem .65rem; display: flex; flex-direction: column-reverse;
  justify-content: flex-end; }
.tiles dt { color: var(--soft); font-size: .82rem; }
.tiles dd { margin: 0; font-size: 1.5rem; font-weight: 600; line-height: 1.25; letter-spacing: -.01em; }
.tiles .zero dd { color: var(--soft); font-weight: 400; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; vertical-align: top; padding: .34rem .9rem .34rem 0; border-bottom: 1px solid var(--rule); }
td { overflow-wrap: break-word; }
th code, td code, td .mono { overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; max-width: none; color: var(--soft); font-size: .9rem; }
thead th { color: var(--soft); font-weight: 500; font-size: .8rem; white-space: nowrap; vertical-align: bottom; }
tbody th { font-weight: 500; }
.n { text-align: right; white-space: nowrap; }
code, .mono { font: .86em/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
details { margin: .3rem 0; }
summary { cursor: pointer; width: fit-content; }
summary:hover { text-decoration: underline; }
td details { margin: 0; }
.paths { margin: .2rem 0 .4rem; padding-left: 1.1rem; }
.which { display: block; min-width: 13rem; }
.names { color: var(--soft); font-size: .86rem; margin: .15rem 0 .6rem; overflow-wrap: anywhere; max-width: none; }
.mark { display: inline-block; width: .82em; height: .82em; margin-right: .45em; vertical-align: -.06em; }
.mark, .map i { --c: var(--current); border-radius: 2px; background: var(--c); border: 1.5px solid var(--c); }
.behind { --c: var(--behind) !important; }
.drifted { --c: var(--drifted) !important; }
.failed { --c: var(--failed) !important; }
.unreachable { --c: var(--unreachable) !important; }
i.behind { border-color: color-mix(in srgb, var(--c) 60%, transparent);
  background: linear-gradient(135deg, var(--c) 50%, transparent 50%); }
i.drifted { background: repeating-linear-gradient(0deg, var(--c) 0 2px, transparent 2px 4px); }
i.failed { background: linear-gradient(45deg, transparent 38%, var(--c) 38% 62%, transparent 62%),
  linear-gradient(-45deg, transparent 38%, var(--c) 38% 62%, transparent 62%); border-color: var(--c); }
i.unreachable { background: transparent; border-style: dashed; }
.map { display: flex; flex-wrap: wrap; gap: 2px; margin: .1rem 0 .3rem; contain: content; }
.map i { width: 11px; height: 11px; }
.map i.hit { outline: 2px solid var(--focus); outline-offset: 1px; }
.group { margin: .9rem 0 0; }
.group h4 { font-size: .9rem; font-weight: 500; margin: 0 0 .3rem; }
.share { display: flex; height: 10px; min-width: 6rem; border-radius: 3px; overflow: hidden; background: var(--wash);
  margin-top: .36rem; }
.share b { background: var(--c); border-right: 1px solid var(--paper); }
.share b.updated { --c: var(--current); }
.share b.skipped { --c: var(--current); opacity: .45; }
.share b.rolled-back { --c: var(--behind); }
.share b.failed { background: repeating-linear-gradient(45deg, var(--failed) 0 3px, var(--paper) 3px 4px); }
.share b.unreachable { background: repeating-linear-gradient(90deg, var(--unreachable) 0 2px, transparent 2px 5px); }
.share b.busy { background: repeating-linear-gradient(-45deg, var(--current) 0 2px, var(--wash) 2px 5px); }
.word { white-space: nowrap; }
.word.bad { color: var(--failed); } .word.half { color: var(--behind); } .word.good { color: var(--current); }
svg { display: block; width: 100%; height: auto; margin: .8rem 0; font-size: 12px; }
.narrow { display: none; }
svg text { fill: var(--soft); } svg .name { fill: var(--ink); }
svg .axis { stroke: var(--rule); } svg .bar { fill: var(--current); } svg .open { fill-opacity: .35; }
svg .bad { fill: var(--failed); } svg .line { fill: none; stroke: var(--current); stroke-width: 2; }
svg .under { fill: var(--current); fill-opacity: .1; stroke: none; }
.find { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem; padding: .6rem 0; position: sticky; top: 0;
  background: var(--paper); z-index: 1; }
.find input { font: inherit; padding: .25rem .5rem; width: 16rem; max-width: 100%; color: inherit;
  background: var(--card); border: 1px solid var(--unreachable); border-radius: 4px; }
.all tbody th, .all td:nth-child(-n+3) { white-space: nowrap; }
.all tbody tr { content-visibility: auto; contain-intrinsic-size: auto 2rem; }
[hidden] { display: none !important; }
footer { margin-top: 3rem; border-top: 1px solid var(--rule); padding-top: .75rem; }
footer { font-size: .85rem; color: var(--soft); }
@media (max-width: 66rem) { .tiles { grid-template-columns: repeat(4, 1fr); } }
@media (max-width: 42rem) {
  .broad { display: none; } .narrow { display: block; max-width: 32rem; }
  body { padding: 1rem 1rem 3rem; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  table, tbody, tr, tbody th, td { display: block; }
  thead { display: none; }
  tbody tr { border-bottom: 1px solid var(--rule); padding: .5rem 0; }
  tbody th, td { position: relative; border: 0; padding: .1rem 0 .1rem 6.8rem; text-align: left !important;
    white-space: normal !important; }
  tbody th::before { content: var(--h1); }
  td:nth-child(2)::before { content: var(--h2); } td:nth-child(3)::before { content: var(--h3); }
  td:nth-child(4)::before { content: var(--h4); } td:nth-child(5)::before { content: var(--h5); }
  td:nth-child(6)::before { content: var(--h6); } td:nth-child(7)::before { content: var(--h7); }
  td:nth-child(8)::before { content: var(--h8); } td:nth-child(9)::before { content: var(--h9); }
  tbody th::before, td::before { position: absolute; left: 0; top: .2rem; width: 6.4rem; color: var(--soft);
    font-size: .8rem; font-weight: 400; }
  td:empty { display: none; }
}
@media print { body { max-width: none; font-size: 11px; } nav, .find { display: none; } .wide { overflow: visible; } }
"""

# The search boxes: a part of a node's name filters the map and the list, a part of an advisory filters the fixes.
# Without this script, the page is complete except for these boxes.
JS = """
(() => {
  const seek = document.querySelector('.find.advisory'), fixes = document.querySelectorAll('.advisories tbody tr');
  if (seek) {
    seek.hidden = false;
    seek.querySelector('input').addEventListener('input', event => {
      const part = event.target.value.trim().toLowerCase();
      let count = 0;
      for (const row of fixes) {
        row.hidden = !row.firstElementChild.textContent.toLowerCase().includes(part); count += !row.hidden;
      }
      seek.querySelector('output').textContent = part ? count + ' of ' + fixes.length + ' advisories' : '';
    });
  }
  const box = document.querySelector('.find:not(.advisory)'), input = box && box.querySelector('input');
  if (!input) return;
  const said = box.querySelector('output'), list = document.querySelector('.all');
  const cells = [...document.querySelectorAll('.map i')], rows = list ? [...list.querySelectorAll('tbody tr')] : [];
  const name = row => row.firstElementChild.textContent;
  box.hidden = false;
  input.addEventListener('input', () => {
    const part = input.value.trim().toLowerCase(), fits = text => text.toLowerCase().includes(part);
    for (const cell of cells) cell.classList.toggle('hit', part !== '' && fits(cell.title));
    let count = 0;
    for (const row of rows) { row.hidden = !fits(name(row)); count += !row.hidden; }
    if (list) list.open = part !== '';
    said.textContent = part ? count + ' of ' + rows.length + ' nodes' : '';
  });
})();
"""
