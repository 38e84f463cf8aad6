# SPDX-License-Identifier: Apache-2.0
"""Latent diffusion autoencoders for 3D brain MRI.

`LDAEPipeline` is loaded on first use, so that `import ldae` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldae.pipeline import LDAEPipeline

__version__ = "0.1.0"
__all__ = ["LDAEPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "LDAEPipeline":
        from ldae.pipeline import LDAEPipeline

        return LDAEPipeline
    raise AttributeError(f"module 'ldae' has no attribute {name!r}")
