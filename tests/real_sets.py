"""How the shared real data sets are read: `data` sections without `root`."""

from typing import Any

DUBAI = {
    "Land": "#8429f6",
    "Water": "#e2a929",
    "Building": "#3c1098",
    "Vegetation": "#fedd3a",
    "Road": "#6ec1e4",
    "Unlabeled": "#9b9b9b",
}

SETS: dict[str, dict[str, Any]] = {
    "camvid": {"kind": "camvid"},
    "voc-person": {"kind": "voc"},
    "dubai-aerial": {
        "kind": "folder",
        "images": "{tile}/images/{id}.jpg",
        "labels": "{tile}/masks/{id}.png",
        "classes": DUBAI,
        "decode": {"kind": "palette", "ignore_colors": ["#000000"]},
        "splits": {"kind": "ratio"},
    },
    "wbc": {
        "kind": "folder",
        "images": "images",
        "labels": "masks",
        "classes": ["background", "cytoplasm", "nucleus"],
        "decode": {"kind": "values", "map": {0: "background", 128: "cytoplasm", 255: "nucleus"}},
        "splits": {"kind": "ratio"},
    },
    "chase-db1": {
        "kind": "folder",
        "images": "{id}.jpg",
        "labels": "{id}_1stHO.png",
        "classes": ["background", "vessel"],
        "decode": {"kind": "bits"},
        "splits": {"kind": "ratio"},
    },
    "pets-mini": {
        "kind": "folder",
        "images": "images",
        "labels": "labels",
        "classes": ["background", "cat", "dog"],
        "splits": {"kind": "ratio"},
    },
}
