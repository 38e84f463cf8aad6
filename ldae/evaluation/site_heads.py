# SPDX-License-Identifier: Apache-2.0
"""The heads that are compared across sites, and what each says of the scans of a fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.errors import InputError
from ldae.evaluation.head_choice import HAC_RATE, HEADS, LINEAR, MODULATED, make_head
from ldae.evaluation.head_input import context_array, context_levels
from ldae.evaluation.site_folds import Fold
from ldae.heads.matched import matched_hidden, modulated_parameters, plain_parameters
from ldae.pipeline.embeddings import code_array

EVIDENTIAL = "evidential"
INFORMED, MATCHED = f"{MODULATED}-context", "mlp-matched"
COMPARED = (LINEAR, EVIDENTIAL, MODULATED, INFORMED, MATCHED)


@dataclass(frozen=True)
class Contest:
    """What is predicted, and from what.

    Attributes:
        target: The column to predict.
        by: The column with the site.
        context: Columns that hac-context is told beside the code, the site among them.
        seed: Seed of all that is random.
    """

    target: str
    by: str
    context: tuple[str, ...]
    seed: int

    def said(self, head: str, fold: Fold) -> pd.DataFrame:
        """Fit a head on a fold and ask it: a row a judged scan, with p_<class>.

        A site that the fold leaves out is unknown to its heads: no training scan has had that value.
        """
        rows = pd.concat([fold.train, fold.test], ignore_index=True)
        features, beside = self._features(head, rows)
        model = self.made(head, fold.train[self.target], width=features.shape[1] - beside, context=beside)
        count = len(fold.train)
        subjects = fold.train["subject"].to_numpy()
        model.fit(features[:count], fold.train[self.target].to_numpy(), groups=subjects)
        scan = fold.test[["subject", "session"]].reset_index(drop=True)
        table = scan.assign(
            site=fold.test[self.by].to_numpy(),
            head=head,
            seed=self.seed,
            fitted=fold.arm,
            fitted_scans=count,
            y_true=fold.test[self.target].astype(str).to_numpy(),
        )
        chances = pd.DataFrame(model.predict_proba(features[count:]), columns=model.classes_)
        return table.join(chances.add_prefix("p_"))

    def made(self, head: str, known: pd.Series[Any], *, width: int, context: int) -> Any:
        """A head before it is fitted.

        Args:
            head: Its name.
            known: Classes of the scans to fit on.
            width: Width of the code.
            context: Columns of context.
        """
        if head == MATCHED:
            hidden = matched_hidden(width, classes=known.nunique())
            made: Any = make_head(EVIDENTIAL, known, seed=self.seed)
            return made.set_params(hidden=hidden, learning_rate=HAC_RATE)
        name = MODULATED if head == INFORMED else head
        return make_head(name, known, seed=self.seed, context=context)

    def _features(self, head: str, rows: pd.DataFrame) -> tuple[NDArray[np.float64], int]:
        """Codes [N, D + K], and how many columns of context K are at their end."""
        codes = code_array(rows)
        if head != INFORMED:
            return codes, 0
        beside = context_array(rows, context_levels(rows, self.context))
        return np.hstack([codes, beside]), beside.shape[1]


def check_heads(heads: Sequence[str]) -> None:
    """Stops at a head that there is not.

    Raises:
        InputError: With its name.
    """
    known = list(dict.fromkeys([*COMPARED, *HEADS]))
    strange = [name for name in heads if name not in known]
    if strange or not heads:
        raise InputError(f"heads must be of {', '.join(known)}, got {strange[0] if strange else 'none'!r}.")


def count_parameters(width: int, *, classes: int, context: int) -> dict[str, int]:
    """Parameters of the networks that are compared.

    Args:
        width: Width of the code.
        classes: Number of classes.
        context: Columns of context that hac-context has where no site is left out.
    """
    hidden = matched_hidden(width, classes=classes)
    return {
        MODULATED: modulated_parameters(width, classes=classes),
        INFORMED: modulated_parameters(width, classes=classes, context=context),
        MATCHED: plain_parameters(width, classes=classes, hidden=hidden),
    }
