// Light, dark or as the system has it: read before the page is drawn, kept in this browser.
"use strict";

(function () {
  const KEY = "backupmgr-theme";
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try { return localStorage.getItem(KEY) || "auto"; } catch (error) { return "auto"; }
  }

  function show() {
    const theme = chosen();
    const dark = theme === "dark" || (theme === "auto" && system.matches);
    root.classList.toggle("dark", dark);
    root.classList.toggle("light", !dark);
    document.querySelectorAll("[data-theme]").forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.dataset.theme === theme));
    });
  }

  // The menu beside the content: as it was left, before it is drawn.
  try {
    if (localStorage.getItem("backupmgr-menu") === "hidden") root.classList.add("bm-menu-hidden");
  } catch (error) { /* a browser that keeps nothing */ }

  show();
  system.addEventListener("change", show);
  window.addEventListener("storage", show);
  document.addEventListener("DOMContentLoaded", show);
  document.addEventListener("click", function (event) {
    const button = event.target.closest("[data-theme]");
    if (!button) return;
    try { localStorage.setItem(KEY, button.dataset.theme); } catch (error) { /* then for this page only */ }
    show();
  });
})();
