// Shows the fields of the chosen type of storage only. Without it all of them are there.
"use strict";

document.addEventListener("DOMContentLoaded", function () {
  const type = document.getElementById("id_type");
  if (!type) return;
  const show = function () {
    document.querySelectorAll("fieldset.bm-type-local").forEach(function (part) { part.hidden = type.value !== "local"; });
    document.querySelectorAll("fieldset.bm-type-s3").forEach(function (part) { part.hidden = type.value !== "s3"; });
  };
  type.addEventListener("change", show);
  show();
});
