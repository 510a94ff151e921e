"""Names that come from data are hostile: show them safely in a terminal, a log and a CSV cell."""

from __future__ import annotations


def safe(name: object, limit: int = 80) -> str:
    """`name` as printable text on one line: control, escape and bidi characters and bytes that are not UTF-8 show as \\x escapes."""
    shown = []
    for ch in str(name):
        code = ord(ch)
        if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (surrogateescape)
            shown.append(f"\\x{code - 0xDC00:02x}")
        elif ch.isprintable():
            shown.append(ch)
        else:
            shown.append(f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
    text = "".join(shown)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def csv_cell(value: object) -> str:
    """`safe`, and never read as a formula by a spreadsheet."""
    text = safe(value, limit=10_000)
    return "'" + text if text[:1] in "=+-@\t\r" else text


def size(n_bytes: float) -> str:
    """A number of bytes for people: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    """Seconds for people: 75 -> '1 min 15 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
