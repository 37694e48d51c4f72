// Data that the server makes itself, to begin with: what each is called, what it shows, and its source.

export const EXAMPLES = {
  parabola: [
    "A parabola with noise",
    "One number in, one out: watch a curve being fitted.",
    {
      type: "polynomial",
      coefficients: [0, 0, 1],
      low: -1,
      high: 1,
      rows: 100,
      noise: { type: "uniform", scale: 0.2 },
      seed: 1,
    },
  ],
  clouds: [
    "Two clouds of points",
    "Two classes in the plane: watch a border being drawn.",
    {
      type: "gaussian_clouds",
      centers: [
        [2, 2],
        [-2, -2],
      ],
      std: 1,
      rows_per_class: 100,
      seed: 1,
    },
  ],
  stripes: [
    "Striped images",
    "Small pictures in four classes, for convolutions.",
    { type: "striped_images", classes: 4, rows_per_class: 40, channels: 1, size: 16, std: 0.3, seed: 1 },
  ],
};
