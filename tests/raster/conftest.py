from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

UTM = Affine(10, 0, 500000, 0, -10, 4_000_000)


@pytest.fixture
def make_raster(tmp_path: Path) -> Callable[..., Path]:
    """Write `(C, H, W)` to a file; `edit` gets the open dataset, other options go to rasterio."""

    def make(
        values: NDArray[Any],
        name: str = "scene.tif",
        *,
        env: dict[str, Any] | None = None,
        edit: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> Path:
        options = {"driver": "GTiff", "crs": "EPSG:32630", "transform": UTM, "photometric": None} | options
        options = {key: value for key, value in options.items() if value is not None}
        count, height, width = values.shape
        path = tmp_path / name
        with warnings.catch_warnings(), rasterio.Env(**(env or {})):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                path, "w", count=count, height=height, width=width, dtype=values.dtype, **options
            ) as dataset:
                dataset.write(values)
                if edit is not None:
                    edit(dataset)
        return path

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
