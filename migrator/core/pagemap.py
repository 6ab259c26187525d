"""How much of a container's memory follows its restore, told from CRIU's images of where its pages are.

Pure: bytes in, numbers out. Source: CRIU 4.2, images/pagemap.proto. Its first entry is a head.
"""

from __future__ import annotations

from typing import Final

from migrator.core.image import MALFORMED, entries, fields

NAMES: Final = "pagemap-*.img"
_COUNT, _FLAGS, _LONG_COUNT = 2, 4, 5  # pagemap_entry; who writes the long one leaves the other 0
_LAZY, _PRESENT = 2, 4  # _PRESENT: they are among the images


def lazy_pages(image: bytes) -> int:
    """Pages of one process that follow; 0 where the image is not as expected."""
    count = 0
    try:
        for begin, end in list(entries(image))[1:]:
            found = {field: value for field, _, value in fields(image, begin, end)}
            if found.get(_FLAGS, 0) & (_LAZY | _PRESENT) == _LAZY:
                count += found.get(_LONG_COUNT) or found.get(_COUNT, 0)
    except MALFORMED:
        return 0
    return count
