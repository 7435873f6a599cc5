"""Plotly's script, which draws the charts of the report and of the live page."""

import base64
import gzip
from importlib.resources import files


def script() -> bytes:
    """The script as its Python package ships it, 4.8 MB; the package itself is not needed and not imported."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_bytes()


def packed() -> str:
    """The same, gzip in base64: 2 MB of text for a page that unpacks it with the browser's DecompressionStream."""
    return base64.b64encode(gzip.compress(script(), mtime=0)).decode()
