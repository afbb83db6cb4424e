"use strict";
(() => {
  const viewer = document.querySelector(".viewer");
  if (!viewer) return;

  const NO_VALUE = -32768;
  const OFFSET = 32768; // from an int16 to its place in a table
  const PLANES = {
    axial: { axis: 2, across: 0, down: 1 },
    coronal: { axis: 1, across: 0, down: 2 },
    sagittal: { axis: 0, across: 1, down: 2 },
  };
  const HU_WINDOWS = { brain: [0, 80], bone: [-500, 1300], "soft tissue": [-160, 240], lung: [-1350, 150] };
  const TITLES = { source: "Source", prediction: "Prediction", reference: "Reference", error: "Signed error" };
  // Blue below, orange above, black at no error: as bright on both sides, told apart by everybody.
  const ERROR_COLOURS = [
    [-1, 205, 232, 255], [-0.5, 50, 135, 225], [0, 0, 0, 0], [0.5, 215, 105, 10], [1, 255, 224, 165],
  ];
  const FADED = 0.3; // errors outside the mask
  const CLICK_PIXELS = 3;
  const DRAG_PIXELS = 200; // a drag of this length moves the level by the width
  const WHEEL_PIXELS = 40; // per slice, on devices that scroll smoothly
  const WHEEL_PAUSE_MS = 300; // a page being scrolled goes on scrolling over an image
  const SMALLEST_STAGE_PIXELS = 240;
  const SHARE_OF_HEIGHT = 0.6; // of the window, for the images, so that the controls fit too

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  function shownNumber(value) {
    if (value === null) return "–";
    const digits = Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : Math.abs(value) >= 1 ? 1 : 3;
    return value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
  }

  async function unpack(key) {
    const text = atob(document.getElementById(`voxels-${key}`).textContent);
    const bytes = new Uint8Array(text.length);
    for (let n = 0; n < bytes.length; n += 1) bytes[n] = text.charCodeAt(n);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function unpackInt16(key) {
    const bytes = await unpack(key); // all low bytes, then all high bytes
    const voxels = new Int16Array(bytes.length / 2);
    for (let n = 0; n < voxels.length; n += 1) voxels[n] = bytes[n] | (bytes[n + voxels.length] << 8);
    return voxels;
  }

  function mixedColour(unit) {
    const next = Math.max(1, ERROR_COLOURS.findIndex(([at]) => at >= unit));
    const [[from, ...first], [to, ...second]] = [ERROR_COLOURS[next - 1], ERROR_COLOURS[next]];
    const part = (unit - from) / (to - from);
    return first.map((channel, n) => channel + part * (second[n] - channel));
  }

  const BLACK = 0xff << 24;
  const packedColour = ([red, green, blue]) => BLACK | (blue << 16) | (green << 8) | red;

  function errorTable(strength) {
    return Int32Array.from({ length: 511 }, (_, n) =>
      packedColour(mixedColour(n / 255 - 1).map((channel) => channel * strength)));
  }

  const ERROR_TABLE = errorTable(1);
  const FADED_TABLE = errorTable(FADED);

  function greyTable({ slope, intercept }, { low, high }) {
    const table = new Int32Array(65536);
    for (let n = 0; n < table.length; n += 1) {
      const unit = ((n - OFFSET) * slope + intercept - low) / (high - low);
      table[n] = BLACK | (clamp(Math.round(unit * 255), 0, 255) * 0x010101);
    }
    table[NO_VALUE + OFFSET] = BLACK;
    return table;
  }

  /** One open case. Voxel indices are of the packed images; all axes are shown from high to low. */
  class CaseView {
    constructor(details, info, images, mask, look) {
      Object.assign(this, { details, info, images, mask });
      this.room = details.querySelector(".viewer-room");
      this.strides = [1, info.shape[0], info.shape[0] * info.shape[1]];
      this.position = info.shape.map((n) => Math.floor(n / 2));
      this.offsets = {};
      this.hover = null;
      this.plane = look.plane ?? "axial";
      this.toggles = { crosshair: true, outline: false, smooth: false, ...look.toggles };
      this.zoom = 1;
      this.centre = this.position;
      this.visited = -1;
      this.error = { low: -info.error_limit, high: info.error_limit };
      this.makeContrasts();
      this.build();
      this.draw();
      this.observer = new ResizeObserver(() => this.draw());
      this.observer.observe(this.panels);
    }

    close() {
      this.observer.disconnect();
      this.room.replaceChildren();
      this.images = this.mask = null;
    }

    get look() {
      return { plane: this.plane, toggles: this.toggles };
    }

    /* What is shown how bright: prediction and reference alike, the source with them if in HU too. */

    makeContrasts() {
      this.contrasts = [];
      for (const image of [...this.images].reverse()) {
        const alike = image.kind !== "source" || (image.units === "HU" && this.info.units === "HU");
        if (alike && this.contrasts.length) {
          image.contrast = this.contrasts[0];
          image.contrast.images.unshift(image);
          continue;
        }
        image.contrast = { images: [image], name: "" };
        this.contrasts.push(image.contrast);
      }
      for (const contrast of this.contrasts) {
        const shown = contrast.images.at(-1);
        const full = contrast.images.map((image) => image.full);
        const all = [Math.min(...full.map(([low]) => low)), Math.max(...full.map(([, high]) => high))];
        contrast.presets = shown.units === "HU"
          ? { ...HU_WINDOWS, full: all }
          : { automatic: shown.automatic, full: all };
        contrast.first = shown.units === "HU" ? "soft tissue" : "automatic";
        this.choosePreset(contrast, contrast.first);
      }
    }

    choosePreset(contrast, name) {
      const [low, high] = contrast.presets[name];
      this.changeContrast(contrast, { low, high, name });
    }

    setContrast(contrast, level, width) {
      const least = Math.min(...contrast.images.map(({ slope }) => slope));
      width = Math.max(width, least);
      this.changeContrast(contrast, { low: level - width / 2, high: level + width / 2, name: "" });
      this.draw();
    }

    changeContrast(contrast, change) {
      Object.assign(contrast, change);
      for (const image of contrast.images) image.table = null;
    }

    setErrorLimit(limit) {
      limit = clamp(limit, this.info.error_limit / 1000, this.info.error_limit * 1000);
      Object.assign(this.error, { low: -limit, high: limit });
      this.draw();
    }

    /* Voxels. */

    value(image, voxel) {
      const raw = image.voxels[this.offset(voxel)];
      return raw === NO_VALUE ? null : raw * image.slope + image.intercept;
    }

    shownValue(kind, voxel) {
      if (kind !== "error") return this.value(this.images.find((image) => image.kind === kind), voxel);
      const [prediction, reference] = this.images.slice(-2).map((image) => this.value(image, voxel));
      return prediction === null || reference === null ? null : prediction - reference;
    }

    offset(voxel) {
      return voxel.reduce((sum, n, axis) => sum + n * this.strides[axis], 0);
    }

    /* What the page holds. */

    build() {
      const { info, room } = this;
      room.replaceChildren(viewer.querySelector(".viewer-controls").content.cloneNode(true));
      this.panels = room.querySelector(".viewer-panels");
      this.panels.setAttribute("aria-label", `Images of ${this.details.dataset.name}; press ? for keys`);
      this.panels.style.setProperty("--images", this.images.length + 1);
      this.figures = [...this.images.map(({ kind }) => kind), "error"].map((kind) => this.buildFigure(kind));
      this.panels.append(...this.figures.map(({ figure }) => figure));
      this.sliders = Object.keys(PLANES).map((plane) => this.buildSlider(plane));
      room.querySelector(".sliders").append(...this.sliders.map(({ label }) => label));
      const windows = room.querySelector(".windows");
      windows.append(...this.contrasts.map((contrast, n) => this.buildContrast(contrast, n === 0)), this.buildErrorLimit());
      const places = info.places.map((place, n) => this.button(place.text, () => this.visit(n)));
      room.querySelector(".places").append("Look at ", ...places);
      room.querySelector(".places").hidden = !places.length;
      for (const button of room.querySelectorAll("button[data-plane]")) {
        button.addEventListener("click", () => this.choosePlane(button.dataset.plane));
      }
      for (const button of room.querySelectorAll("button[data-toggle]")) {
        button.addEventListener("click", () => this.toggle(button.dataset.toggle));
        button.hidden = button.dataset.toggle === "outline" && !this.mask;
      }
      room.querySelector("[data-help]").addEventListener("click", showHelp);
      const half = info.factor.some((n) => n > 1);
      const size = `${info.shape.join("×")} voxels`;
      room.querySelector(".resolution").textContent = half
        ? `half resolution: ${size}, each the mean of ${info.factor.join("×")} of ${info.full_shape.join("×")}`
        : `full resolution: ${size}`;
      const scaled = this.images.filter(({ slope, intercept }) => slope !== 1 || intercept !== 0);
      for (const { kind, slope, intercept } of scaled) {
        room.querySelector(".resolution").append(
          `; ${kind} rounded to steps of ${slope}${intercept ? ` around ${intercept}` : ""}`);
      }
    }

    button(text, act) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.addEventListener("click", act);
      return button;
    }

    buildFigure(kind) {
      const part = viewer.querySelector(".viewer-panel").content.cloneNode(true);
      const figure = part.querySelector("figure");
      figure.dataset.kind = kind;
      figure.querySelector(".title").textContent = TITLES[kind];
      const stages = Object.keys(PLANES).map((plane) => this.buildStage(kind, plane));
      figure.querySelector(".stages").append(...stages.map(({ stage }) => stage));
      if (kind === "error") {
        const colours = ERROR_COLOURS.map(([, ...rgb]) => `rgb(${rgb.join(" ")})`);
        figure.querySelector(".scale i").style.background = `linear-gradient(to right, ${colours.join(", ")})`;
      }
      return { kind, figure, stages };
    }

    buildStage(kind, plane) {
      const stage = document.createElement("div");
      stage.className = "stage";
      stage.dataset.plane = plane;
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${TITLES[kind]}, ${plane}`);
      stage.append(canvas);
      const { across, down } = PLANES[plane];
      const letters = { left: [across, 1], right: [across, 0], top: [down, 1], bottom: [down, 0] };
      for (const [edge, [axis, end]] of Object.entries(letters)) {
        const letter = document.createElement("span");
        letter.className = `edge ${edge}`;
        letter.textContent = this.info.ends[axis][end];
        stage.append(letter);
      }
      this.listen(canvas, kind, plane);
      return { stage, canvas, plane, scratch: document.createElement("canvas") };
    }

    buildSlider(plane) {
      const { axis } = PLANES[plane];
      const label = document.createElement("label");
      const input = document.createElement("input");
      const text = document.createElement("span");
      Object.assign(input, { type: "range", min: 0, max: this.info.shape[axis] - 1, step: 1 });
      input.addEventListener("input", () => this.moveTo(this.position.with(axis, input.valueAsNumber)));
      label.append(text, input);
      return { label, input, text, plane, axis };
    }

    buildContrast(contrast, numbered) {
      const group = document.createElement("fieldset");
      const legend = document.createElement("legend");
      legend.textContent = contrast.images.map(({ kind }) => kind).join(", ");
      group.append(legend);
      contrast.buttons = Object.keys(contrast.presets).map((name, n) => {
        const button = this.button(name, () => this.applyPreset(contrast, name));
        if (numbered) {
          button.append(" ", Object.assign(document.createElement("kbd"), { textContent: n + 1 }));
        }
        return { name, button };
      });
      const set = () => this.setContrast(contrast, contrast.level.valueAsNumber, contrast.width.valueAsNumber);
      contrast.level = numberInput("L", "level", set);
      contrast.width = numberInput("W", "width", set);
      group.append(...contrast.buttons.map(({ button }) => button), contrast.level.parentNode, contrast.width.parentNode);
      return group;
    }

    buildErrorLimit() {
      const group = document.createElement("fieldset");
      const legend = document.createElement("legend");
      legend.textContent = "error";
      this.limit = numberInput("±", "error of full colour", () => this.setErrorLimit(this.limit.valueAsNumber));
      group.append(legend, this.limit.parentNode, ` ${this.info.units}`);
      return group;
    }

    /* What the reader does. */

    moveTo(voxel, look = {}) {
      this.position = voxel.map((n, axis) => clamp(Math.round(n), 0, this.info.shape[axis] - 1));
      this.hover = null;
      Object.assign(this, look);
      this.draw();
    }

    hoverAt(voxel) {
      this.hover = voxel;
      this.write();
    }

    /** Show a voxel given by its index into the full images. */
    goTo(place) {
      const voxel = place.voxel.map((n, axis) => Math.floor(n / this.info.factor[axis]));
      const plane = this.plane === "all" || !PLANES[place.plane] ? this.plane : place.plane;
      this.moveTo(voxel, { plane, centre: voxel });
    }

    visit(n) {
      const { places } = this.info;
      if (!places.length) return;
      this.visited = clamp(n, 0, places.length - 1);
      this.goTo(places[this.visited]);
    }

    choosePlane(plane) {
      this.plane = plane;
      this.draw();
    }

    toggle(name) {
      this.toggles = { ...this.toggles, [name]: !this.toggles[name] };
      this.draw();
    }

    applyPreset(contrast, name) {
      this.choosePreset(contrast, name);
      this.draw();
    }

    scroll(plane, steps) {
      const { axis } = PLANES[plane];
      this.moveTo(this.position.with(axis, this.position[axis] + steps));
    }

    enlarge(factor) {
      if (this.zoom === 1) this.centre = this.position;
      this.zoom = clamp(this.zoom * factor, 1, 16);
      this.draw();
    }

    resetContrast(kind) {
      if (kind === "error") return this.setErrorLimit(this.info.error_limit);
      const { contrast } = this.images.find((image) => image.kind === kind);
      return this.applyPreset(contrast, contrast.first);
    }

    /** Return the function that a drag from here calls with the pixels moved. */
    startDrag(kind) {
      if (kind === "error") {
        const { high } = this.error;
        return (x) => this.setErrorLimit(high * Math.exp(x / DRAG_PIXELS));
      }
      const { contrast } = this.images.find((image) => image.kind === kind);
      const [level, width] = [(contrast.low + contrast.high) / 2, contrast.high - contrast.low];
      return (x, y) => this.setContrast(contrast, level + (y / DRAG_PIXELS) * width, width * Math.exp(x / DRAG_PIXELS));
    }

    listen(canvas, kind, plane) {
      let drag = null;
      let turned = 0;
      canvas.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        drag = { x: event.clientX, y: event.clientY, moved: false, act: this.startDrag(kind) };
        canvas.setPointerCapture(event.pointerId);
      });
      canvas.addEventListener("pointermove", (event) => {
        const here = this.voxelAt(canvas, plane, event);
        if (!drag) {
          this.hoverAt(here);
          return;
        }
        const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
        drag.moved ||= Math.hypot(x, y) > CLICK_PIXELS;
        if (event.shiftKey) this.moveTo(here);
        else if (drag.moved) drag.act(x, y);
      });
      canvas.addEventListener("pointerup", (event) => {
        if (drag && !drag.moved) this.moveTo(this.voxelAt(canvas, plane, event));
        drag = null;
      });
      canvas.addEventListener("pointercancel", () => { drag = null; });
      canvas.addEventListener("pointerleave", () => this.hoverAt(null));
      canvas.addEventListener("dblclick", () => this.resetContrast(kind));
      canvas.addEventListener("wheel", (event) => {
        if (event.timeStamp - pageScrolled < WHEEL_PAUSE_MS) return;
        event.preventDefault();
        event.stopPropagation();
        if (event.ctrlKey) {
          this.enlarge(event.deltaY < 0 ? 1.15 : 1 / 1.15);
          return;
        }
        turned = Math.sign(turned) === -Math.sign(event.deltaY) ? event.deltaY : turned + event.deltaY;
        const steps = event.deltaMode === 0 && Math.abs(event.deltaY) < WHEEL_PIXELS
          ? Math.trunc(turned / WHEEL_PIXELS) : Math.sign(event.deltaY);
        if (!steps) return;
        turned = 0;
        this.scroll(plane, -steps);
      }, { passive: false });
    }

    pressed(event) {
      const plane = this.plane === "all" ? "axial" : this.plane;
      const { axis, across, down } = PLANES[plane];
      const step = (along, n) => this.moveTo(this.position.with(along, this.position[along] + n));
      if (event.shiftKey && event.key.startsWith("Arrow")) {
        ({ ArrowUp: () => step(down, 1), ArrowDown: () => step(down, -1),
          ArrowLeft: () => step(across, 1), ArrowRight: () => step(across, -1) })[event.key]();
        return true;
      }
      const acts = {
        ArrowUp: () => step(axis, 1),
        ArrowRight: () => step(axis, 1),
        ArrowDown: () => step(axis, -1),
        ArrowLeft: () => step(axis, -1),
        PageUp: () => step(axis, 10),
        PageDown: () => step(axis, -10),
        Home: () => step(axis, this.info.shape[axis]),
        End: () => step(axis, -this.info.shape[axis]),
        a: () => this.choosePlane("axial"),
        c: () => this.choosePlane("coronal"),
        s: () => this.choosePlane("sagittal"),
        t: () => this.choosePlane("all"),
        x: () => this.toggle("crosshair"),
        m: () => this.mask && this.toggle("outline"),
        i: () => this.toggle("smooth"),
        n: () => this.visit(this.visited + 1),
        p: () => this.visit(this.visited - 1),
        "+": () => this.enlarge(1.5),
        "=": () => this.enlarge(1.5),
        "-": () => this.enlarge(1 / 1.5),
        0: () => this.enlarge(0),
        ",": () => openNeighbour(this, -1),
        ".": () => openNeighbour(this, 1),
        "?": showHelp,
      };
      const preset = Object.keys(this.contrasts[0].presets)[Number(event.key) - 1];
      if (preset) this.applyPreset(this.contrasts[0], preset);
      else if (Object.hasOwn(acts, event.key)) acts[event.key]();
      else return false;
      return true;
    }

    /* Drawing: at most once per frame. */

    draw() {
      if (this.waiting) return;
      this.waiting = true;
      requestAnimationFrame(() => {
        this.waiting = false;
        if (this.images) this.drawNow();
      });
    }

    drawNow() {
      const planes = this.shownPlanes;
      for (const image of this.images) image.table ??= greyTable(image, image.contrast);
      const column = this.figures[0].figure.querySelector(".stages").clientWidth;
      const scale = this.pixelsPerMm(planes, column);
      for (const { kind, stages } of this.figures) {
        for (const stage of stages) {
          stage.stage.hidden = !planes.includes(stage.plane);
          if (!stage.stage.hidden) this.drawStage(stage, kind, scale, column);
        }
      }
      this.write();
    }

    get shownPlanes() {
      return this.plane === "all" ? Object.keys(PLANES) : [this.plane];
    }

    /** Width and height of a plane in voxels and mm. */
    extent(plane) {
      const { across, down } = PLANES[plane];
      const voxels = [this.info.shape[across], this.info.shape[down]];
      const mm = [voxels[0] * this.info.spacing_mm[across], voxels[1] * this.info.spacing_mm[down]];
      return { voxels, mm };
    }

    pixelsPerMm(planes, column) {
      const extents = planes.map((plane) => this.extent(plane).mm);
      const height = Math.max(SMALLEST_STAGE_PIXELS, innerHeight * SHARE_OF_HEIGHT);
      const widest = Math.max(...extents.map(([mm]) => mm));
      const stacked = extents.reduce((sum, [, mm]) => sum + mm, 0);
      return Math.min(column / widest, height / stacked);
    }

    /** The part of a plane that is shown, in voxels from its top left corner. */
    section(plane) {
      const { voxels } = this.extent(plane);
      const { across, down } = PLANES[plane];
      return [across, down].map((axis, n) => {
        const length = voxels[n] / this.zoom;
        const middle = voxels[n] - 1 - this.centre[axis] + 0.5;
        return { start: clamp(middle - length / 2, 0, voxels[n] - length), length };
      });
    }

    voxelAt(canvas, plane, event) {
      const box = canvas.getBoundingClientRect();
      const { axis, across, down } = PLANES[plane];
      const [x, y] = this.section(plane);
      const column = Math.floor(x.start + ((event.clientX - box.left) / box.width) * x.length);
      const row = Math.floor(y.start + ((event.clientY - box.top) / box.height) * y.length);
      const voxel = [0, 0, 0];
      voxel[axis] = this.position[axis];
      voxel[across] = clamp(this.info.shape[across] - 1 - column, 0, this.info.shape[across] - 1);
      voxel[down] = clamp(this.info.shape[down] - 1 - row, 0, this.info.shape[down] - 1);
      return voxel;
    }

    drawStage(stage, kind, scale, column) {
      const { canvas, plane, scratch } = stage;
      const { mm } = this.extent(plane);
      const ratio = devicePixelRatio || 1;
      const [width, height] = mm.map((length) => Math.max(1, Math.round(length * scale * ratio)));
      stage.stage.style.width = `${(100 * mm[0] * scale) / column}%`; // so that print scales it
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      this.paintSlice(stage, kind);
      const [x, y] = this.section(plane);
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = this.toggles.smooth;
      context.drawImage(scratch, x.start, y.start, x.length, y.length, 0, 0, width, height);
      const toPixel = {
        x: (column) => ((column - x.start) / x.length) * width,
        y: (row) => ((row - y.start) / y.length) * height,
      };
      if (this.mask && this.toggles.outline) this.drawOutline(context, plane, toPixel, ratio);
      if (this.toggles.crosshair) this.drawCrosshair(context, plane, toPixel, ratio);
    }

    /** Colour the slice, one pixel a voxel, unless it is there already. */
    paintSlice(stage, kind) {
      const { plane, scratch } = stage;
      const image = this.images.find((other) => other.kind === kind);
      const { low, high } = image ? image.contrast : this.error;
      const painted = [this.position[PLANES[plane].axis], low, high].join();
      if (stage.painted === painted) return;
      stage.painted = painted;
      const [width, height] = this.extent(plane).voxels;
      if (scratch.width !== width || scratch.height !== height) Object.assign(scratch, { width, height });
      const pen = scratch.getContext("2d", { willReadFrequently: true });
      const picture = pen.createImageData(width, height);
      const pixels = new Int32Array(picture.data.buffer);
      if (image) this.fillGrey(pixels, plane, image);
      else this.fillError(pixels, plane);
      pen.putImageData(picture, 0, 0);
    }

    /** Where the voxels of the plane's first slice are stored, row by row as shown. */
    planeOffsets(plane) {
      const { across, down } = PLANES[plane];
      const [columns, rows] = [this.info.shape[across], this.info.shape[down]];
      this.offsets[plane] ??= Int32Array.from({ length: rows * columns }, (_, pixel) =>
        (columns - 1 - (pixel % columns)) * this.strides[across]
          + (rows - 1 - Math.floor(pixel / columns)) * this.strides[down]);
      return this.offsets[plane];
    }

    sliceStart(plane) {
      const { axis } = PLANES[plane];
      return this.position[axis] * this.strides[axis];
    }

    fillGrey(pixels, plane, { voxels, table }) {
      const [offsets, start] = [this.planeOffsets(plane), this.sliceStart(plane)];
      for (let n = 0; n < pixels.length; n += 1) pixels[n] = table[voxels[start + offsets[n]] + OFFSET];
    }

    fillError(pixels, plane) {
      const [prediction, reference] = this.images.slice(-2);
      const [offsets, start] = [this.planeOffsets(plane), this.sliceStart(plane)];
      const scale = 255 / this.error.high;
      const shift = prediction.intercept - reference.intercept;
      for (let n = 0; n < pixels.length; n += 1) {
        const offset = start + offsets[n];
        const [p, r] = [prediction.voxels[offset], reference.voxels[offset]];
        const error = p === NO_VALUE || r === NO_VALUE ? 0 : p * prediction.slope - r * reference.slope + shift;
        const table = this.mask && !this.mask[offset] ? FADED_TABLE : ERROR_TABLE;
        pixels[n] = table[clamp(Math.round(error * scale), -255, 255) + 255];
      }
    }

    drawOutline(context, plane, toPixel, ratio) {
      const { across, down } = PLANES[plane];
      const { shape } = this.info;
      const [columns, offsets, start] = [shape[across], this.planeOffsets(plane), this.sliceStart(plane)];
      context.beginPath();
      for (let n = 0; n < offsets.length; n += 1) {
        const offset = start + offsets[n];
        const [column, row] = [n % columns, Math.floor(n / columns)];
        if (column && this.mask[offset] !== this.mask[offset + this.strides[across]]) {
          context.moveTo(toPixel.x(column), toPixel.y(row));
          context.lineTo(toPixel.x(column), toPixel.y(row + 1));
        }
        if (row && this.mask[offset] !== this.mask[offset + this.strides[down]]) {
          context.moveTo(toPixel.x(column), toPixel.y(row));
          context.lineTo(toPixel.x(column + 1), toPixel.y(row));
        }
      }
      context.strokeStyle = "#58c4dd";
      context.lineWidth = ratio;
      context.stroke();
    }

    drawCrosshair(context, plane, toPixel, ratio) {
      const { across, down } = PLANES[plane];
      const x = toPixel.x(this.info.shape[across] - 1 - this.position[across] + 0.5);
      const y = toPixel.y(this.info.shape[down] - 1 - this.position[down] + 0.5);
      const gap = 7 * ratio;
      const { width, height } = context.canvas;
      context.beginPath();
      for (const [fromX, fromY, endX, endY] of [
        [0, y, x - gap, y], [x + gap, y, width, y], [x, 0, x, y - gap], [x, y + gap, x, height],
      ]) {
        context.moveTo(fromX, fromY);
        context.lineTo(endX, endY);
      }
      context.strokeStyle = "rgb(255 214 90 / .75)";
      context.lineWidth = ratio;
      context.stroke();
    }

    /* Words and numbers. */

    write() {
      for (const { kind, figure } of this.figures) this.writeFigure(kind, figure);
      this.writePlace();
      this.writeSliders();
      this.writeButtons();
    }

    writeFigure(kind, figure) {
      const image = this.images.find((other) => other.kind === kind);
      const units = image ? image.units : this.info.units;
      const value = this.shownValue(kind, this.hover ?? this.position);
      const sign = kind === "error" && value > 0 ? "+" : "";
      figure.querySelector(".value").textContent = `${sign}${shownNumber(value)} ${units}`.trim();
      const { low, high } = image ? image.contrast : this.error;
      figure.querySelector(".low").textContent = shownNumber(low);
      figure.querySelector(".high").textContent = `${image ? "" : "+"}${shownNumber(high)} ${units}`.trim();
    }

    writePlace() {
      const voxel = this.hover ?? this.position;
      const outside = this.mask && !this.mask[this.offset(voxel)] ? " · outside the mask" : "";
      this.room.querySelector(".viewer-place output").textContent =
        `${this.shownPosition(voxel)} · voxel ${this.shownIndex(voxel)}${outside}`;
    }

    writeSliders() {
      for (const { label, input, text, plane, axis } of this.sliders) {
        label.hidden = !this.shownPlanes.includes(plane);
        input.value = this.position[axis];
        text.textContent = `${plane} ${this.position[axis] + 1} of ${this.info.shape[axis]}`;
      }
    }

    writeButtons() {
      for (const button of this.room.querySelectorAll("button[data-plane]")) {
        button.setAttribute("aria-pressed", button.dataset.plane === this.plane);
      }
      for (const button of this.room.querySelectorAll("button[data-toggle]")) {
        button.setAttribute("aria-pressed", this.toggles[button.dataset.toggle]);
      }
      for (const { buttons, name, level, width, low, high } of this.contrasts) {
        for (const other of buttons) other.button.setAttribute("aria-pressed", other.name === name);
        writeNumber(level, (low + high) / 2);
        writeNumber(width, high - low);
      }
      writeNumber(this.limit, this.error.high);
    }

    shownPosition(voxel) {
      const mm = this.info.affine.map((row) => row[3] + voxel.reduce((sum, n, axis) => sum + n * row[axis], 0));
      return `${mm.map((at, n) => `${["LR", "PA", "IS"][n][at < 0 ? 0 : 1]} ${Math.abs(at).toFixed(1)}`).join("  ")} mm`;
    }

    shownIndex(voxel) {
      const { factor, full_shape: full } = this.info;
      return voxel.map((n, axis) => {
        const [first, last] = [n * factor[axis], Math.min((n + 1) * factor[axis], full[axis]) - 1];
        return first === last ? first : `${first}–${last}`;
      }).join(", ");
    }
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

  /* The list of cases. */

  const list = viewer.querySelector(".viewer-cases");
  const cases = [...list.querySelectorAll(".viewer-case")];
  const form = viewer.querySelector(".viewer-find");
  const help = viewer.querySelector(".viewer-help");
  const views = new Map();
  let lastLook = {};
  let pageScrolled = -Infinity;

  function showHelp() {
    help.showModal();
  }

  async function open(details) {
    if (views.has(details)) return views.get(details);
    const room = details.querySelector(".viewer-room");
    const info = JSON.parse(details.querySelector("script").textContent);
    try {
      const voxels = await Promise.all(info.images.map(({ key }) => unpackInt16(key)));
      const mask = info.mask && await unpack(info.mask);
      if (!details.open) return null;
      if (views.has(details)) return views.get(details);
      const images = info.images.map((image, n) => ({ ...image, voxels: voxels[n] }));
      views.set(details, new CaseView(details, info, images, mask, lastLook));
    } catch (error) {
      room.textContent = typeof DecompressionStream === "undefined"
        ? "This browser is too old for the viewer: it needs DecompressionStream (browsers since 2023)."
        : `The images of this case cannot be unpacked: ${error.message}`;
      return null;
    }
    return views.get(details);
  }

  function close(details) {
    const view = views.get(details);
    if (!view) return;
    lastLook = view.look;
    views.delete(details);
    view.close();
  }

  async function show(details, place) {
    details.hidden = false;
    details.open = true;
    const view = await open(details);
    if (!view) return;
    if (place) view.goTo(place);
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
    const byName = (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true })
      || a.dataset.place - b.dataset.place;
    const order = form.elements.order.value === "name" ? byName : (a, b) => a.dataset.place - b.dataset.place;
    cases.sort(order).forEach((details) => {
      details.hidden = !`${details.dataset.name} ${details.dataset.method}`.toLowerCase().includes(words);
      list.append(details);
    });
    const count = cases.filter((details) => !details.hidden).length;
    form.querySelector("output").textContent = `${count} of ${cases.length}`;
  }

  for (const details of cases) {
    details.addEventListener("toggle", async () => {
      if (!details.open) return close(details);
      const view = await open(details);
      if (details.contains(document.activeElement)) view?.panels.focus({ preventScroll: true });
    });
    details.querySelector(".viewer-room").addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.matches("input")) {
        if (event.key === "Escape") views.get(details)?.panels.focus();
        return;
      }
      if (!views.get(details)?.pressed(event)) return;
      event.preventDefault();
      event.stopPropagation();
    });
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
})();
