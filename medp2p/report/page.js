"use strict";
(() => {
  const form = document.querySelector(".controls");
  const list = document.querySelector("main");
  if (!form || !list) return;
  const cards = [...list.querySelectorAll(".card")];
  const texts = new Map(cards.map((card) => {
    const parts = [...card.querySelectorAll("h2, .state, .reasons")];
    return [card, parts.map((part) => part.textContent).join(" ").toLowerCase()];
  }));
  const orders = {
    place: (a, b) => a.dataset.place - b.dataset.place,
    residual: (a, b) => b.dataset.residual - a.dataset.residual,
    case: (a, b) => a.dataset.case.localeCompare(b.dataset.case, undefined, { numeric: true }),
  };

  function filter() {
    const data = new FormData(form);
    const verdicts = new Set(data.getAll("verdict"));
    const words = data.get("find").toLowerCase().trim();
    let shown = 0;
    for (const card of cards) {
      card.hidden = !verdicts.has(card.dataset.verdict) || !texts.get(card).includes(words);
      shown += !card.hidden;
    }
    form.querySelector("output").textContent = `${shown} of ${cards.length} shown`;
  }

  function sort() {
    list.append(...[...cards].sort(orders[form.elements.order.value]));
  }

  function step(direction) {
    const shown = [...list.children].filter((card) => !card.hidden);
    const here = shown.indexOf(document.activeElement.closest?.(".card"));
    const next = shown[here < 0 ? 0 : Math.min(Math.max(here + direction, 0), shown.length - 1)];
    next?.focus({ preventScroll: true });
    next?.scrollIntoView({ block: "start" });
  }

  function enlarge(card) {
    const picture = card?.querySelector(".picture");
    if (!picture) return;
    const wide = card.classList.toggle("wide");
    picture.setAttribute("aria-pressed", wide);
    card.scrollIntoView({ block: "nearest" });
  }

  for (const card of cards) {
    card.querySelector(".picture")?.addEventListener("click", () => enlarge(card));
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  form.elements.order.addEventListener("change", sort);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input[type=search], select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "l") enlarge(document.activeElement.closest(".card"));
    else if (event.key === "/") form.elements.find.focus();
    else return;
    event.preventDefault();
  });
  filter();
})();
