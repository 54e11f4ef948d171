"""The report of an audit as one HTML page that needs nothing else; every value is escaped, and there is no script."""

import base64
import io
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from PIL import Image

from privbench.auditing.findings import AuditResult, Pixels

__all__ = ["audit_page"]

_SIDE = 160
"""Pixels of a picture on the page, at least."""

_COLOURS = {"found": "#b2182b", "partly": "#ef8a62"}


def audit_page(report: AuditResult) -> str:
    """The page.

    Args:
        report: What the audit found.
    """
    template = files("privbench.auditing").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    captions = {name: _caption(one.name, one.explained) for one in report.findings for name in one.pictures}
    pictures = [(name, _png(pixels), captions.get(name, name)) for name, pixels in report.pictures.items()]
    return environment.from_string(template).render(
        report=report, pictures=pictures, colour=_COLOURS.get(report.verdict, "#666")
    )


def _caption(name: str, explained: float | None) -> str:
    return name if explained is None else f"{name}, explains {100 * explained:.1f} %"


def _png(pixels: Pixels) -> str:
    picture = Image.fromarray(pixels)
    factor = max(1, _SIDE // max(picture.size))
    enlarged = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    enlarged.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
