// Before anything is painted: what was chosen here, or else what the system says.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const show = (theme) => { if (theme) root.dataset.theme = theme; else delete root.dataset.theme; };
  show(stored());
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const now = () => root.dataset.theme || (dark.matches ? "dark" : "light");
    const label = () => { button.textContent = now() === "dark" ? "☀" : "☾"; };
    button.addEventListener("click", () => {
      const next = now() === "dark" ? "light" : "dark";
      // The same as the system's is no choice: it is followed again.
      const choice = next === (dark.matches ? "dark" : "light") ? null : next;
      try { if (choice) localStorage.setItem("theme", choice); else localStorage.removeItem("theme"); } catch { /* private */ }
      show(choice);
      label();
    });
    dark.addEventListener("change", label);
    label();
  });
})();
