"use strict";
// Ties the page together: theme, the key that shows and hides arms, printing, the start.

(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const order = ["auto", "light", "dark"];

  function remembered() {
    try {
      return localStorage.getItem("rlsys-theme") || "auto";
    } catch {
      return "auto";  // a page opened from disk may be denied it
    }
  }

  function setTheme(name) {
    if (name === "auto") delete root.dataset.theme;
    else root.dataset.theme = name;
    button.textContent = `Theme: ${name}`;
    try {
      localStorage.setItem("rlsys-theme", name);
    } catch {}
  }

  setTheme(remembered());
  button.addEventListener("click", () => {
    const now = root.dataset.theme || "auto";
    setTheme(order[(order.indexOf(now) + 1) % order.length]);
    Figures.redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", Figures.redraw);

  document.querySelectorAll(".arm").forEach((each) => {
    each.addEventListener("click", () => each.setAttribute("aria-pressed", String(Figures.toggle(each.dataset.arm))));
  });

  addEventListener("beforeprint", () => Figures.print(true));
  addEventListener("afterprint", () => Figures.print(false));

  Samples.start();
  Figures.start();
  root.dataset.ready = String(Math.round(performance.now()));  // milliseconds since the address was opened
})();
