// Times are shown in the zone of this browser, or in UTC for who prefers that. The server learns it by a cookie.
"use strict";

(function () {
  const KEY = "backupmgr-zone";

  function wish() {
    try { return localStorage.getItem(KEY) || "browser"; } catch (error) { return "browser"; }
  }

  function zone() {
    if (wish() === "utc") return "UTC";
    try { return Intl.DateTimeFormat().resolvedOptions().timeZone || ""; } catch (error) { return ""; }
  }

  function tell() {
    const secure = window.location.protocol === "https:" ? ";Secure" : "";
    // Europe/Berlin, Etc/GMT+3: nothing in a name may end the cookie's value.
    const name = /^[A-Za-z0-9_+/-]+$/.test(zone()) ? zone() : "";
    document.cookie = "backupmgr_zone=" + name + ";path=/;max-age=31536000;SameSite=Lax" + secure;
  }

  function mark() {
    document.querySelectorAll("[data-zone]").forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.dataset.zone === wish()));
    });
  }

  tell();
  document.addEventListener("DOMContentLoaded", mark);
  document.addEventListener("click", function (event) {
    const button = event.target.closest("[data-zone]");
    if (!button) return;
    try { localStorage.setItem(KEY, button.dataset.zone); } catch (error) { return; }
    tell();
    window.location.reload();
  });
})();
