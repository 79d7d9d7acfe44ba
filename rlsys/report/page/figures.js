"use strict";
// Draws the figures: those in view first, the others when there is time. Colours are names until they meet a theme.

const Figures = (() => {
  const specifications = readJson("data-figures");
  const palette = readJson("data-palette");
  const hidden = new Set();
  const drawn = new Set();
  const NARROW = 470;
  let isPrinting = false;

  function theme() {
    if (isPrinting) return "light";
    const chosen = document.documentElement.dataset.theme;
    if (chosen) return chosen;
    return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  function shade(name) {
    const [colour, opacity] = name.slice(1).split("/");
    const hex = palette[colour][theme()];
    if (opacity === undefined) return hex;
    const parts = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
    return `rgba(${parts.join(",")},${opacity})`;
  }

  // A deep copy in which "@task" and "@task/0.15" have become shades of the theme.
  function resolve(value) {
    if (typeof value === "string") return /^@[a-z0-9-]+(\/[0-9.]+)?$/.test(value) ? shade(value) : value;
    if (Array.isArray(value)) return value.map(resolve);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, resolve(each)]));
    }
    return value;
  }

  function fitted(specification, width) {
    const layout = resolve(specification.layout);
    layout.font.family = getComputedStyle(document.body).fontFamily;
    const labels = (layout.annotations || []).filter((label) => !hidden.has(label.name));
    layout.annotations = labels;
    if (width < NARROW) {
      if (layout.margin.r > 96) layout.margin.r = 96;
      labels.forEach((label) => (label.font.size = 10.5));
      if (layout.margin.l > 100) layout.margin.l = 104;
      layout.dragmode = false;
    }
    if (isTouched) layout.dragmode = false;  // a finger on a figure scrolls the page
    layout.width = width;
    const data = resolve(specification.data).map((trace) => ({ ...trace, visible: !hidden.has(trace.legendgroup) }));
    return [data, layout];
  }

  const isTouched = matchMedia("(pointer: coarse)").matches;
  const config = {
    displaylogo: false,
    responsive: false,
    displayModeBar: isTouched ? false : "hover",
    modeBarButtons: [["toImage", "resetScale2d"]],
    toImageButtonOptions: { scale: 2 },
  };

  function draw(id) {
    const place = document.getElementById(id);
    const width = isPrinting ? paperWidth(place) : Math.floor(place.getBoundingClientRect().width);
    if (!width) return;
    place.style.minHeight = "";
    Plotly.react(place, ...fitted(specifications[id], width), config);
    drawn.add(id);
  }

  // Two columns on A4 or Letter, as the style sheet lays them out; paper has no size yet when it is asked for.
  function paperWidth(place) {
    return place.closest(".grid").children.length > 1 ? 320 : 660;
  }

  async function load() {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await inflate(document.getElementById("data-plotly").textContent));
    document.head.append(script);
  }

  async function start() {
    const ids = Object.keys(specifications);
    if (!ids.length) return;
    try {
      await load();
    } catch (error) {
      for (const id of ids) document.getElementById(id).textContent = `No figure: ${error.message}.`;
      return;
    }
    const waiting = new Set(ids);
    const take = (id) => waiting.delete(id) && draw(id);
    const watcher = new IntersectionObserver((entries) => {
      entries.filter((entry) => entry.isIntersecting).forEach((entry) => take(entry.target.id));
    });
    ids.forEach((id) => watcher.observe(document.getElementById(id)));
    const later = window.requestIdleCallback || ((work) => setTimeout(work, 30));
    const next = () => {
      const [id] = waiting;
      if (id === undefined) {
        document.documentElement.dataset.figures = "drawn";
        return;
      }
      take(id);
      later(next);
    };
    requestAnimationFrame(() => later(next));
  }

  function redraw() {
    drawn.forEach(draw);
  }

  function toggle(arm) {
    hidden.has(arm) ? hidden.delete(arm) : hidden.add(arm);
    redraw();
    return !hidden.has(arm);
  }

  function print(begins) {
    isPrinting = begins;
    if (begins) Object.keys(specifications).forEach((id) => window.Plotly && draw(id));
    else redraw();
  }

  let resized;
  let lastWidth = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === lastWidth) return;
    lastWidth = innerWidth;
    clearTimeout(resized);
    resized = setTimeout(redraw, 150);
  });

  return { start, redraw, toggle, print };
})();
