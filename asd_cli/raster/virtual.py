"""Rasters that are put together from several files without copying them: the text of a GDAL VRT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

import rasterio
from rasterio.errors import RasterioError

from asd_cli.errors import RasterError
from asd_cli.raster.gdal import gdal_reason, gdal_session, open_raster

_ARRAYS_SINCE = (3, 8)
"""Version of GDAL that first takes arrays as sources; older ones would read zeros."""


@dataclass(frozen=True)
class VirtualRaster:
    """Text of a VRT, which GDAL opens like a file name, and the files that it reads."""

    text: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where a band of a VRT gets pixels from: a band of a file, or a 2-D slice of an array in it.

    lut: (value, becomes) pairs, linear between them. skip: value that leaves pixels as the sources before left them.
    ratio: what values are multiplied by. array, view: an HDF5 array and the slice of it, such as ``[:,:,0]``.
    """

    path: str
    band: int = 1
    lut: tuple[tuple[int, int], ...] = ()
    skip: int | None = None
    ratio: float | None = None
    array: str | None = None
    view: str = ""

    def xml(self) -> str:
        """As an element of a band."""
        if self.array is not None:
            return self._array_xml()
        options = f"<NODATA>{self.skip}</NODATA>" if self.skip is not None else ""
        if self.lut:
            options += f"<LUT>{','.join(f'{value}:{becomes}' for value, becomes in self.lut)}</LUT>"
        if self.ratio is not None:
            options += f"<ScaleOffset>0</ScaleOffset><ScaleRatio>{self.ratio!r}</ScaleRatio>"
        kind = "ComplexSource" if options else "SimpleSource"
        name = f'<SourceFilename relativeToVRT="0">{escape(self.path)}</SourceFilename>'
        return f"<{kind}>{name}<SourceBand>{self.band}</SourceBand>{options}</{kind}>"

    def _array_xml(self) -> str:
        name = f'<SourceFilename relativeToVRT="0">{escape(self.path)}</SourceFilename>'
        array = f"<SingleSourceArray>{name}<SourceArray>{self.array}</SourceArray></SingleSourceArray>"
        step = f'<Step><View expr="{self.view}"/></Step>'
        return f"<ArraySource><DerivedArray>{array}{step}</DerivedArray></ArraySource>"


@dataclass(frozen=True)
class Band:
    """A band of a VRT: GDAL's name of its type, and its sources, later ones over earlier ones.

    product: sources are multiplied instead. categories: names by value.
    """

    dtype: str
    sources: tuple[Source, ...]
    name: str = ""
    interpretation: str = "Undefined"
    nodata: int | None = None
    categories: tuple[str, ...] = ()
    product: bool = field(default=False, kw_only=True)

    def xml(self, number: int | None) -> str:
        """As an element of a raster; without a number, of a mask."""
        attributes = f' band="{number}"' if number is not None else ""
        head = f"<Description>{escape(self.name)}</Description>" if self.name else ""
        head += f"<ColorInterp>{self.interpretation}</ColorInterp>" if number is not None else ""
        if self.nodata is not None:
            head += f"<NoDataValue>{self.nodata}</NoDataValue>"
        if self.categories:
            names = "".join(f"<Category>{escape(name)}</Category>" for name in self.categories)
            head += f"<CategoryNames>{names}</CategoryNames>"
        if self.product:
            attributes += ' subClass="VRTDerivedRasterBand"'
            head += "<PixelFunctionType>mul</PixelFunctionType><SourceTransferType>UInt16</SourceTransferType>"
        body = "".join(source.xml() for source in self.sources)
        return f'<VRTRasterBand dataType="{self.dtype}"{attributes}>{head}{body}</VRTRasterBand>'


def virtual_raster(height: int, width: int, bands: Sequence[Band], *, mask: Band | None = None) -> VirtualRaster:
    """A raster of these bands without georeference; `mask`: where it is 0 all bands are invalid."""
    body = "".join(band.xml(number) for number, band in enumerate(bands, start=1))
    if mask is not None:
        body += f"<MaskBand>{mask.xml(None)}</MaskBand>"
    text = f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{body}</VRTDataset>'
    read = (source.path for band in (*bands, *((mask,) if mask else ())) for source in band.sources)
    return VirtualRaster(text, tuple(dict.fromkeys(read)))


def array_shape(path: str, array: str) -> tuple[tuple[int, ...], str]:
    """Shape of an array of two or three dimensions in an HDF5 file, and GDAL's name of its type.

    Raises:
        RasterError: there is no such array, or this GDAL reads no HDF5.
    """
    with gdal_session(), rasterio.Env() as session:
        version = tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2])
        if "HDF5Image" not in session.drivers() or version < _ARRAYS_SINCE:
            raise RasterError(
                f"{path}: this GDAL ({rasterio.__gdal_version__}) reads no HDF5 arrays; use rasterio as PyPI has it"
            )
        try:
            with open_raster(f'HDF5:"{path}"://{array}') as dataset:
                shape = (dataset.count, dataset.height, dataset.width)
                return shape if shape[0] > 1 else shape[1:], _TYPES[dataset.dtypes[0]]
        except (RasterioError, KeyError) as error:
            raise RasterError(f"{path}: has no array {array!r} that can be read ({gdal_reason(error)})") from error


_TYPES = {
    "uint8": "Byte",
    "uint16": "UInt16",
    "int16": "Int16",
    "int32": "Int32",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
}
