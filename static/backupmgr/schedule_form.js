// The form of a schedule: the fields of the chosen kind only, and what time it is in the chosen zone. Without it all
// fields are there.
"use strict";

document.addEventListener("DOMContentLoaded", function () {
  const kind = document.getElementById("id_kind");
  const zone = document.getElementById("id_tz");
  if (!kind || !zone) return;

  // Which fields belong to which kinds; the others belong to all of them.
  const fields = JSON.parse(document.getElementById("fields-of-kinds").textContent);
  function show() {
    Object.keys(fields).forEach(function (name) {
      const part = document.querySelector('[data-field="' + name + '"]');
      if (part) part.hidden = !fields[name].includes(kind.value);
    });
  }

  const clock = document.createElement("p");
  clock.className = "bm-help";
  clock.id = "zone-clock";
  zone.after(clock);
  function time(name) {
    const how = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", weekday: "short", timeZone: name };
    return new Intl.DateTimeFormat("en-GB", how).format(new Date());
  }
  function tell() {
    try {
      const there = zone.value.trim() ? time(zone.value.trim()) : "";
      clock.textContent = there ? "It is " + there + " there now; by your clock " + time(undefined) + "." : "";
    } catch (error) {
      clock.textContent = "";
    }
  }

  kind.addEventListener("change", show);
  zone.addEventListener("input", tell);
  show();
  tell();
  setInterval(tell, 15000);
});
