"""Lengths of time as people write them: "90", "90s", "15m", "12h", "2d".

Pure. It must not know what takes so long.
"""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TEXT: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)


def parse_duration(text: str, most: float) -> float:
    """Seconds; raises ValueError for what is no length of time, or longer than MOST seconds."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"'{text}' is no length of time, such as 90, 90s, 15m, 12h or 2d")
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > most:
        raise ValueError(f"'{text}' is longer than {most / 86400:.0f} days")
    return seconds
