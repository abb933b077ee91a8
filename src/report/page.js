"use strict";
// The step under the pointer, marked in all curves at once, with their values there.
const charts = [...document.querySelectorAll("svg.chart")].map((svg) => {
  const pointer = document.createElementNS("http://www.w3.org/2000/svg", "line");
  pointer.setAttribute("class", "pointer");
  pointer.setAttribute("y1", svg.dataset.top);
  pointer.setAttribute("y2", svg.dataset.bottom);
  pointer.setAttribute("visibility", "hidden");
  svg.append(pointer);
  const curves = [...svg.querySelectorAll(".curve")].map((curve) => ({
    name: curve.dataset.name,
    steps: curve.dataset.steps.split(" ").map(Number),
    values: curve.dataset.values.split(" ").map(Number),
  }));
  const [left, right, first, last] = ["left", "right", "first", "last"].map((key) => Number(svg.dataset[key]));
  const output = svg.closest("figure").querySelector("output");
  return { svg, pointer, curves, left, right, first, last, output };
});

function nearest(steps, step) {
  let best = 0;
  steps.forEach((other, index) => {
    if (Math.abs(steps[best] - step) > Math.abs(other - step)) best = index;
  });
  return best;
}

function show(step) {
  for (const { pointer, curves, left, right, first, last, output } of charts) {
    const x = left + (step - first) / (last - first) * (right - left);
    pointer.setAttribute("x1", x);
    pointer.setAttribute("x2", x);
    pointer.setAttribute("visibility", "visible");
    output.textContent = "step " + step;
    for (const { name, steps, values } of curves) {
      const value = document.createElement("b");
      value.textContent = String(Number(values[nearest(steps, step)].toPrecision(4))).replace("-", "−");
      output.append(curves.length > 1 ? " · " + name + " " : ": ", value);
    }
  }
}

function hide() {
  for (const { pointer, output } of charts) {
    pointer.setAttribute("visibility", "hidden");
    output.textContent = "";
  }
}

for (const { svg, left, right, first, last } of charts) {
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const share = Math.min(1, Math.max(0, (x - left) / (right - left)));
    show(Math.round(first + share * (last - first)));
  });
  svg.addEventListener("pointerleave", hide);
}
