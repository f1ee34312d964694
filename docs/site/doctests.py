"""Extension of mkdocstrings: examples in docstrings become blocks of code, which Markdown would take for quotations."""

import re
from typing import Any

import griffe

# Lines from >>> to the next empty line, and further ones that follow it.
EXAMPLES = re.compile(r"^>>> .*(?:\n.+)*(?:\n\n>>> .*(?:\n.+)*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Put fences around the examples of every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_known: Any) -> None:
        """Change the text of an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLES.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
