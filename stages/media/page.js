"use strict";
// Tables: a click on a heading sorts by it, the best first; the second click turns round, the third restores.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const lower = !(head.querySelector(".arrow")?.textContent === "↑");
    const orders = lower ? ["ascending", "descending", ""] : ["descending", "ascending", ""];
    const order = orders[(orders.indexOf(head.getAttribute("aria-sort") ?? "") + 1) % 3];
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => column === 0 ? row.cells[0].textContent.trim() : parseFloat(row.cells[column].dataset.value);
    const rows = [...original];
    if (order) {
      head.setAttribute("aria-sort", order);
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (column === 0) return sign * x.localeCompare(y);
        return (Number.isNaN(x) - Number.isNaN(y)) || sign * (x - y) || 0;
      });
    }
    body.classList.toggle("sorted", Boolean(order));
    body.append(...rows);
  }));
}

// Players: one plays at a time, and another version of the same clip goes on where it was.
const takes = [...document.querySelectorAll(".take")];
const group = (take) => [...take.closest(".takes").children];
const sound = (take) => take.querySelector("audio");
let current = null;
function choose(take, position) {
  if (current && current !== take) {
    const same = group(current).includes(take) && take.closest("#listen");
    if (same && position === undefined) position = sound(current).currentTime;
    sound(current).pause();
    current.classList.remove("current");
  }
  current = take;
  take.classList.add("current");
  if (position !== undefined) sound(take).currentTime = position;
  sound(take).play();
}
for (const take of takes) {
  const audio = sound(take);
  const name = take.querySelector(".who").textContent;
  const button = document.createElement("button");
  button.className = "play";
  const label = () => {
    take.classList.toggle("playing", !audio.paused);
    button.setAttribute("aria-label", `${audio.paused ? "Play" : "Pause"} ${name}`);
  };
  label();
  button.addEventListener("click", () => audio.paused ? choose(take) : audio.pause());
  take.querySelector("figcaption").prepend(button);
  const head = take.querySelector(".head");
  const follow = () => {
    head.style.left = `${100 * audio.currentTime / (audio.duration || 1)}%`;
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", () => { label(); follow(); });
  audio.addEventListener("pause", label);
  audio.addEventListener("seeked", follow);
  take.querySelector(".strip").addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    choose(take, (event.clientX - box.left) / box.width * (audio.duration || 0));
  });
  audio.controls = false;
  audio.style.display = "none";
  take.classList.add("live");
}
document.addEventListener("keydown", (event) => {
  if (!current || event.ctrlKey || event.metaKey || event.altKey) return;
  const next = group(current)[Number(event.key) - 1];
  if (next && next !== current) choose(next);
});
