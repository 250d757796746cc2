"""File units to [0, 1]: one rule for each kind of image."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from mvg.configuration import Configurable
from mvg.data.readers import FloatArray


class Intensity(metaclass=Configurable):
    """A rule that finds, for one volume or picture, which values become 0 and 1; `str` says it in words."""

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    @abstractmethod
    def limits(self, values: FloatArray, full_scale: float | None) -> tuple[float, float]:
        """Returns the values that become 0 and 1.

        Args:
            values: Any shape, in the units of the file.
            full_scale: Largest value of the file's pixel type; None for volumes.
        """


class Window(Intensity):
    """A fixed window, for units that mean something: Hounsfield units, uptake values.

    Args:
        low: Value that becomes 0, in the units of the file.
        high: Value that becomes 1.
    """

    def __init__(self, low: float, high: float) -> None:
        if not low < high:
            raise ValueError(f"a window needs low < high, got {low} and {high}")
        self.low, self.high = low, high

    def __str__(self) -> str:
        return f"the window from {self.low:g} to {self.high:g}"

    def limits(self, values: FloatArray, full_scale: float | None) -> tuple[float, float]:
        """Returns the window."""
        return self.low, self.high


class Percentiles(Intensity):
    """Percentiles of the foreground of each volume, for arbitrary units such as those of MRI.

    The foreground are the values above the smallest one, so that air cut to a constant does not count.

    Args:
        low: Percentile that becomes 0, [0, 100].
        high: Percentile that becomes 1, [0, 100].
    """

    def __init__(self, low: float = 0.5, high: float = 99.5) -> None:
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles need 0 <= low < high <= 100, got {low} and {high}")
        self.low, self.high = low, high

    def __str__(self) -> str:
        return f"percentiles {self.low:g} and {self.high:g} of the foreground of each"

    def limits(self, values: FloatArray, full_scale: float | None) -> tuple[float, float]:
        """Returns the percentiles; where they coincide, the extremes; for a constant image an interval of length 1."""
        foreground = values[values > values.min()]
        low, high = np.percentile(foreground, (self.low, self.high)) if foreground.size else (0.0, 0.0)
        if not low < high:
            low, high = values.min(), values.max()
        return float(low), float(high) if low < high else float(low) + 1.0


class FullScale(Intensity):
    """The whole range of the pixel type: 0 to 255 for 8 bits, 0 to 65535 for 16.

    Args:
        maximum: Value that becomes 1; taken from the pixel type by default. Volumes need it.
    """

    def __init__(self, maximum: float | None = None) -> None:
        if maximum is not None and maximum <= 0:
            raise ValueError(f"`maximum` must be positive, got {maximum}")
        self.maximum = maximum

    def __str__(self) -> str:
        return f"the range from 0 to {'the largest of the pixel type' if self.maximum is None else f'{self.maximum:g}'}"

    def limits(self, values: FloatArray, full_scale: float | None) -> tuple[float, float]:
        """Returns 0 and the maximum."""
        maximum = self.maximum if self.maximum is not None else full_scale
        if maximum is None:
            raise ValueError(
                "FullScale needs `maximum` for a volume, as its pixel type says little; or use Percentiles"
            )
        return 0.0, maximum


def normalise(values: FloatArray, limits: tuple[float, float]) -> FloatArray:
    """Maps the limits to 0 and 1 and clips; any shape."""
    low, high = limits
    scaled: FloatArray = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1, dtype=np.float32)
    return scaled
