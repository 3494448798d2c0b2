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
    const button = event.target.closest("[data-copy]");
    if (button) {
      const done = function () {
        const words = button.textContent;
        button.textContent = "Copied";
        setTimeout(function () { button.textContent = words; }, 1500);
      };
      if (navigator.clipboard) navigator.clipboard.writeText(button.dataset.copy).then(done);
    }
    document.querySelectorAll(".bm-filters details[open]").forEach(function (menu) {
      if (!menu.contains(event.target)) menu.open = false;
    });
  });

  document.addEventListener("keydown", function (event) {
    if (event.key !== "Escape") return;
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
