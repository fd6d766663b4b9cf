#include "launch/charts/page.h"

namespace upcycle::charts {

// Colors differ in lightness too, for who is color-blind (after Okabe and Ito), and have a contrast of at least 3 to 1
// with either background; c7 is the quiet one.
const char* const page_style = R"css(
:root { --paper: #ffffff; --ink: #1d2126; --soft: #5a626c; --grid: #e3e6ea; --axis: #7b838d; --card: #f5f6f8;
  --bad: #b3261e; --good: #00684a; --link: #0b62a8; --edge: #00000033;
  --c0: #0b62a8; --c1: #b3470b; --c2: #00573f; --c3: #c45fa9; --c4: #a98b00; --c5: #3a97cc; --c6: #4a2f7a; --c7: #646b75; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e8eaed; --soft: #a5adb8; --grid: #2c3036;
  --axis: #7d8590; --card: #1f2227; --bad: #ff8a80; --good: #5fd3a8; --link: #6fb5ec; --edge: #000000aa;
  --c0: #6fb5ec; --c1: #f0a06a; --c2: #2fa37f; --c3: #f3b8e2; --c4: #f4e58a; --c5: #a6dcf8; --c6: #9a86e0; --c7: #a9b0ba; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1rem; font-weight: 600; color: var(--soft); margin: 0 0 8px; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 8px; }
h3 { font-size: 1.02rem; margin: 24px 0 4px; }
section { margin-top: 44px; scroll-margin-top: 8px; }
p { margin: 0 0 10px; max-width: 76ch; overflow-wrap: anywhere; }
.verdict { font-size: clamp(1.2rem, 1rem + 1.1vw, 1.7rem); line-height: 1.35; font-weight: 500; max-width: 58ch; }
.intro, .caption { color: var(--soft); }
.absent { color: var(--soft); font-style: italic; }
.caption { margin: 14px 0 2px; color: var(--ink); font-weight: 600; }
nav { margin-top: 22px; display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: .92rem; }
a { color: var(--link); }
nav a.quiet { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 10px; margin: 20px 0 0; padding: 0; }
.figures div { background: var(--card); border-radius: 8px; padding: 12px 14px; break-inside: avoid; }
.figures dt { color: var(--soft); font-size: .84rem; line-height: 1.3; }
.figures dd { margin: 2px 0 0; font-size: 1.32rem; line-height: 1.25; font-weight: 600; overflow-wrap: anywhere; }
.figures dd.more { font-size: .84rem; font-weight: 400; color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 18px 22px; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: .92rem; font-weight: 600; line-height: 1.3; margin-bottom: 2px; }
figure > svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
svg:focus-visible, .wide:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; padding: 0; margin: 6px 0 8px; font-size: .88rem; }
.legend li { display: flex; align-items: center; gap: 6px; overflow-wrap: anywhere; }
.legend svg { flex: none; }
svg text { font-size: 12px; fill: var(--soft); }
svg .title { fill: var(--ink); }
svg .label { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.grid, .axis, .level, .line, .bar, .ring { fill: none; }
.grid { stroke: var(--grid); } .axis { stroke: var(--axis); }
.level { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 1 3; }
.line { stroke-width: 2; stroke-linejoin: round; } .line.thin { stroke-width: 1.1; opacity: .6; } .bar { stroke-width: 1.4; }
.ring { stroke: var(--ink); stroke-width: 1.6; }
path.p { stroke: var(--paper); stroke-width: 1; }
path.hollow { fill: var(--paper); stroke-width: 1.6; }
svg .cell { fill: var(--ink); pointer-events: none; }
.on { stroke: var(--ink) !important; stroke-width: 2 !important; }
)css"
                               R"css(
.line.c0, .bar.c0, path.hollow.c0 { stroke: var(--c0); } path.p.c0, .mark.c0 { fill: var(--c0); }
.line.c1, .bar.c1, path.hollow.c1 { stroke: var(--c1); } path.p.c1, .mark.c1 { fill: var(--c1); }
.line.c2, .bar.c2, path.hollow.c2 { stroke: var(--c2); } path.p.c2, .mark.c2 { fill: var(--c2); }
.line.c3, .bar.c3, path.hollow.c3 { stroke: var(--c3); } path.p.c3, .mark.c3 { fill: var(--c3); }
.line.c4, .bar.c4, path.hollow.c4 { stroke: var(--c4); } path.p.c4, .mark.c4 { fill: var(--c4); }
.line.c5, .bar.c5, path.hollow.c5 { stroke: var(--c5); } path.p.c5, .mark.c5 { fill: var(--c5); }
.line.c6, .bar.c6, path.hollow.c6 { stroke: var(--c6); } path.p.c6, .mark.c6 { fill: var(--c6); }
.line.c7, .bar.c7, path.hollow.c7 { stroke: var(--c7); } path.p.c7, .mark.c7 { fill: var(--c7); }
path.p.hollow, .mark.hollow { fill: var(--paper); }
.wide { overflow-x: auto; margin: 10px 0; border: 1px solid var(--grid); border-radius: 8px;
  background: linear-gradient(to right, var(--paper) 50%, transparent) left / 48px 100% no-repeat local,
    linear-gradient(to left, var(--paper) 50%, transparent) right / 48px 100% no-repeat local,
    linear-gradient(to right, var(--edge), transparent) left / 14px 100% no-repeat scroll,
    linear-gradient(to left, var(--edge), transparent) right / 14px 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.35; width: 100%; }
th, td { padding: 6px 7px; text-align: right; vertical-align: top; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { white-space: normal; vertical-align: bottom; color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--grid); }
th.words, td.words { text-align: left; }
td.long { white-space: normal; min-width: 36ch; } td details { max-width: 60ch; white-space: normal; margin: 0; }
tr.key td { background: var(--card); font-weight: 600; }
tbody tr + tr td { border-top: 1px solid var(--grid); }
tr.more td { border-top: 0 !important; padding-top: 0; }
.bad { color: var(--bad); font-weight: 600; } .good { color: var(--good); font-weight: 600; }
code { font: .92em/1.4 ui-monospace, "Liberation Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; white-space: pre-wrap; }
.formula { background: var(--card); border-radius: 8px; padding: 10px 14px; max-width: none; }
details { margin: 4px 0; } summary { cursor: pointer; color: var(--link); }
dl.how { display: grid; grid-template-columns: minmax(8em, max-content) 1fr; gap: 4px 18px; font-size: .92rem; margin: 10px 0; }
dl.how dt { color: var(--soft); } dl.how dd { margin: 0; overflow-wrap: anywhere; }
ul.notes { padding-left: 1.2em; max-width: 80ch; } ul.notes li { margin: 4px 0; overflow-wrap: anywhere; }
#tip { position: fixed; z-index: 2; max-width: min(320px, 92vw); padding: 7px 10px; border-radius: 6px; font-size: .84rem;
  line-height: 1.35; white-space: pre-line; pointer-events: none; background: var(--ink); color: var(--paper); }
@media screen and (min-width: 800px) { .wide td:first-child, .wide th:first-child { position: sticky; left: 0;
  background: var(--paper); } .wide tr.key td:first-child { background: var(--card); } }
@media (max-width: 520px) { main { padding: 16px 12px 48px; } dl.how { grid-template-columns: 1fr; gap: 0; }
  dl.how dd { margin-bottom: 8px; } .figures { grid-template-columns: 1fr 1fr; } .figures dd { font-size: 1.1rem; } }
@media print { :root { --paper: #ffffff; --ink: #000000; --soft: #444444; --grid: #dddddd; --axis: #777777; --card: #f3f3f3;
  --bad: #b3261e; --good: #00684a; --link: #000000;
  --c0: #0b62a8; --c1: #b3470b; --c2: #00573f; --c3: #c45fa9; --c4: #a98b00; --c5: #3a97cc; --c6: #4a2f7a; --c7: #646b75; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  html { font-size: 11px; } body { font-size: 11px; } main { max-width: none; padding: 0; } nav, #tip { display: none; } summary { list-style: none; }
  .charts { grid-template-columns: repeat(2, 1fr); } section { margin-top: 22px; } h2, h3, .intro, .caption, .legend { break-after: avoid; } .wide svg { width: 90px; }
  svg text { font-size: 10.5px; } .wide { overflow: visible; border: 0; background: none; } table { font-size: 7.5px; } th, td { padding: 2px 3px; white-space: normal; }
  tr, p, h2 { break-inside: avoid; } }
)css";

}  // namespace upcycle::charts
