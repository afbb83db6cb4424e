// The list of cases: which are listed, which are open, and links that lead to a voxel of one.

const list = viewer.querySelector(".viewer-cases");
const cases = [...list.querySelectorAll(".viewer-case")];
const form = viewer.querySelector(".viewer-find");
const help = viewer.querySelector(".viewer-help");
const views = new Map(); // of the open cases
let lastLook = {};

function showHelp() {
  help.showModal();
}

async function open(details) {
  if (views.has(details)) return views.get(details);
  const info = JSON.parse(details.querySelector("script").textContent);
  try {
    const voxels = await CaseVoxels.unpacked(info);
    if (!details.open) return null;
    if (!views.has(details)) views.set(details, new CaseView(details, voxels, lastLook));
  } catch (error) {
    details.querySelector(".viewer-room").textContent = typeof DecompressionStream === "undefined"
      ? "This browser is too old for the viewer: it needs DecompressionStream (browsers since 2023)."
      : `The images of this case cannot be unpacked: ${error.message}`;
    return null;
  }
  return views.get(details);
}

function close(details) {
  const view = views.get(details);
  if (!view) return;
  lastLook = view.state.look;
  views.delete(details);
  view.close();
}

async function show(details, place) {
  details.hidden = false;
  details.open = true;
  const view = await open(details);
  if (!view) return;
  if (place) view.state.goTo(place);
  view.panels.focus({ preventScroll: true });
  details.scrollIntoView({ block: "start" });
}

function openNeighbour(view, direction) {
  const shown = [...list.children].filter((details) => !details.hidden);
  const next = shown[shown.indexOf(view.details) + direction];
  if (!next) return;
  close(view.details);
  view.details.open = false;
  show(next);
}

function listCases() {
  const words = form.elements.find.value.toLowerCase().trim();
  const byPlace = (a, b) => a.dataset.place - b.dataset.place;
  const byName = (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }) || byPlace(a, b);
  cases.sort(form.elements.order.value === "name" ? byName : byPlace).forEach((details) => {
    details.hidden = !`${details.dataset.name} ${details.dataset.method}`.toLowerCase().includes(words);
    list.append(details);
  });
  const count = cases.filter((details) => !details.hidden).length;
  form.querySelector("output").textContent = `${count} of ${cases.length}`;
}

function listenToKeys(details) {
  details.querySelector(".viewer-room").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const view = views.get(details);
    if (!view) return;
    if (event.target.matches("input")) {
      if (event.key === "Escape") view.panels.focus();
      return;
    }
    if (!pressKey(event, view)) return;
    event.preventDefault();
    event.stopPropagation();
  });
}

for (const details of cases) {
  details.addEventListener("toggle", async () => {
    if (!details.open) return close(details);
    const view = await open(details);
    if (details.contains(document.activeElement)) view?.panels.focus({ preventScroll: true });
  });
  listenToKeys(details);
}
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", listCases);
document.addEventListener("wheel", (event) => { pageScrolled = event.timeStamp; }, { passive: true });
// Any link or button of the page with these data leads to a voxel of a case.
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-view-case]");
  const details = link && cases.find(({ dataset }) =>
    dataset.name === link.dataset.viewCase && dataset.method === (link.dataset.viewMethod ?? ""));
  if (!details) return;
  event.preventDefault();
  const voxel = link.dataset.viewVoxel?.split(" ").map(Number);
  show(details, voxel && { voxel, plane: link.dataset.viewPlane });
});
listCases();
