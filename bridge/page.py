"""The status page at `/`: one file, which asks /status each second and may do nothing else."""

import base64
import functools
import hashlib
import re
from importlib import resources
from typing import Final

CONTENT_TYPE: Final = "text/html; charset=utf-8"
NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of what is no page."""


@functools.cache
def page() -> bytes:
    return (resources.files("bridge") / "page.html").read_bytes()


@functools.cache
def policy() -> str:
    """Its Content-Security-Policy: its own script and style as they are written there, and questions to the listener. So
    a name from the database could not run as a script, even if the page took it for one."""
    script, style = (
        base64.b64encode(hashlib.sha256(found).digest()).decode()
        for tag in (b"script", b"style")
        for found in re.findall(b"<%b>(.*?)</%b>" % (tag, tag), page(), re.DOTALL)
    )
    return (
        f"{NOTHING}; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
