// What is shown of one open case, and all that can be changed about it. It knows no page.

const LARGEST_ZOOM = 16;

class CaseState {
  /** `look`: plane and toggles of the last case. `draw` is called when the images have changed,
      `write` when only the read-out has. */
  constructor(voxels, look, { draw, write }) {
    Object.assign(this, { voxels, draw, write });
    this.grids = Object.fromEntries(Object.keys(PLANES).map((plane) => [plane, new PlaneGrid(plane, voxels)]));
    this.contrasts = contrastsOf(voxels.images);
    this.errorLimit = voxels.info.error_limit;
    this.position = voxels.shape.map((n) => Math.floor(n / 2));
    this.centre = this.position;
    this.zoom = 1;
    this.hover = null; // the voxel under the mouse
    this.visited = -1;
    this.plane = look.plane ?? "axial";
    this.toggles = { crosshair: true, outline: false, smooth: false, ...look.toggles };
  }

  get look() {
    return { plane: this.plane, toggles: this.toggles };
  }

  get shownPlanes() {
    return this.plane === "all" ? Object.keys(PLANES) : [this.plane];
  }

  /** The voxel that is read out. */
  get readVoxel() {
    return this.hover ?? this.position;
  }

  get kinds() {
    return [...this.voxels.images.map(({ kind }) => kind), "error"];
  }

  contrastOf(kind) {
    return this.contrasts.find(({ images }) => images.some((image) => image.kind === kind));
  }

  /** Values that are shown darkest and brightest. */
  windowOf(kind) {
    if (kind === "error") return { low: -this.errorLimit, high: this.errorLimit };
    const { low, high } = this.contrastOf(kind);
    return { low, high };
  }

  set(change) {
    Object.assign(this, change);
    this.draw();
  }

  /** Read out another voxel than the crosshair's, or that again. */
  point(voxel) {
    this.hover = voxel;
    this.write();
  }

  moveTo(voxel, change = {}) {
    const position = voxel.map((n, axis) => clamp(Math.round(n), 0, this.voxels.shape[axis] - 1));
    this.set({ position, hover: null, ...change });
  }

  step(axis, count) {
    this.moveTo(this.position.with(axis, this.position[axis] + count));
  }

  scroll(plane, count) {
    this.step(PLANES[plane].axis, count);
  }

  /** Show a voxel given by its index into the full images. */
  goTo(place) {
    const voxel = place.voxel.map((n, axis) => Math.floor(n / this.voxels.info.factor[axis]));
    const plane = this.plane === "all" || !PLANES[place.plane] ? this.plane : place.plane;
    this.moveTo(voxel, { plane, centre: voxel });
  }

  visit(n) {
    const { places } = this.voxels.info;
    if (!places.length) return;
    this.visited = clamp(n, 0, places.length - 1);
    this.goTo(places[this.visited]);
  }

  toggle(name) {
    this.set({ toggles: { ...this.toggles, [name]: !this.toggles[name] } });
  }

  enlarge(factor) {
    const centre = this.zoom === 1 ? this.position : this.centre;
    this.set({ centre, zoom: clamp(this.zoom * factor, 1, LARGEST_ZOOM) });
  }

  choosePreset(contrast, name) {
    contrast.choose(name);
    this.draw();
  }

  setContrast(contrast, level, width) {
    contrast.set(level, width);
    this.draw();
  }

  setErrorLimit(limit) {
    const first = this.voxels.info.error_limit;
    this.set({ errorLimit: clamp(limit, first / 1000, first * 1000) });
  }

  resetContrast(kind) {
    if (kind === "error") return this.setErrorLimit(this.voxels.info.error_limit);
    const contrast = this.contrastOf(kind);
    return this.choosePreset(contrast, contrast.first);
  }
}
