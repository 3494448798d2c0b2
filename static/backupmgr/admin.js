// Small helps for the console's pages. Every page works without them.
"use strict";

(function () {
  // A form that starts something is sent once, however often the button is clicked. (The server sees to it as well.)
  document.addEventListener("submit", function (event) {
    const form = event.target;
    if (!form.matches("form[data-once]")) return;
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "1";
    // After the browser has collected the fields: a disabled button is not sent along.
    setTimeout(function () {
      form.querySelectorAll("button[type=submit]").forEach(function (button) { button.disabled = true; });
    }, 0);
  });

  // Back from the next page: the form is there again, and may be sent again.
  window.addEventListener("pageshow", function () {
    document.querySelectorAll("form[data-sent]").forEach(function (form) {
      delete form.dataset.sent;
      form.querySelectorAll("button[type=submit]").forEach(function (button) { button.disabled = false; });
    });
  });

  document.addEventListener("click", function (event) {
    const button = event.target.closest("[data-copy], [data-copy-from]");
    if (button) {
      const text = button.dataset.copy || document.getElementById(button.dataset.copyFrom).textContent;
      const done = function () {
        const words = button.textContent;
        button.textContent = "Copied";
        setTimeout(function () { button.textContent = words; }, 1500);
      };
      if (navigator.clipboard) navigator.clipboard.writeText(text).then(done);
    }
    document.querySelectorAll(".bm-filters details[open]").forEach(function (menu) {
      if (!menu.contains(event.target)) menu.open = false;
    });
  });

  // A table that is wider than the page scrolls: the keyboard has to reach it, but only then.
  function markScrolling() {
    document.querySelectorAll(".bm-scroll").forEach(function (area) {
      if (area.scrollWidth > area.clientWidth) {
        area.tabIndex = 0;
        area.setAttribute("role", "group");
        area.setAttribute("aria-label", "Wide table");
      } else {
        area.removeAttribute("tabindex");
        area.removeAttribute("role");
        area.removeAttribute("aria-label");
      }
    });
  }
  document.addEventListener("DOMContentLoaded", markScrolling);
  document.addEventListener("htmx:afterSettle", markScrolling);
  window.addEventListener("resize", markScrolling);

  // The menu beside the content: hidden or shown on wide screens, drawn over the page on narrow ones.
  const root = document.documentElement;
  const wide = window.matchMedia("(min-width: 80rem)");
  function toggleMenu(open) {
    if (wide.matches) {
      const hidden = root.classList.toggle("bm-menu-hidden");
      try { localStorage.setItem("backupmgr-menu", hidden ? "hidden" : "shown"); } catch (error) { /* for this page */ }
      return;
    }
    const opened = root.classList.toggle("bm-menu-open", open);
    const next = opened ? document.querySelector("#nav-sidebar a") : document.querySelector(".bm-banner [data-menu]");
    if (next) next.focus();
  }

  // A button that opens a small menu (its id in data-opens), and closes it again.
  function closeOpened(except) {
    document.querySelectorAll("[data-opens][aria-expanded=true]").forEach(function (button) {
      if (button === except) return;
      button.setAttribute("aria-expanded", "false");
      document.getElementById(button.dataset.opens).hidden = true;
    });
  }

  document.addEventListener("click", function (event) {
    if (event.target.closest("[data-menu]")) toggleMenu();
    const opener = event.target.closest("[data-opens]");
    if (opener) {
      const open = opener.getAttribute("aria-expanded") !== "true";
      opener.setAttribute("aria-expanded", String(open));
      document.getElementById(opener.dataset.opens).hidden = !open;
    }
    const inside = event.target.closest(".bm-account");
    closeOpened(opener || (inside && inside.querySelector("[data-opens]")));
  });

  // What runs is asked for every two seconds, while somebody looks. The poller says where (hx-trigger "poll").
  setInterval(function () {
    const poller = document.querySelector("[hx-get][hx-trigger=poll]");
    if (poller && document.visibilityState === "visible" && window.htmx) window.htmx.trigger(poller, "poll");
  }, 2000);

  document.addEventListener("keydown", function (event) {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    const shortcut = !typing && !event.ctrlKey && !event.metaKey && !event.altKey
      && document.querySelector("[data-shortcut='" + CSS.escape(event.key) + "']");
    if (shortcut) {
      event.preventDefault();
      shortcut.focus();
      return;
    }
    if (event.key !== "Escape") return;
    if (root.classList.contains("bm-menu-open")) toggleMenu(false);
    const opened = document.querySelector("[data-opens][aria-expanded=true]");
    if (opened) {
      closeOpened();
      opened.focus();
    }
    document.querySelectorAll(".bm-filters details[open]").forEach(function (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    });
  });

  // Another cluster has other collections: load the page again for it.
  document.addEventListener("change", function (event) {
    const select = event.target.closest("select[data-reload]");
    if (!select) return;
    const address = new URL(window.location.href);
    address.searchParams.set(select.dataset.reload, select.value);
    address.searchParams.delete("collection");
    window.location.assign(address);
  });

  document.addEventListener("DOMContentLoaded", function () {
    const wrong = document.querySelector("#content [aria-invalid=true]");
    if (wrong) wrong.focus();
  });
})();
