// A slice of an image onto its canvas, with outline and crosshair.

const SMALLEST_STAGE_PIXELS = 240;
const FLAT_PIXELS = 50; // below this height there is no room for letters above and below
const SHARE_OF_HEIGHT = 0.6; // of the window, for the images, so that the controls fit too
const OUTLINE_COLOUR = "#58c4dd";
const CROSSHAIR_COLOUR = "rgb(255 214 90 / .75)";
const CROSSHAIR_GAP = 7;

/** Pixels for a millimetre, so that all planes fit into a column of the page and into the window. */
function pixelsPerMm(state, columnWidth) {
  const sizes = state.shownPlanes.map((plane) => state.grids[plane].mm);
  const height = Math.max(SMALLEST_STAGE_PIXELS, innerHeight * SHARE_OF_HEIGHT);
  const widest = Math.max(...sizes.map(([mm]) => mm));
  const stacked = sizes.reduce((sum, [, mm]) => sum + mm, 0);
  return Math.min(columnWidth / widest, height / stacked);
}

/** The picture of one plane of one image: `element` holds the `canvas`. */
class Stage {
  constructor(kind, grid, element, canvas) {
    Object.assign(this, { kind, grid, element, canvas, scratch: document.createElement("canvas"), painted: "" });
    Object.assign(this.scratch, { width: grid.columns, height: grid.rows });
  }

  draw(state, scale, columnWidth) {
    const { canvas, grid, scratch } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = grid.mm.map((mm) => Math.max(1, Math.round(mm * scale * ratio)));
    this.element.style.width = `${(100 * grid.mm[0] * scale) / columnWidth}%`; // so that print scales it
    this.element.classList.toggle("flat", height < FLAT_PIXELS * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    this.paintSlice(state);
    const [x, y] = grid.section(state.zoom, state.centre);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = state.toggles.smooth;
    context.drawImage(scratch, x.start, y.start, x.length, y.length, 0, 0, width, height);
    const toPixel = {
      x: (column) => ((column - x.start) / x.length) * width,
      y: (row) => ((row - y.start) / y.length) * height,
    };
    context.lineWidth = ratio;
    if (state.voxels.mask && state.toggles.outline) this.drawOutline(context, state, toPixel);
    if (state.toggles.crosshair) this.drawCrosshair(context, state, toPixel, CROSSHAIR_GAP * ratio);
  }

  /** Colour the slice, one pixel a voxel, unless it is there already. */
  paintSlice(state) {
    const { low, high } = state.windowOf(this.kind);
    const wanted = [state.position[this.grid.axis], low, high].join();
    if (this.painted === wanted) return;
    this.painted = wanted;
    const pen = this.scratch.getContext("2d", { willReadFrequently: true });
    const picture = pen.createImageData(this.grid.columns, this.grid.rows);
    const pixels = new Int32Array(picture.data.buffer);
    if (this.kind === "error") this.fillError(pixels, state);
    else this.fillGrey(pixels, state);
    pen.putImageData(picture, 0, 0);
  }

  fillGrey(pixels, state) {
    const image = state.voxels.image(this.kind);
    const [voxels, table] = [image.voxels, state.contrastOf(this.kind).table(image)];
    const [offsets, start] = [this.grid.offsets, this.grid.start(state.position)];
    for (let n = 0; n < pixels.length; n += 1) pixels[n] = table[voxels[start + offsets[n]] + OFFSET];
  }

  fillError(pixels, state) {
    const { prediction, reference, mask } = state.voxels;
    const [offsets, start] = [this.grid.offsets, this.grid.start(state.position)];
    const scale = 255 / state.errorLimit;
    const shift = prediction.intercept - reference.intercept;
    for (let n = 0; n < pixels.length; n += 1) {
      const offset = start + offsets[n];
      const [p, r] = [prediction.voxels[offset], reference.voxels[offset]];
      const error = p === NO_VALUE || r === NO_VALUE ? 0 : p * prediction.slope - r * reference.slope + shift;
      const table = mask && !mask[offset] ? FADED_TABLE : ERROR_TABLE;
      pixels[n] = table[clamp(Math.round(error * scale), -255, 255) + 255];
    }
  }

  drawOutline(context, state, toPixel) {
    const { columns, offsets, strides, across, down } = this.grid;
    const { mask } = state.voxels;
    const start = this.grid.start(state.position);
    context.beginPath();
    for (let n = 0; n < offsets.length; n += 1) {
      const offset = start + offsets[n];
      const [column, row] = [n % columns, Math.floor(n / columns)];
      if (column && mask[offset] !== mask[offset + strides[across]]) {
        context.moveTo(toPixel.x(column), toPixel.y(row));
        context.lineTo(toPixel.x(column), toPixel.y(row + 1));
      }
      if (row && mask[offset] !== mask[offset + strides[down]]) {
        context.moveTo(toPixel.x(column), toPixel.y(row));
        context.lineTo(toPixel.x(column + 1), toPixel.y(row));
      }
    }
    context.strokeStyle = OUTLINE_COLOUR;
    context.stroke();
  }

  drawCrosshair(context, state, toPixel, gap) {
    const [column, row] = this.grid.middleOf(state.position);
    const [x, y] = [toPixel.x(column), toPixel.y(row)];
    const { width, height } = context.canvas;
    context.beginPath();
    for (const [fromX, fromY, endX, endY] of [
      [0, y, x - gap, y], [x + gap, y, width, y], [x, 0, x, y - gap], [x, y + gap, x, height],
    ]) {
      context.moveTo(fromX, fromY);
      context.lineTo(endX, endY);
    }
    context.strokeStyle = CROSSHAIR_COLOUR;
    context.stroke();
  }

  /** The voxel under a mouse event. */
  voxelAt(event, state) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = this.grid.section(state.zoom, state.centre);
    const column = x.start + ((event.clientX - box.left) / box.width) * x.length;
    const row = y.start + ((event.clientY - box.top) / box.height) * y.length;
    return this.grid.voxelAt(column, row, state.position);
  }
}
