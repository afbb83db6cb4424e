// The page's part of an open case: built once from the templates, then written from the state.

const TITLES = { source: "Source", prediction: "Prediction", reference: "Reference", error: "Signed error" };

class CaseView {
  constructor(details, voxels, look) {
    this.details = details;
    this.room = details.querySelector(".viewer-room");
    this.state = new CaseState(voxels, look, { draw: () => this.draw(), write: () => this.writeReadOut() });
    this.build();
    this.draw();
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.panels);
  }

  close() {
    this.closed = true;
    this.observer.disconnect();
    this.room.replaceChildren();
  }

  find(selector) {
    return this.room.querySelector(selector);
  }

  /* Built once. */

  build() {
    const { room, state } = this;
    const { info } = state.voxels;
    room.replaceChildren(viewer.querySelector(".viewer-controls").content.cloneNode(true));
    this.panels = this.find(".viewer-panels");
    this.panels.setAttribute("aria-label", `Images of ${this.details.dataset.name}; press ? for keys`);
    this.panels.style.setProperty("--images", state.kinds.length);
    this.figures = state.kinds.map((kind) => this.buildFigure(kind));
    this.panels.append(...this.figures.map(({ figure }) => figure));
    this.sliders = Object.values(state.grids).map((grid) => this.buildSlider(grid));
    this.find(".sliders").append(...this.sliders.map(({ label }) => label));
    this.windows = state.contrasts.map((contrast, n) => this.buildContrast(contrast, n === 0));
    this.find(".windows").append(...this.windows.map(({ group }) => group), this.buildErrorLimit());
    this.find(".places").append("Look at ", ...info.places.map((place, n) => button(place.text, () => state.visit(n))));
    this.find(".places").hidden = !info.places.length;
    for (const one of room.querySelectorAll("button[data-plane]")) {
      one.addEventListener("click", () => state.set({ plane: one.dataset.plane }));
    }
    for (const one of room.querySelectorAll("button[data-toggle]")) {
      one.addEventListener("click", () => state.toggle(one.dataset.toggle));
      one.hidden = one.dataset.toggle === "outline" && !state.voxels.mask;
    }
    this.find("[data-help]").addEventListener("click", showHelp);
    this.find(".resolution").textContent = resolutionText(state.voxels);
  }

  buildFigure(kind) {
    const figure = viewer.querySelector(".viewer-panel").content.cloneNode(true).querySelector("figure");
    figure.dataset.kind = kind;
    figure.querySelector(".title").textContent = TITLES[kind];
    const stages = Object.values(this.state.grids).map((grid) => this.buildStage(kind, grid));
    figure.querySelector(".stages").append(...stages.map(({ element }) => element));
    if (kind === "error") {
      const colours = ERROR_COLOURS.map(([, ...rgb]) => `rgb(${rgb.join(" ")})`);
      figure.querySelector(".scale i").style.background = `linear-gradient(to right, ${colours.join(", ")})`;
    }
    const [value, low, high] = [".value", ".low", ".high"].map((part) => figure.querySelector(part));
    return { kind, figure, stages, value, low, high };
  }

  buildStage(kind, grid) {
    const element = Object.assign(document.createElement("div"), { className: "stage" });
    element.dataset.plane = grid.plane;
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${TITLES[kind]}, ${grid.plane}`);
    const letters = Object.entries(grid.letters).map(([edge, textContent]) =>
      Object.assign(document.createElement("span"), { className: `edge ${edge}`, textContent }));
    element.append(canvas, ...letters);
    const stage = new Stage(kind, grid, element, canvas);
    listenToPointer(stage, this.state);
    listenToWheel(stage, this.state);
    return stage;
  }

  buildSlider({ plane, axis }) {
    const [label, input, text] = ["label", "input", "span"].map((name) => document.createElement(name));
    Object.assign(input, { type: "range", min: 0, max: this.state.voxels.shape[axis] - 1, step: 1 });
    input.addEventListener("input", () => this.state.moveTo(this.state.position.with(axis, input.valueAsNumber)));
    label.append(text, input);
    return { label, input, text, plane, axis };
  }

  buildContrast(contrast, numbered) {
    const set = () => this.state.setContrast(contrast, level.valueAsNumber, width.valueAsNumber);
    const [level, width] = [numberInput("L", "level", set), numberInput("W", "width", set)];
    const buttons = Object.keys(contrast.presets).map((name) =>
      ({ name, button: button(name, () => this.state.choosePreset(contrast, name)) }));
    if (numbered) {
      buttons.forEach((one, n) => one.button.append(" ", Object.assign(document.createElement("kbd"), { textContent: n + 1 })));
    }
    const names = contrast.images.map(({ kind }) => kind).join(", ");
    const group = fieldset(names, ...buttons.map((one) => one.button), level.parentNode, width.parentNode);
    return { contrast, group, buttons, level, width };
  }

  buildErrorLimit() {
    this.limit = numberInput("±", "error of full colour", () => this.state.setErrorLimit(this.limit.valueAsNumber));
    return fieldset("error", this.limit.parentNode, ` ${this.state.voxels.info.units}`);
  }

  /* Written from the state, at most once a frame. */

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (!this.closed) this.drawNow();
    });
  }

  drawNow() {
    const { state } = this;
    const columnWidth = this.find(".stages").clientWidth;
    const scale = pixelsPerMm(state, columnWidth);
    for (const stage of this.figures.flatMap(({ stages }) => stages)) {
      stage.element.hidden = !state.shownPlanes.includes(stage.grid.plane);
      if (!stage.element.hidden) stage.draw(state, scale, columnWidth);
    }
    this.writeReadOut();
    this.writeScales();
    this.writeSliders();
    this.writeButtons();
    this.writeNumbers();
  }

  writeReadOut() {
    const { voxels, readVoxel } = this.state;
    for (const { kind, value } of this.figures) {
      value.textContent = this.withUnits(kind, voxels.value(kind, readVoxel));
    }
    const outside = voxels.inside(readVoxel) ? "" : " · outside the mask";
    this.find(".viewer-place output").textContent =
      `${positionText(voxels.position(readVoxel))} · voxel ${indexText(voxels.fullRange(readVoxel))}${outside}`;
  }

  writeScales() {
    for (const { kind, low, high } of this.figures) {
      const ends = this.state.windowOf(kind);
      low.textContent = shownNumber(ends.low);
      high.textContent = this.withUnits(kind, ends.high);
    }
  }

  withUnits(kind, value) {
    const { voxels } = this.state;
    const sign = kind === "error" && value > 0 ? "+" : "";
    return `${sign}${shownNumber(value)} ${voxels.image(kind)?.units ?? voxels.info.units}`.trim();
  }

  writeSliders() {
    const { position, shownPlanes, voxels } = this.state;
    for (const { label, input, text, plane, axis } of this.sliders) {
      label.hidden = !shownPlanes.includes(plane);
      input.value = position[axis];
      text.textContent = `${plane} ${position[axis] + 1} of ${voxels.shape[axis]}`;
    }
  }

  writeButtons() {
    const { plane, toggles } = this.state;
    for (const one of this.room.querySelectorAll("button[data-plane]")) {
      one.setAttribute("aria-pressed", one.dataset.plane === plane);
    }
    for (const one of this.room.querySelectorAll("button[data-toggle]")) {
      one.setAttribute("aria-pressed", toggles[one.dataset.toggle]);
    }
    for (const { contrast, buttons } of this.windows) {
      for (const one of buttons) one.button.setAttribute("aria-pressed", one.name === contrast.name);
    }
  }

  writeNumbers() {
    for (const { contrast, level, width } of this.windows) {
      writeNumber(level, contrast.level);
      writeNumber(width, contrast.width);
    }
    writeNumber(this.limit, this.state.errorLimit);
  }
}

function button(text, act) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  made.addEventListener("click", act);
  return made;
}

function fieldset(title, ...parts) {
  const group = document.createElement("fieldset");
  group.append(Object.assign(document.createElement("legend"), { textContent: title }), ...parts);
  return group;
}

function numberInput(text, meaning, changed) {
  const label = Object.assign(document.createElement("label"), { title: meaning });
  const input = Object.assign(document.createElement("input"), { type: "number", step: "any", ariaLabel: meaning });
  input.addEventListener("change", () => Number.isFinite(input.valueAsNumber) && changed());
  label.append(`${text} `, input);
  return input;
}

function writeNumber(input, value) {
  if (document.activeElement !== input) input.value = Number(value.toPrecision(4));
}

function resolutionText({ info, images }) {
  const size = `${info.shape.join("×")} voxels`;
  const resolution = info.factor.some((n) => n > 1)
    ? `half resolution: ${size}, each the mean of ${info.factor.join("×")} of ${info.full_shape.join("×")}`
    : `full resolution: ${size}`;
  const rounded = images
    .filter(({ slope, intercept }) => slope !== 1 || intercept !== 0)
    .map(({ kind, slope, intercept }) => `${kind} rounded to steps of ${slope}${intercept ? ` around ${intercept}` : ""}`);
  return [resolution, ...rounded].join("; ");
}

function positionText(mm) {
  return `${mm.map((at, n) => `${["LR", "PA", "IS"][n][at < 0 ? 0 : 1]} ${Math.abs(at).toFixed(1)}`).join("  ")} mm`;
}

function indexText(ranges) {
  return ranges.map(([first, last]) => (first === last ? first : `${first}–${last}`)).join(", ");
}
