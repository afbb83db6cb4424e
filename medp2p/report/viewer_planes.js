// Which way round a plane is shown, and where its voxels are: as `planes.py` says, the patient's
// right and front on the left, the front and head at the top. All axes run from high to low.

const PLANES = {
  axial: { axis: 2, across: 0, down: 1 },
  coronal: { axis: 1, across: 0, down: 2 },
  sagittal: { axis: 0, across: 1, down: 2 },
};

/** A plane of one case. Columns and rows are those of the plane's picture, from its top left. */
class PlaneGrid {
  constructor(plane, { shape, info, strides }) {
    Object.assign(this, { plane, shape, strides, ...PLANES[plane] });
    this.columns = shape[this.across];
    this.rows = shape[this.down];
    this.mm = [this.columns * info.spacing_mm[this.across], this.rows * info.spacing_mm[this.down]];
    this.letters = {
      left: info.ends[this.across][1], right: info.ends[this.across][0],
      top: info.ends[this.down][1], bottom: info.ends[this.down][0],
    };
  }

  /** Where the voxels of the first slice are stored, row by row as shown. */
  get offsets() {
    this.known ??= Int32Array.from({ length: this.rows * this.columns }, (_, pixel) =>
      (this.columns - 1 - (pixel % this.columns)) * this.strides[this.across]
        + (this.rows - 1 - Math.floor(pixel / this.columns)) * this.strides[this.down]);
    return this.known;
  }

  /** What to add to `offsets` for the slice through a voxel. */
  start(voxel) {
    return voxel[this.axis] * this.strides[this.axis];
  }

  /** The voxel of a picture's column and row (whole or not), in the slice through another. */
  voxelAt(column, row, slice) {
    const voxel = [...slice];
    voxel[this.across] = clamp(this.columns - 1 - Math.floor(column), 0, this.columns - 1);
    voxel[this.down] = clamp(this.rows - 1 - Math.floor(row), 0, this.rows - 1);
    return voxel;
  }

  /** Column and row of a voxel's middle. */
  middleOf(voxel) {
    return [this.columns - voxel[this.across] - 0.5, this.rows - voxel[this.down] - 0.5];
  }

  /** The part that is shown, `[start, length]` in columns and in rows. */
  section(zoom, centre) {
    const counts = [this.columns, this.rows];
    return this.middleOf(centre).map((middle, n) => {
      const length = counts[n] / zoom;
      return { start: clamp(middle - length / 2, 0, counts[n] - length), length };
    });
  }
}
