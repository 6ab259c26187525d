"""Whether data is to come packed (compressed): as what brings more of it a second, tried in turn.

On a slow link packing gains what it saves, on a fast one it costs more than that, and in between it depends on the
data. So both are measured, again and again, the worse of them ever more seldom as long as it stays the worse. Pure.
"""

from voyfs.core.limits import MIB

SAMPLE_BYTES = 8 * MIB  # of data, before packing
MOST_SAMPLES = 64  # of the better, between two of the other


class Packing:
    """`asked`: whether to ask for packed data now."""

    def __init__(self) -> None:
        self.asked = False
        self._rates: dict[bool, float] = {}  # bytes a second, as last measured
        self._better = False
        self._patience = 1
        self._samples = 0  # of the better, since the other was tried
        self._size = 0
        self._seconds = 0.0

    def took(self, asked: bool, size: int, seconds: float) -> None:
        """What was `asked` for so or so has come: `size` bytes of data, `seconds` after what came before it."""
        if asked is not self.asked:
            return  # asked for before the change
        self._size += size
        self._seconds += seconds
        if self._size < SAMPLE_BYTES:
            return
        self._rates[asked] = self._size / max(self._seconds, 1e-9)
        self._size, self._seconds = 0, 0.0
        self._choose()

    def _choose(self) -> None:
        if len(self._rates) < 2:
            self.asked = True
            return
        tried = self.asked is not self._better
        better = self._rates[True] > self._rates[False]
        if better is not self._better:
            self._better, self._patience, self._samples = better, 1, 0
        elif tried:
            self._patience, self._samples = min(2 * self._patience, MOST_SAMPLES), 0
        else:
            self._samples += 1
        self.asked = better if self._samples < self._patience else not better
