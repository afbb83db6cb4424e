// The packed voxels of a case: unpacking and looking up. Indices are of the packed images.

const NO_VALUE = -32768;

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

/** What the page holds of a case: `info` as `case_block` wrote it, the images and the mask. */
class CaseVoxels {
  constructor(info, images, mask) {
    Object.assign(this, { info, images, mask });
    this.shape = info.shape;
    this.strides = [1, info.shape[0], info.shape[0] * info.shape[1]];
  }

  static async unpacked(info) {
    const voxels = await Promise.all(info.images.map(({ key }) => unpackInt16(key)));
    const mask = info.mask && await unpack(info.mask);
    return new CaseVoxels(info, info.images.map((image, n) => ({ ...image, voxels: voxels[n] })), mask);
  }

  image(kind) {
    return this.images.find((image) => image.kind === kind);
  }

  get prediction() {
    return this.image("prediction");
  }

  get reference() {
    return this.image("reference");
  }

  offset(voxel) {
    return voxel.reduce((sum, n, axis) => sum + n * this.strides[axis], 0);
  }

  inside(voxel) {
    return !this.mask || this.mask[this.offset(voxel)] !== 0;
  }

  /** Value of an image, or of the error, at a voxel; null where there is none. */
  value(kind, voxel) {
    if (kind !== "error") {
      const { voxels, slope, intercept } = this.image(kind);
      const raw = voxels[this.offset(voxel)];
      return raw === NO_VALUE ? null : raw * slope + intercept;
    }
    const [prediction, reference] = ["prediction", "reference"].map((one) => this.value(one, voxel));
    return prediction === null || reference === null ? null : prediction - reference;
  }

  /** Where a voxel's middle is, in mm towards the patient's right, front and head. */
  position(voxel) {
    return this.info.affine.map((row) => row[3] + voxel.reduce((sum, n, axis) => sum + n * row[axis], 0));
  }

  /** First and last index of the full image's voxels that a packed voxel is the mean of. */
  fullRange(voxel) {
    const { factor, full_shape: full } = this.info;
    return voxel.map((n, axis) => [n * factor[axis], Math.min((n + 1) * factor[axis], full[axis]) - 1]);
  }
}
