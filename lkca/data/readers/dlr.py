"""EnMAP and DESIS products (DLR): what the metadata file beside a spectral image says of its bands.

Source: the readers of SNAP and of the EnMAP-Box; DESIS has the same lists under nearly the same names.
physical = stored * gain + offset: reflectance in level 2A, radiance in the levels below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

__all__ = ["Product", "accessories", "find_metadata", "read_metadata"]

# _COG: as DLR's geoservice names them; EnMAP's level 1B has an image of each detector
_IMAGE = re.compile("(.+)-SPECTRAL_IMAGE(?:_COG|_(VNIR|SWIR))?", re.I)
_PART = re.compile("(.+?)-(SPECTRAL_IMAGE|QL_)", re.I)
_METADATA = ("METADATA.XML", "METADATA.xml", "METADATA.XML.XML")  # EnMAP, DESIS, some downloads of EnMAP
_MAX_BYTES = 2**25  # far more than some hundred bands need


@dataclass(frozen=True)
class Product:
    """wavelengths, fwhm: (bands,) in nm. physical = stored * gains + offsets, (bands,); nodata: in stored units."""

    wavelengths: np.ndarray
    fwhm: np.ndarray
    gains: np.ndarray
    offsets: np.ndarray
    nodata: float | None


def find_metadata(image: Path) -> Path | None:
    """The metadata file of the product that an image is named after, where it lies beside it."""
    name = _IMAGE.fullmatch(image.stem)
    files = [image.with_name(f"{name[1]}-{ending}") for ending in _METADATA] if name else []
    return next((file for file in files if file.is_file()), None)


def accessories(files: Sequence[Path]) -> list[Path]:
    """Those of ``files`` that belong to a spectral image among them and are no scene of their own.

    Quick looks and quality layers (-QL_VNIR, -QL_IMAGE, -QL_QUALITY_CLOUD, ...), and the ENVI header that
    DESIS has beside a TIFF, which needs none.
    """
    parts = [(file, part[1], part[2].upper() == "QL_") for file in files if (part := _PART.match(file.name))]
    products = {product for _, product, quick_look in parts if not quick_look}
    tiffs = {file.stem for file in files if file.suffix.lower() == ".tif"}
    return [
        file
        for file, product, quick_look in parts
        if (product in products if quick_look else file.suffix.lower() == ".hdr" and file.stem in tiffs)
    ]


def read_metadata(file: Path, image: Path, bands: int) -> Product:
    """What the file says of an image of ``bands`` bands, by their numbers. Raises ValueError where it does not fit."""
    name = _IMAGE.fullmatch(image.stem)
    detector = name[2] if name else None
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"is larger than {_MAX_BYTES >> 20} MiB")
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError, LookupError) as error:  # LookupError: of an unknown encoding
        raise ValueError(f"cannot be read ({error})") from error
    listed = root.find(".//{*}bandCharacterisation")
    background = root.findtext("{*}specific/{*}backgroundValue")
    try:
        rows = dict(_band(element) for element in (() if listed is None else listed))
        nodata = float(background) if background else math.nan
        if detector:
            own = root.findtext(f"{{*}}specific/{{*}}{detector.lower()}ProductQuality/{{*}}expectedChannelsList")
            rows = {number: rows[number] for number in map(int, (own or "").split(","))}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("has bands without all of their numbers") from error
    if len(rows) != bands:
        raise ValueError(f"describes {len(rows)} bands and the image has {bands}")
    table = np.array([rows[number] for number in sorted(rows)])
    wavelengths, fwhm, gains, offsets = table.T
    if not np.isfinite(table).all() or wavelengths.min() <= 0 or not gains.all():
        raise ValueError("has wavelengths or gains that cannot be")
    return Product(wavelengths, fwhm, gains, offsets, nodata if math.isfinite(nodata) else None)


def _band(element: ElementTree.Element) -> tuple[int, list[float]]:
    """(number, [wavelength, fwhm, gain, offset]). EnMAP: bandID, DESIS: band."""
    fields = {child.tag.rpartition("}")[2].lower(): child.text or "" for child in element}
    width = "fwhmofband" if "fwhmofband" in fields else "wavelengthwidthofband"
    names = ("wavelengthcenterofband", width, "gainofband", "offsetofband")
    return int(element.get("number") or fields["bandnumber"]), [float(fields[name]) for name in names]
