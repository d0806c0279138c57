"""xseg: find the objects of one camera's view in another's (Ego-Exo4D object correspondence).

From Python, for one pair of images:

    from egoexo_xseg import CrossViewSegmenter

    segmenter = CrossViewSegmenter.from_pretrained("weights/xseg-tiny", direction="ego2exo")
    masks, visibility = segmenter.segment(query_image, query_masks, target_image)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egoexo_xseg.api import CrossViewSegmenter

__version__ = "0.1.0"
__all__ = ["CrossViewSegmenter", "__version__"]


def __getattr__(name: str) -> type[CrossViewSegmenter]:
    """Only who asks for the model waits for torch."""
    if name == "CrossViewSegmenter":
        from egoexo_xseg.api import CrossViewSegmenter

        return CrossViewSegmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
