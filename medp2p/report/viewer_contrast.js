// What is shown how bright, and in which colour.

const HU_WINDOWS = { brain: [0, 80], bone: [-500, 1300], "soft tissue": [-160, 240], lung: [-1350, 150] };
// Blue below, orange above, black at no error: as bright on both sides, told apart by everybody.
const ERROR_COLOURS = [
  [-1, 205, 232, 255], [-0.5, 50, 135, 225], [0, 0, 0, 0], [0.5, 215, 105, 10], [1, 255, 224, 165],
];
const FADED = 0.3; // errors outside the mask
const OFFSET = 32768; // from an int16 to its place in a table
const BLACK = 0xff << 24;

const packedColour = ([red, green, blue]) => BLACK | (blue << 16) | (green << 8) | red;

function mixedColour(unit) {
  const next = Math.max(1, ERROR_COLOURS.findIndex(([at]) => at >= unit));
  const [[from, ...first], [to, ...second]] = [ERROR_COLOURS[next - 1], ERROR_COLOURS[next]];
  const part = (unit - from) / (to - from);
  return first.map((channel, n) => channel + part * (second[n] - channel));
}

/** Packed colours of errors from -255 to 255 parts of the limit. */
function errorTable(strength) {
  return Int32Array.from({ length: 511 }, (_, n) =>
    packedColour(mixedColour(n / 255 - 1).map((channel) => channel * strength)));
}

const ERROR_TABLE = errorTable(1);
const FADED_TABLE = errorTable(FADED);

/** Packed greys of all packed voxels' values. */
function greyTable({ slope, intercept }, { low, high }) {
  const table = new Int32Array(65536);
  for (let n = 0; n < table.length; n += 1) {
    const unit = ((n - OFFSET) * slope + intercept - low) / (high - low);
    table[n] = BLACK | (clamp(Math.round(unit * 255), 0, 255) * 0x010101);
  }
  table[NO_VALUE + OFFSET] = BLACK;
  return table;
}

/** One window of one or more images, which are shown alike. */
class Contrast {
  constructor(images) {
    this.images = images;
    const full = images.map((image) => image.full);
    const all = [Math.min(...full.map(([low]) => low)), Math.max(...full.map(([, high]) => high))];
    const last = images.at(-1);
    const hu = last.units === "HU";
    this.presets = hu ? { ...HU_WINDOWS, full: all } : { automatic: last.automatic, full: all };
    this.first = hu ? "soft tissue" : "automatic";
    this.choose(this.first);
  }

  get level() {
    return (this.low + this.high) / 2;
  }

  get width() {
    return this.high - this.low;
  }

  choose(name) {
    const [low, high] = this.presets[name];
    this.change(low, high, name);
  }

  set(level, width) {
    const least = Math.min(...this.images.map(({ slope }) => slope));
    const half = Math.max(width, least) / 2;
    this.change(level - half, level + half, "");
  }

  change(low, high, name) {
    Object.assign(this, { low, high, name, tables: new Map() });
  }

  table(image) {
    if (!this.tables.has(image.kind)) this.tables.set(image.kind, greyTable(image, this));
    return this.tables.get(image.kind);
  }
}

/** Prediction and reference are shown alike, and the source with them if all are in HU. */
function contrastsOf(images) {
  const alike = images.filter(({ kind, units }) => kind !== "source" || (units === "HU" && images.at(-1).units === "HU"));
  const alone = images.filter((image) => !alike.includes(image));
  return [alike, ...alone.map((image) => [image])].map((group) => new Contrast(group));
}
