"""`elsjax datasets`: which data sets have a name, and where they are."""

import dataclasses

from elsjax.data.datasets import available_datasets


@dataclasses.dataclass(frozen=True)
class Datasets:
    """List the data sets that have a name, and where they are."""

    data_dir: str | None = None
    """Where TFDS data sets lie; default: TFDS_DATA_DIR, else ~/tensorflow_datasets."""

    def __call__(self) -> None:
        """Runs the command."""
        for row in available_datasets(self.data_dir):
            splits = ", ".join(f"{count:,} {name}" for name, count in row.splits.items())
            shape = "x".join(map(str, row.shape))
            mark = "yes" if row.available else "no "
            print(f"{row.name:14} {mark}  {shape:10}  {splits}; {row.description}; {row.where}")
        print("A folder of images, an .npz with `images` [and `labels`] or an .npy works as well.")
