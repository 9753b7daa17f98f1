"""Rasters and a model that several parts of the suite share."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import settings
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

FOREST, WATER = 1, 2

# many more examples of everything drawn: pytest --hypothesis-profile=thorough
settings.register_profile("thorough", max_examples=1500, deadline=None, print_blob=True)


def texture(seed: int, bands: int, height: int, width: int) -> NDArray[np.float32]:
    """(bands, height, width) float32 around 100: crowns of some pixels and noise, seeded."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(bands, height // 4 + 1, width // 4 + 1)).repeat(4, 1).repeat(4, 2)
    fine = random.normal(size=(bands, height, width))
    return (100 + 20 * coarse[:, :height, :width] + 8 * fine).astype(np.float32)


def write_raster(path: Path, values: NDArray[Any], **options: Any) -> Path:
    """`(C, H, W)` as a GeoTIFF in EPSG:25832 with 0.5 m pixels; the type is that of the array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    given = {"crs": "EPSG:25832", "transform": Affine(0.5, 0, 400_000, 0, -0.5, 5_600_000), "driver": "GTiff"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        options = {"count": count, "height": height, "width": width, "dtype": values.dtype, **given, **options}
        with rasterio.open(path, "w", **options) as dataset:
            dataset.write(values)
    return path


def write_tiles(
    folder: Path, images: Sequence[NDArray[Any]], labels: Sequence[NDArray[Any]] | None = None, **options: Any
) -> Path:
    """images/tile_0.tif ... and, with labels (H, W) uint8, labels/ and classes.csv (1 forest, 2 water); the folder."""
    for index, image in enumerate(images):
        write_raster(folder / "images" / f"tile_{index}.tif", image, **options)
        if labels is not None:
            write_raster(folder / "labels" / f"tile_{index}.tif", labels[index][None])
    if labels is not None:
        (folder / "classes.csv").write_text(f"value,name\n{FOREST},forest\n{WATER},water\n")
    return folder


@pytest.fixture(scope="session")
def make_texture() -> Callable[[int, int, int, int], NDArray[np.float32]]:
    return texture


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Path]:
    return write_raster


@pytest.fixture(scope="session")
def make_tiles() -> Callable[..., Path]:
    return write_tiles


@pytest.fixture(scope="session")
def tiny_tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tiles of 96 x 96 px, 3 bands uint8, with labels: forest with a lake in the lower right corner."""
    images, labels = [], []
    for seed in range(4):
        image, label = texture(seed, 3, 96, 96), np.full((96, 96), FOREST, np.uint8)
        label[72:, 60:] = WATER
        image[:, label == WATER] = 30 + 0.1 * image[:, label == WATER]
        images.append(image.clip(0, 255).astype(np.uint8))
        labels.append(label)
    return write_tiles(tmp_path_factory.mktemp("tiny") / "tiles", images, labels)


@pytest.fixture(scope="session")
def tiny_model(tiny_tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on `tiny_tiles` for a few steps."""
    from asd_cli.options import TileOptions, TrainOptions
    from asd_cli.workflows.train import train

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    tiles = TileOptions(tiles=(str(tiny_tiles),), normal=("forest",))
    train(TrainOptions(tiles=tiles, output=path, recipe="quick", steps=30, crop=64, device="cpu"))
    return path


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a model with seeded untrained weights; on `texture` about one pixel in ten is anomalous to it."""
    import torch

    from asd_cli.data.known import KnownTiles
    from asd_cli.density.calibration import Calibration
    from asd_cli.methods.asd.method import AsdMethod
    from asd_cli.model_file import model_header
    from asd_cli.workflows.models import Model

    def make(bands: int = 3, *, indexes: Sequence[int] | None = None, of: int | None = None, **header: Any) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            method = AsdMethod.create(bands, length=3, scales=(0.5, 2.0), patch_size=15).eval()
        method.low.fill_(40.0)
        method.high.fill_(160.0)
        halo = method.halo
        with torch.inference_mode():
            sample = torch.from_numpy(texture(99, bands, 96 + 2 * halo, 96 + 2 * halo))[None]
            descriptors = method.descriptors(sample)
            method.mean.copy_(descriptors.mean((0, 2, 3)))
            method.whitening.copy_(torch.diag(1 / descriptors.std((0, 2, 3))))
            distances = method.distances(sample).numpy()
        facts = {
            "method": "asd",
            "config": method.config(),
            "bands": {
                "count": bands,
                "indexes": list(indexes or range(1, bands + 1)),
                "of": of or bands,
                "names": [f"band {i}" for i in indexes or range(1, bands + 1)],
                "dtype": "uint8",
            },
            "normal": ["forest"],
            "pixel_size_m": 0.5,
        }
        path = tmp_path_factory.mktemp("random") / "random.safetensors"
        calibration = Calibration.fit(distances.ravel(), 0.1)
        whole = model_header(**{**facts, **header})
        Model(whole, method, calibration, None, KnownTiles.none(), path).write(overwrite=False)
        return path

    return make


@pytest.fixture(scope="session")
def random_model(make_model: Callable[..., Path]) -> Path:
    """A model of untrained weights for 3 bands with pixels of 0.5 m."""
    return make_model()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
