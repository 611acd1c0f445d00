#pragma once

#include <string_view>

namespace troupe::training {

/// The style sheet of report.html. Colours are variables, with a second set for dark screens; the series'
/// colours keep a contrast of at least 3 to 1 against their background, and differ in lightness as well as
/// in hue, for readers who do not tell all hues apart.
inline constexpr std::string_view kReportStyle = R"css(
:root { color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #1b2430; --muted: #5b6675; --grid: #e3e7ed; --rule: #d5dbe3;
  --good: #1a7f4b; --bad: #b3261e; --bad-paper: #fdecea;
  --series-0: #2563c9; --series-1: #c2570c; --series-2: #0f8a6d; --series-3: #9333b8; --series-4: #8a6d00;
  --series-5: #c02660; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #12161c; --card: #1b212a; --ink: #e6ebf2; --muted: #9aa7b8; --grid: #2a323e; --rule: #323c4a;
  --good: #4cc38a; --bad: #ff8a80; --bad-paper: #3a1f1e;
  --series-0: #7aa7ff; --series-1: #ff9f5a; --series-2: #4fd1ae; --series-3: #d08cf0; --series-4: #e3c04a;
  --series-5: #ff7fab; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1400px; margin: 0 auto; padding: 32px 24px 64px; }
header h1 { margin: 0; font-size: 30px; letter-spacing: -0.01em; }
header p { margin: 4px 0 0; color: var(--muted); }
h2 { margin: 0 0 2px; font-size: 18px; }
.note { margin: 0 0 10px; color: var(--muted); font-size: 14.5px; }
.tiles { display: grid; gap: 14px; margin: 24px 0; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); }
.tile, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.tile { padding: 14px 18px; }
.tile .name { color: var(--muted); font-size: 14.5px; }
.tile .value { font-size: 30px; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile .about { color: var(--muted); font-size: 14px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.cards { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(560px, 100%), 1fr)); }
.card { padding: 18px 20px; min-width: 0; }
.chart { overflow-x: auto; }
.wide { grid-column: 1 / -1; }
.failures { border-color: var(--bad); background: var(--bad-paper); margin: 0 0 16px; }
.failures ul { margin: 4px 0 0; padding-left: 20px; }
svg { display: block; width: 100%; min-width: 480px; height: auto; margin: 0 auto; max-width: 860px;
  font-family: inherit; }
svg text { fill: var(--ink); font-size: 13px; }
svg .tick { fill: var(--muted); font-size: 12.5px; font-variant-numeric: tabular-nums; }
svg .axis { fill: var(--muted); font-size: 13px; }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; }
svg .grid { stroke: var(--grid); } svg .base { stroke: var(--muted); }
svg .line { fill: none; stroke: var(--series); stroke-width: 2.2; stroke-linejoin: round; }
svg .dashed .line { stroke-dasharray: 6 4; }
svg .mark, svg .dot, svg .bar { fill: var(--series); }
svg .dot { stroke: var(--card); stroke-width: 1.5; }
svg .dashed .bar { opacity: 0.55; }
svg .bar:hover, svg .dot:hover { stroke: var(--ink); stroke-width: 1.5; }
svg .hit { fill: transparent; } svg .hit:hover { fill: var(--series); fill-opacity: 0.35; }
svg .range { stroke: var(--muted); stroke-width: 2; }
svg .event-line { stroke: var(--bad); stroke-dasharray: 4 3; stroke-width: 1.5; } svg .event-dot { fill: var(--bad); }
.series-0 { --series: var(--series-0); } .series-1 { --series: var(--series-1); }
.series-2 { --series: var(--series-2); } .series-3 { --series: var(--series-3); }
.series-4 { --series: var(--series-4); } .series-5 { --series: var(--series-5); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 0 0 8px; padding: 0;
  font-size: 14.5px; }
.legend i { display: inline-block; width: 20px; height: 0; border-top: 3px solid var(--series);
  vertical-align: middle; margin-right: 7px; }
.legend .dashed i { border-top-style: dashed; }
.stack { display: flex; align-items: center; gap: 12px; margin: 0 0 8px; font-size: 14.5px; }
.stack b { font-weight: 400; min-width: 84px; }
.stack div { display: flex; flex: 1; height: 20px; border-radius: 4px; overflow: hidden; }
.stack i { background: var(--series); }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th { text-align: left; vertical-align: bottom; color: var(--muted); font-weight: 550; font-size: 13.5px; }
th, td { padding: 6px 0 6px 12px; border-bottom: 1px solid var(--grid); overflow-wrap: anywhere; }
th:first-child, td:first-child { padding-left: 0; overflow-wrap: break-word; }
th.n, td.n { text-align: right; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
.words { display: grid; gap: 14px 28px; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); }
.words h3 { margin: 0 0 4px; font-size: 16px; }
.words ol { margin: 0; padding: 0; list-style: none; font-size: 14.5px; }
.words li { position: relative; display: flex; justify-content: space-between; padding: 2px 8px; z-index: 0; }
.words li i { position: absolute; z-index: -1; inset: 2px auto 2px 0; background: var(--series-0); opacity: 0.16;
  border-radius: 4px; }
.words li b { font-weight: 400; overflow: hidden; text-overflow: ellipsis; }
.words li span { color: var(--muted); font-variant-numeric: tabular-nums; }
/* On a phone each row is a block: its name, and below it the figures with their columns' names. */
@media (max-width: 640px) {
  main { padding: 20px 12px 40px; }
  .card { padding: 14px 14px; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
  .tile .value { font-size: 25px; }
  thead { display: none; }
  tbody tr { display: grid; grid-template-columns: 1fr 1fr; gap: 1px 22px; padding: 7px 0;
    border-bottom: 1px solid var(--grid); }
  tbody tr:last-child { border-bottom: 0; }
  td, td:first-child, td.n { display: flex; justify-content: space-between; gap: 8px; padding: 0; border: 0; }
  td::before { content: attr(data-label); color: var(--muted); white-space: nowrap; }
  td:first-child { grid-column: 1 / -1; font-weight: 600; }
  td:first-child::before { content: none; }
  td:empty { display: none; }
  td:nth-child(2):last-child { grid-column: 1 / -1; }
  td:nth-child(2):last-child::before { content: none; }
  .stack b { min-width: 70px; }
}
code { font: 14px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
)css";

}  // namespace troupe::training
