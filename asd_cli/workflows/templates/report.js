"use strict";
(() => {
  const root = document.documentElement;
  const one = (selector) => document.querySelector(selector);
  const all = (selector) => Array.from(document.querySelectorAll(selector));

  const theme = one("#theme");
  const setTheme = (name) => {
    root.dataset.theme = name;
    theme.textContent = name === "dark" ? "Light colours" : "Dark colours";
  };
  const wish = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;
  setTheme(wish.matches ? "dark" : "light");
  wish.addEventListener("change", () => { if (!chosen) setTheme(wish.matches ? "dark" : "light"); });
  theme.addEventListener("click", () => {
    chosen = true;
    setTheme(root.dataset.theme === "dark" ? "light" : "dark");
  });

  for (const box of all("[data-layer]")) {
    const show = () => {
      for (const layer of all(`.layer-${box.dataset.layer}`)) layer.toggleAttribute("hidden", !box.checked);
    };
    box.addEventListener("change", show);
    show();  // a browser may keep what was ticked before a reload
  }
  const opacity = one("#opacity");
  const fade = () => { one("#score-layer").style.opacity = opacity.value / 100; };
  opacity.addEventListener("input", fade);
  fade();

  const words = one("#chosen");
  const select = (number) => {
    const before = one(".chip[aria-pressed='true']");
    const next = before && before.dataset.number === number ? null : number;
    for (const item of all(".chip, .pin")) item.setAttribute("aria-pressed", String(item.dataset.number === next));
    for (const path of all(".outline[data-number]")) path.classList.toggle("selected", path.dataset.number === next);
    const chip = next && one(`.chip[data-number="${next}"]`);
    words.textContent = chip ? chip.dataset.words : words.dataset.hint;
    return chip;
  };
  for (const chip of all(".chip")) {
    chip.addEventListener("click", () => { if (select(chip.dataset.number)) one("#map").scrollIntoView({ block: "nearest" }); });
  }
  for (const pin of all(".pin, .outline[data-number]")) pin.addEventListener("click", () => select(pin.dataset.number));
})();
