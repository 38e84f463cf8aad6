# SPDX-License-Identifier: Apache-2.0
"""A loss that is no number stops the training, by the names of the scans that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ldae.errors import InputError

MOST_NAMES = 16


class FiniteLoss(LightningModule):
    """Looks at each loss one step later, when the device has it anyway, so that no step waits for it.

    At the end of an epoch, before the checkpoint is written, it also looks at the weights: gradients that are
    no numbers show in the loss of the step after them only.
    """

    _last: tuple[Tensor, Tensor, str] | None = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the loss before this one, and keep this one."""
        self._check_loss()
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and isinstance(batch, Mapping) and "index" in batch:
            place = f"batch {batch_idx + 1} of epoch {self.current_epoch + 1}"
            self._last = loss.detach(), batch["index"], place

    def on_train_epoch_end(self) -> None:
        """Look at the last loss and at the weights.

        Raises:
            InputError: One of them is not finite.
        """
        last = self._last
        self._check_loss()
        broken = [name for name, value in self.named_parameters() if not bool(torch.isfinite(value).all())]
        if broken and last is not None:
            raise self._fault(f"weights were NaN or infinite ({broken[0]})", last)

    def _check_loss(self) -> None:
        last, self._last = self._last, None
        if last is not None and not bool(torch.isfinite(last[0]).all()):
            raise self._fault(f"the loss was {last[0].item():g}", last)

    def _fault(self, what: str, last: tuple[Tensor, Tensor, str]) -> InputError:
        _, index, place = last
        rows = self.trainer.datamodule.rows("train").iloc[index.tolist()]  # type: ignore[attr-defined]
        names = [f"{row.subject} {row.session} ({row.path})" for row in rows[:MOST_NAMES].itertuples()]
        more = f" and {len(rows) - MOST_NAMES} more" if len(rows) > MOST_NAMES else ""
        saved = self.current_epoch > 0 or self.trainer.ckpt_path is not None
        kept = "The checkpoint of the last good epoch is kept." if saved else "No epoch had been finished."
        return InputError(
            f"Training must stay finite, but {what} after {place}, which held the scans {', '.join(names)}"
            f"{more}. {kept} Look at these scans (ldae check), or lower the learning rate."
        )
