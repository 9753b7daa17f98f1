"""When a scene was taken, as far as its file tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

_TAGS = ("ACQUISITIONDATETIME", "ACQUISITION_DATETIME", "ACQUISITION_DATE", "SENSING_TIME", "DATE_ACQUIRED")
_DOMAINS = (None, "IMAGERY")
_CREATED = "TIFFTAG_DATETIME"
_STAMP = re.compile(
    r"(\d{4})[:-](\d\d)[:-](\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?)? ?(Z|UTC|[+-]\d\d:?\d\d)?", re.IGNORECASE
)


@dataclass(frozen=True)
class Moment:
    """A time as RFC 3339 in UTC, and where it is from."""

    text: str
    source: str


def acquired(dataset: Any, path: str) -> Moment | None:
    """From an open raster's tags, else the time its file was changed; None where there is no file.

    A time without a zone is taken as UTC.
    """
    tags = {key: value for domain in _DOMAINS for key, value in dataset.tags(ns=domain).items()}
    for name in (*_TAGS, _CREATED):
        moment = parse_time(tags.get(name, ""))
        if moment is not None:
            return Moment(_rfc3339(moment), name)
    try:
        changed = Path(path).stat().st_mtime
    except (OSError, ValueError):  # a name of GDAL's own
        return None
    return Moment(_rfc3339(datetime.fromtimestamp(int(changed), UTC)), "file modification time")


def parse_time(text: str) -> datetime | None:
    """Date, or date and time, as TIFF and most products write them; None if it is none."""
    found = _STAMP.fullmatch(text.strip())
    if found is None:
        return None
    *numbers, zone = found.groups()
    offset = timedelta()
    if zone and zone[0] in "+-":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:])) * (-1 if zone[0] == "-" else 1)
    try:
        year, month, day, hour, minute, second = (int(number or 0) for number in numbers)
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone(offset))
    except ValueError:  # such as 0000:00:00 00:00:00
        return None


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
