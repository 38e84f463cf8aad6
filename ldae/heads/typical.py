# SPDX-License-Identifier: Apache-2.0
"""The typical direction: what goes along with a head's output in the codes, rather than what tells it best.

The weights of a linear head are a filter: they say how to read a quantity off a code, and turn away from
whatever varies for other reasons. What goes along with the quantity is the pattern of that filter,
covariance times weights (Haufe et al., NeuroImage 2014). It is also the shortest way to a target where
length is Mahalanobis distance: of all codes for which the head says so, the least unusual next to this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ldae.errors import InputError
from ldae.heads.directions import Direction

LEFT = 1e-6


def typical_direction(
    direction: Direction, *, whitening: ArrayLike, held: Sequence[Direction] = ()
) -> Direction:
    """The pattern of a direction's filter, without what would move the outputs of held linear heads.

    With S the covariance of codes divided by their standard deviations and w the filter, the pattern is S w;
    in fully whitened space it is the gradient of the head's output, and held ones are projected out there.

    Args:
        direction: Towards a higher output: a linear head's own direction.
        whitening: Inverse square root of that covariance, symmetric [D, D].
        held: Directions of heads whose outputs are to stay.

    Raises:
        InputError: Nothing is left beside the held heads.

    Example:
        >>> import numpy as np
        >>> from ldae.heads.directions import Direction
        >>> filter_ = Direction(unit=np.array([1.0, 0.0]), std=np.ones(2))
        >>> codes = np.linalg.inv(np.linalg.cholesky(np.array([[2.0, 0.0], [0.0, 0.5]])))
        >>> typical_direction(filter_, whitening=codes).unit.tolist()
        [1.0, 0.0]
    """
    root = np.linalg.inv(np.asarray(whitening, dtype=np.float64))
    gradient = root @ direction.unit
    length = np.linalg.norm(gradient)
    if held:
        basis, _ = np.linalg.qr(np.stack([root @ other.unit for other in held], axis=1))
        gradient = gradient - basis @ (basis.T @ gradient)
    if np.linalg.norm(gradient) < LEFT * length:
        raise InputError("Held heads must leave a direction to move along, got none. Hold fewer heads.")
    pattern = root @ gradient
    return Direction(unit=pattern / np.linalg.norm(pattern), std=direction.std)
