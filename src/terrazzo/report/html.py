"""What the pages share: one template folder, numbers as text, pictures inside addresses."""

import base64
import io
import math
import re
from collections.abc import Mapping
from importlib import resources

import PIL.Image
from markupsafe import Markup, escape

from terrazzo.base import Image
from terrazzo.infer import draw

THUMBNAIL = 440
"""Longest side in pixels of a picture in a page."""


def render(template: str, values: Mapping[str, object]) -> str:
    """A page from a template of this folder; values are escaped unless the template says that they are markup."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = resources.files("terrazzo.report")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fraction": fraction, "percent": draw.percent, "plain": plain, "prose": prose}
    return environment.get_template(template).render(values)


def fraction(value: float | str | None) -> str:
    """A score as it is shown: three decimals, a dash where there is none."""
    if isinstance(value, str):
        return value
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def plain(value: object) -> str:
    """A value of the protocol or the environment as one line of text."""
    match value:
        case None:
            return "–"
        case Mapping():
            return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(plain(item) for item in value)
        case _:
            return str(value)


def prose(text: str) -> Markup:
    """A sentence, escaped; what stands between backticks is set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def data_uri(image: Image, kind: str, longest: int = THUMBNAIL) -> str:
    """A small copy of an RGB picture inside an address."""
    picture = PIL.Image.fromarray(image)
    picture.thumbnail((longest, longest), PIL.Image.Resampling.BOX)
    buffer = io.BytesIO()
    if kind == "jpeg":
        picture.save(buffer, kind, quality=82)
    else:
        picture.quantize(128, dither=PIL.Image.Dither.NONE).save(buffer, kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
