// Mouse, touch, wheel and keys: each becomes a change of the state.

const CLICK_PIXELS = 3;
const DRAG_PIXELS = 200; // a drag of this length moves the level by the width
const WHEEL_PIXELS = 40; // per slice, on devices that scroll smoothly
const WHEEL_PAUSE_MS = 300; // a page being scrolled goes on scrolling over an image

let pageScrolled = -Infinity; // when the page was last scrolled by the wheel

/** Return the function that a drag from here calls with the pixels moved. */
function contrastDrag(kind, state) {
  if (kind === "error") {
    const { errorLimit } = state;
    return (x) => state.setErrorLimit(errorLimit * Math.exp(x / DRAG_PIXELS));
  }
  const contrast = state.contrastOf(kind);
  const { level, width } = contrast;
  return (x, y) => state.setContrast(contrast, level + (y / DRAG_PIXELS) * width, width * Math.exp(x / DRAG_PIXELS));
}

/** Click: crosshair. Drag: contrast. Shift and drag: crosshair. Hover: read-out. */
function listenToPointer(stage, state) {
  const { canvas, kind } = stage;
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = { x: event.clientX, y: event.clientY, moved: false, act: contrastDrag(kind, state) };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = stage.voxelAt(event, state);
    if (!drag) {
      state.point(here);
      return;
    }
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.moved ||= Math.hypot(x, y) > CLICK_PIXELS;
    if (event.shiftKey) state.moveTo(here);
    else if (drag.moved) drag.act(x, y);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved) state.moveTo(stage.voxelAt(event, state));
    drag = null;
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => state.point(null));
  canvas.addEventListener("dblclick", () => state.resetContrast(kind));
}

/** Wheel: slices. Ctrl and wheel: zoom. */
function listenToWheel({ canvas, grid }, state) {
  let turned = 0;
  canvas.addEventListener("wheel", (event) => {
    if (event.timeStamp - pageScrolled < WHEEL_PAUSE_MS) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.ctrlKey) {
      state.enlarge(event.deltaY < 0 ? 1.15 : 1 / 1.15);
      return;
    }
    turned = Math.sign(turned) === -Math.sign(event.deltaY) ? event.deltaY : turned + event.deltaY;
    const steps = event.deltaMode === 0 && Math.abs(event.deltaY) < WHEEL_PIXELS
      ? Math.trunc(turned / WHEEL_PIXELS) : Math.sign(event.deltaY);
    if (!steps) return;
    turned = 0;
    state.scroll(grid.plane, -steps);
  }, { passive: false });
}

/** Act on a key; false if it means nothing here. */
function pressKey(event, view) {
  const { state } = view;
  const { axis, across, down } = PLANES[state.plane === "all" ? "axial" : state.plane];
  const step = (along, count) => () => state.step(along, count);
  const plane = (name) => () => state.set({ plane: name });
  const moves = {
    ArrowUp: step(down, 1), ArrowDown: step(down, -1), ArrowLeft: step(across, 1), ArrowRight: step(across, -1),
  };
  const acts = {
    ArrowUp: step(axis, 1),
    ArrowRight: step(axis, 1),
    ArrowDown: step(axis, -1),
    ArrowLeft: step(axis, -1),
    PageUp: step(axis, 10),
    PageDown: step(axis, -10),
    Home: step(axis, Infinity),
    End: step(axis, -Infinity),
    a: plane("axial"),
    c: plane("coronal"),
    s: plane("sagittal"),
    t: plane("all"),
    x: () => state.toggle("crosshair"),
    m: () => state.voxels.mask && state.toggle("outline"),
    i: () => state.toggle("smooth"),
    n: () => state.visit(state.visited + 1),
    p: () => state.visit(state.visited - 1),
    "+": () => state.enlarge(1.5),
    "=": () => state.enlarge(1.5),
    "-": () => state.enlarge(1 / 1.5),
    0: () => state.enlarge(0),
    ",": () => openNeighbour(view, -1),
    ".": () => openNeighbour(view, 1),
    "?": showHelp,
  };
  const [contrast] = state.contrasts;
  Object.keys(contrast.presets).forEach((name, n) => { acts[n + 1] = () => state.choosePreset(contrast, name); });
  const act = (event.shiftKey && moves[event.key]) || (Object.hasOwn(acts, event.key) && acts[event.key]);
  if (act) act();
  return Boolean(act);
}
