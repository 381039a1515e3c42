// What the browser does by itself: the theme, and saying so when no news arrives.
(() => {
  const modes = ["auto", "light", "dark"];
  let mode = "auto";
  try { mode = localStorage.getItem("novacron-theme") || "auto"; } catch { /* storage may be forbidden */ }
  const apply = () => {
    Quasar.Dark.set(mode === "auto" ? "auto" : mode === "dark");
    const button = document.getElementById("theme");
    if (button) button.textContent = "Theme: " + mode;
  };
  let beat = null, seen = Date.now();
  const look = () => {
    const now = document.getElementById("beat")?.textContent;
    if (now && now !== beat) { beat = now; seen = Date.now(); }
    const silent = (Date.now() - seen) / 1000, lost = silent > 3.5;
    document.body.classList.toggle("lost", lost);
    const banner = document.getElementById("lost");
    if (!banner) return;
    banner.classList.toggle("shown", lost);
    const text = lost ? `What you see is ${Math.round(silent)} s old; this page goes on by itself as soon as there is an answer.` : "";
    const age = document.getElementById("lost-age");
    if (age && age.textContent !== text) age.textContent = text;
  };
  const begin = () => {
    if (!window.Quasar || !document.getElementById("theme")) return setTimeout(begin, 30);
    document.getElementById("theme").addEventListener("click", () => {
      mode = modes[(modes.indexOf(mode) + 1) % modes.length];
      try { localStorage.setItem("novacron-theme", mode); } catch { /* see above */ }
      apply();
    });
    apply();
    setInterval(look, 250);
  };
  begin();
})();
