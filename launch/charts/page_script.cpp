#include "launch/charts/page.h"

namespace upcycle::charts {

// Without it a browser shows the <title> of what is pointed at. With it the nearest point's text appears at once, also
// by touch; a chart that has the focus gives its points to the arrow keys.
const char* const page_script = R"js(
"use strict";
const tip = document.getElementById("tip");
let shown = null;
function hide() { if (shown) shown.classList.remove("on"); shown = null; tip.hidden = true; }
function show(point) {
  if (shown === point) return;
  hide();
  shown = point;
  point.classList.add("on");
  tip.textContent = point.dataset.tip;
  tip.hidden = false;
  const at = point.getBoundingClientRect(), box = tip.getBoundingClientRect(), width = document.documentElement.clientWidth;
  tip.style.left = Math.max(4, Math.min(width - box.width - 4, at.left + at.width / 2 - box.width / 2)) + "px";
  tip.style.top = (at.top > box.height + 10 ? at.top - box.height - 8 : at.bottom + 8) + "px";
}
for (const chart of document.querySelectorAll("svg[data-chart]")) {
  const points = [...chart.querySelectorAll(".p")];
  for (const p of points) {
    const title = p.querySelector("title");
    p.dataset.tip = title.textContent;
    p.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  const nearest = (event) => {
    let best = null, least = 24 * 24;
    for (const p of points) {
      const b = p.getBoundingClientRect();
      const x = Math.max(b.left - event.clientX, event.clientX - b.right, 0), y = Math.max(b.top - event.clientY, event.clientY - b.bottom, 0);
      // Of points that overlap the one whose middle is nearest.
      const dx = (b.left + b.right) / 2 - event.clientX, dy = (b.top + b.bottom) / 2 - event.clientY;
      const distance = x * x + y * y + (dx * dx + dy * dy) / 1000;
      if (distance < least) { least = distance; best = p; }
    }
    best ? show(best) : hide();
  };
  chart.addEventListener("pointermove", nearest);
  chart.addEventListener("pointerdown", nearest);
  chart.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  let at = -1;
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step || !points.length) return;
    event.preventDefault();
    at = (at + step + points.length) % points.length;
    show(points[at]);
  });
  chart.addEventListener("focus", () => { if (chart.matches(":focus-visible") && points.length) show(points[at = Math.max(0, at)]); });
  chart.addEventListener("blur", hide);
}
addEventListener("scroll", hide, { passive: true });
addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; });
)js";

}  // namespace upcycle::charts
