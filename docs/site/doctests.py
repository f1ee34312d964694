"""Extension of mkdocstrings: parts of docstrings that Markdown would read as something else.

Examples become blocks of code instead of quotations, and aligned lists of fields become lists instead of paragraphs.
"""

import re
from typing import Any

import griffe

# Lines from >>> to the next empty line, and further ones that follow it.
EXAMPLES = re.compile(r"^>>> .*(?:\n.+)*(?:\n\n>>> .*(?:\n.+)*)*", re.MULTILINE)
# A name, two spaces or more, and its meaning, which goes on in indented lines.
FIELD = re.compile(r"^(\w+) {2,}(\S.*(?:\n {4,}\S.*)*)$", re.MULTILINE)


class Doctests(griffe.Extension):
    """Change every docstring so that Markdown shows it as it is meant."""

    def on_instance(self, *, obj: griffe.Object, **_known: Any) -> None:
        """Change the text of an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = marked_up(obj.docstring.value)


def marked_up(text: str) -> str:
    r"""Return a docstring as Markdown.

    >>> marked_up("One run.\n\nname   its name,\n       in full\nscore  a fraction")
    'One run.\n\n- `name`: its name, in full\n- `score`: a fraction'
    """
    text = FIELD.sub(lambda found: f"- `{found[1]}`: {' '.join(found[2].split())}", text)
    return EXAMPLES.sub(r"```pycon\n\g<0>\n```", text)
