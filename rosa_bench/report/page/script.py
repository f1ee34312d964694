"""The page's script and its content security policy, which lets that one script run and nothing else."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

FOLDER = Path(__file__).parent / "templates"
PARTS = ("unpack", "elements", "axes", "curves", "details", "scatter", "list", "page")  # each uses those before it
# blob: is for DataTables, which the script unpacks. Only a script that already runs can make such an address.
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'sha256-{digest}' blob:"
)


def page_script() -> "Markup":
    """Return the parts as one script."""
    from markupsafe import Markup

    parts = [(FOLDER / f"{part}.js").read_text(encoding="utf-8") for part in PARTS]
    return Markup("\n" + "\n".join(parts))


def policy(script: str) -> str:
    """Return the policy under which only this script runs."""
    return POLICY.format(digest=b64encode(sha256(script.encode()).digest()).decode())


def library() -> tuple[bytes, "Markup"]:
    """Return DataTables as a JavaScript module, and its style sheet, both from itables."""
    from itables import options
    from markupsafe import Markup

    bundle = Path(options.dt_bundle)
    return bundle.read_bytes(), Markup(bundle.with_suffix(".css").read_text(encoding="utf-8"))
