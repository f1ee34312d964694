"""What tests of several figures ask for."""

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.axis import Tick
from matplotlib.text import Text


@pytest.fixture
def shown_texts() -> Callable[[Any], list[Text]]:
    """A function from a drawn figure to its visible texts."""
    return _shown


def _shown(figure: Any) -> list[Text]:
    """Return the texts that are drawn; matplotlib keeps ticks beyond the ends of an axis, which are not."""
    hidden = [text for tick in figure.findobj(Tick) for text in (tick.label1, tick.label2)]
    shown = []
    for ax in (ax for ax in figure.axes if ax.get_visible()):
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            ticks = (*axis.get_major_ticks(), *axis.get_minor_ticks())
            shown += [tick.label1 for tick in ticks if min(limits) <= tick.get_loc() <= max(limits)]
    texts = [text for text in figure.findobj(Text) if text not in hidden and (not text.axes or text.axes.get_visible())]
    return [text for text in (*texts, *shown) if text.get_text() and text.get_visible()]
