"""Sizes and numbers as people read them."""

GIB = 1024**3


def human(size: int) -> str:
    """``size`` bytes in binary units: ``13.49 GiB``, ``512.0 MiB``, ``128.0 KiB``, ``0 B``."""
    if abs(size) >= GIB:
        return f"{size / GIB:.2f} GiB"
    for unit, bytes_per_unit in (("MiB", 1024**2), ("KiB", 1024)):
        if abs(size) >= bytes_per_unit:
            return f"{size / bytes_per_unit:.1f} {unit}"
    return f"{size} B"


def whole_hundredths(size: int) -> float:
    """``size`` bytes in GiB, rounded down to hundredths, as a person would set it: ``4.21``."""
    return int(100 * size / GIB) / 100


def count(number: int, unit: str) -> str:
    """``1 core``, ``2 cores``."""
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
