"""Data sets of a few images, prepared as TFDS would prepare the real ones."""

import io
import json

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
VERSIONS = {"mnist": "3.0.1", "fashion_mnist": "3.0.1", "cifar10": "3.0.2"}
COUNTS = {"train": 60, "test": 20}


def pixels_and_labels(name, split):
    """Images [N, H, W, C] and labels [N], ten classes in turn, as `prepare` writes them."""
    count = COUNTS[split]
    rng = np.random.default_rng([len(name), count])
    pixels = rng.integers(0, 256, (count, *SHAPES[name]), np.uint8)
    return pixels, np.arange(count) % 10


def prepare(name, data_dir):
    """Writes a data set below a TFDS directory."""
    import tensorflow_datasets as tfds

    folder = data_dir / name / VERSIONS[name]
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=SHAPES[name]),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )
    features.save_config(folder)
    splits = []
    for split, count in COUNTS.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer, size = ArrayRecordWriter(str(path), "group_size:1"), 0
        for one, of_one in zip(*pixels_and_labels(name, split), strict=True):
            picture = io.BytesIO()
            Image.fromarray(one.squeeze()).save(picture, "png")
            record = features.serialize_example({"image": picture.getvalue(), "label": int(of_one)})
            writer.write(record)
            size += len(record)
        writer.close()
        splits.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(size),
                "shardLengths": [str(count)],
            }
        )
    info = {
        "fileFormat": "array_record",
        "moduleName": f"tensorflow_datasets.image_classification.{name}",
        "name": name,
        "splits": splits,
        "version": VERSIONS[name],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
