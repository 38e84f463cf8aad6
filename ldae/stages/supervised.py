# SPDX-License-Identifier: Apache-2.0
"""Networks trained end to end on scans with a class or a number each: what a frozen code is compared to."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from ldae.configured import buildable
from ldae.data.artefact import save_component
from ldae.errors import InputError
from ldae.nets.image_networks import ImageNetwork, NetworkConfig, make_network
from ldae.stages.ema import ExponentialAverage
from ldae.stages.optimiser import OptimiserConfig, Phase, make_optimiser
from ldae.stages.stage import Stage

MONITORED = "val/loss"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ClassWeights = Literal["balanced"] | dict[str, float]


class SupervisedStage(Stage):
    """Trains a network on labelled scans, and keeps the averaged weights that are best on validation scans.

    Args:
        run_dir: Folder of the run.
        name: What the network is called; its folder is baselines/<target>-<name>.
        network: The network.
        optimiser: Adam and its schedule.
        ema_decay: Decay of the weight average.
        patience: Validations without a better loss after which training ends.
        seed: Seed of every random draw.
        compiled: Let torch.compile make the network faster.
    """

    kind = "supervised"
    best_loss: Tensor
    best_epoch: Tensor

    def __init__(
        self,
        *,
        run_dir: str = "outputs/run",
        name: str = "encoder",
        network: NetworkConfig | None = None,
        optimiser: OptimiserConfig | None = None,
        ema_decay: float = 0.999,
        patience: int = 10,
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__(run_dir=run_dir, seed=seed, compiled=compiled)
        self.name = name
        self.network_config = network or NetworkConfig()
        self.optimiser_config = optimiser or OptimiserConfig(lr=1e-4)
        self.ema_decay = ema_decay
        self.patience = patience
        self.net: ImageNetwork
        self.register_buffer("best_loss", torch.tensor(torch.inf))
        self.register_buffer("best_epoch", torch.tensor(-1))

    @classmethod
    def place(cls, document: Mapping[str, Any]) -> str:
        """Folder of the network in the run folder, from the whole configuration.

        Raises:
            InputError: The name cannot be that of a folder, or the data have no target.
        """
        target = document["data"]["init_args"].get("target")
        if target is None:
            raise InputError(
                "data.class_path must be ldae.data.LabelledDataModule, which has a target, got "
                f"{document['data']['class_path']}."
            )
        name = f"{target}-{document['model']['init_args']['name']}"
        if not NAME.fullmatch(name):
            raise InputError(
                f"model.init_args.name and the target must be of letters, digits, . _ and -, got {name!r}."
            )
        return f"baselines/{name}"

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of the network's outputs."""

    @abstractmethod
    def prepare(self, data: Any) -> None:
        """Learn from the training labels what the loss needs.

        Raises:
            InputError: The target does not suit the stage.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of outputs [B, O] and labels [B]."""

    @abstractmethod
    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """A figure that a person watches, by name."""

    @abstractmethod
    def meaning(self) -> dict[str, Any]:
        """What the outputs mean: {"classes"}, or {"mean", "std"} of a number."""

    def setup(self, stage: str) -> None:
        """Build the network for the size of the scans and the number of classes."""
        if hasattr(self, "net"):
            return
        self.prepare(self.datamodule)
        with torch.random.fork_rng(), buildable("network must be such that it can be built"):
            torch.manual_seed(self.seed)
            size = self.datamodule.spec.size
            self.net = make_network(self.network_config, size=size, outputs=self.outputs)
        self.ema = ExponentialAverage(self.net, decay=self.ema_decay, buffers=True)
        self.best = deepcopy(self.net).requires_grad_(False)

    def configure_callbacks(self) -> list[Callback]:
        """Stop where validation no longer gains."""
        return [
            EarlyStopping(
                MONITORED, patience=self.patience, strict=False, check_on_train_epoch_end=False, verbose=False
            )
        ]

    def configure_optimizers(self) -> Any:
        """Adam over the network."""
        config = self.optimiser_config
        phases = [Phase(self.total_steps, (config.lr,))]
        optimiser, schedule = make_optimiser(config, [list(self.net.parameters())], phases=phases)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(
        self, epoch: int, batch_index: int, optimizer: Optimizer | Any, closure: Any = None
    ) -> None:
        """One optimiser step, then one step of the average."""
        super().optimizer_step(epoch, batch_index, optimizer, closure)
        self.ema.update(self.net)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """One batch {"volume": [B, 1, X, Y, Z], "label": [B]}."""
        loss = self.loss(self.net(batch["volume"]).float(), batch["label"])
        self.log("train/loss", loss.detach(), batch_size=len(batch["label"]), prog_bar=True, sync_dist=True)
        return loss

    def held_out(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        """The averaged network's loss; on test scans that of the weights that are exported."""
        net = self._exported if self.trainer.testing else self.ema.module
        outputs, labels = net(batch["volume"]).float(), batch["label"]
        return {"loss": self.loss(outputs, labels), **self.measure(outputs, labels)}

    @property
    def _exported(self) -> torch.nn.Module:
        """The best averaged network; that of the end where nothing was validated."""
        return self.best if self.best_epoch >= 0 else self.ema.module

    def on_validation_end(self) -> None:
        """Keep the averaged weights where they are the best so far."""
        if self.trainer.sanity_checking or self.trainer.state.fn != TrainerFn.FITTING:
            return
        loss = self.trainer.callback_metrics[MONITORED]
        if loss < self.best_loss:
            self.best_loss.copy_(loss)
            self.best_epoch.fill_(self.current_epoch)
            self.best.load_state_dict(self.ema.module.state_dict())

    def networks(self) -> list[nn.Module]:
        """What `compiled` compiles."""
        return [self.net]

    def export(self, folder: Path) -> str:
        """Write the best averaged weights; those of the end where nothing was validated."""
        data = self.datamodule
        return save_component(
            folder,
            kind=self.kind,
            config={
                "name": self.name,
                "target": data.target,
                "network": asdict(self.network_config),
                "size": list(data.spec.size),
                **self.meaning(),
            },
            tensors=self._exported.state_dict(),
            spec=data.spec.to_dict(),
            split=data.split_hash,
            extra={"epoch": int(self.best_epoch), "val_loss": _finite(self.best_loss)},
        )


class ClassificationStage(SupervisedStage):
    """A network that tells classes apart: softmax and cross-entropy.

    Args:
        run_dir: Folder of the run.
        name: What the network is called; its folder is baselines/<target>-<name>.
        network: The network.
        class_weights: Weight of each class in the loss, or "balanced", inversely to how frequent it is among
            training scans. Without, probabilities keep the frequencies of the training scans.
        optimiser: Adam and its schedule.
        ema_decay: Decay of the weight average.
        patience: Validations without a better loss after which training ends.
        seed: Seed of every random draw.
        compiled: Let torch.compile make the network faster.
    """

    weight: Tensor

    def __init__(
        self,
        *,
        run_dir: str = "outputs/run",
        name: str = "encoder",
        network: NetworkConfig | None = None,
        class_weights: ClassWeights | None = None,
        optimiser: OptimiserConfig | None = None,
        ema_decay: float = 0.999,
        patience: int = 10,
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__(
            run_dir=run_dir,
            name=name,
            network=network,
            optimiser=optimiser,
            ema_decay=ema_decay,
            patience=patience,
            seed=seed,
            compiled=compiled,
        )
        self.class_weights = class_weights

    @property
    def outputs(self) -> int:
        """One a class."""
        return len(self.classes)

    def prepare(self, data: Any) -> None:
        """Take the classes and weigh them."""
        if data.numeric:
            raise InputError(
                f"target must be a column of classes, got the numbers of {data.target!r} in {data.cohort}. "
                "Train on numbers with ldae.stages.RegressionStage (regression.yaml)."
            )
        self.classes: list[Any] = data.classes
        if len(self.classes) < 2:
            raise InputError(
                f"classes must be at least two, got only {', '.join(map(str, self.classes)) or 'none'} of "
                f"{data.target!r} in {data.cohort}."
            )
        labels = data.labels("train")
        self.register_buffer("weight", self._weights(labels), persistent=False)
        self.mean_weight = float(self.weight[labels].mean())

    def _weights(self, labels: Tensor) -> Tensor:
        given = self.class_weights
        if given is None:
            return torch.ones(len(self.classes))
        if given == "balanced":
            counts = torch.bincount(labels, minlength=len(self.classes))
            return len(labels) / (len(self.classes) * counts)
        assert isinstance(given, dict)
        if set(given) != set(map(str, self.classes)) or min(given.values()) <= 0:
            raise InputError(
                f"class_weights must be a number above 0 for each of {self.classes}, got {given}."
            )
        return torch.tensor([float(given[str(name)]) for name in self.classes])

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Weighted cross-entropy, over the mean weight of the training scans.

        Not over that of the batch, as torch has it: a batch in parts, of several processes or accumulated
        steps, would have another gradient than the whole.
        """
        losses = functional.cross_entropy(outputs, labels, weight=self.weight, reduction="none")
        return losses.mean() / self.mean_weight

    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Share of scans in their class."""
        return {"accuracy": (outputs.argmax(1) == labels).float().mean()}

    def meaning(self) -> dict[str, Any]:
        """The classes in the order of the outputs."""
        return {"classes": self.classes}


class RegressionStage(SupervisedStage):
    """A network that predicts a number: mean squared error in units of the training scans' spread.

    Args:
        run_dir: Folder of the run.
        name: What the network is called; its folder is baselines/<target>-<name>.
        network: The network.
        optimiser: Adam and its schedule.
        ema_decay: Decay of the weight average.
        patience: Validations without a better loss after which training ends.
        seed: Seed of every random draw.
        compiled: Let torch.compile make the network faster.
    """

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    def prepare(self, data: Any) -> None:
        """Mean and spread of the training scans' numbers."""
        if not data.numeric:
            raise InputError(
                f"target must be a column of numbers, got the classes of {data.target!r} in {data.cohort}. "
                "Train on classes with ldae.stages.ClassificationStage (classification.yaml)."
            )
        labels = data.labels("train").double()
        self.mean, self.std = float(labels.mean()), float(labels.std())
        if not self.std > 0:
            raise InputError(
                f"target must vary, got {self.mean:g} as {data.target!r} of every training scan."
            )

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error, in variances of the training scans."""
        return functional.mse_loss(outputs[:, 0], (labels - self.mean) / self.std)

    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean absolute error in the target's units."""
        return {"mae": (outputs[:, 0] * self.std + self.mean - labels).abs().mean()}

    def meaning(self) -> dict[str, Any]:
        """What turns an output into the target's units."""
        return {"mean": self.mean, "std": self.std}


def _finite(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None
