"use strict";
// Before the first paint: what the reader chose, else what the system says.
(function () {
  let chosen = null;
  try { chosen = localStorage.getItem("theme"); } catch { /* no storage for this page */ }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => { document.documentElement.dataset.theme = chosen || (dark.matches ? "dark" : "light"); };
  apply();
  dark.addEventListener("change", () => { if (!chosen) { apply(); document.dispatchEvent(new Event("themechange")); } });
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme")?.addEventListener("click", () => {
      chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
      try { localStorage.setItem("theme", chosen); } catch { /* kept for this visit only */ }
      apply();
      document.dispatchEvent(new Event("themechange"));
    });
  });
})();
