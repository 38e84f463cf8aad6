# SPDX-License-Identifier: Apache-2.0
"""LaDiNE: an ensemble over depths of the encoder, each member diffusing class labels around its own guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ldae.heads.checks import (
    check_arrays,
    check_count,
    check_features,
    check_number,
    check_option,
    saved_columns,
    saved_positive,
)
from ldae.heads.classifier import CodeClassifier, TrainingSet
from ldae.heads.label_denoiser import PARAMETRISATIONS, Condition, LabelDenoiser, ParametrisationName
from ldae.heads.label_diffusion import FEWEST_STEPS, Sampled, level_grid, sample_labels
from ldae.heads.label_statistics import (
    PROBABILITIES,
    ProbabilityName,
    label_spread,
    on_simplex,
    probability_map,
    scan_iota,
)
from ldae.heads.label_training import LabelledCodes, train_denoiser
from ldae.heads.members import (
    FittedMembers,
    code_columns,
    fit_members,
    mapping_networks,
    member_columns,
    member_inputs,
    prior_probabilities,
)
from ldae.heads.row_noise import row_generators
from ldae.heads.stacked import (
    Optimisation,
    StackedMLP,
    for_prediction,
    from_arrays,
    seeded,
    subset,
    to_arrays,
)
from ldae.heads.uncertainty import softmax_uncertainty

SCANS_AT_ONCE = 32  # fewer cost more calls, more fall out of the cache
MAPPING_WEIGHT_DECAY = 0.1
SMALLEST_CHANCE = 1e-6
MAPPING, DENOISER = "mapping.", "denoiser."


class LaDiNEClassifier(CodeClassifier):
    """Which class a code belongs to, by K members that sample M labels each from a label diffusion.

    LaDiNE (arXiv 2310.15952) on frozen codes; with `members=1` it is CARD (arXiv 2206.07275). Member k maps
    its depth to class probabilities z_k, and a noise predictor conditioned on the code diffuses the label
    around z_k. The predictors learn from z_k of networks that have not seen the scan. All K M labels of a
    batch are sampled as one, in float64; a scan's noise is drawn from the seed and its own row, so that
    neither the batch nor the order of scans matters.

    Args:
        depths: Widths of the depths that lie side by side in X, the semantic code last; None gives each
            member a random half of one code.
        members: K; None takes every depth, five at most, or five views.
        samples: M.
        steps: Calls of the predictors when sampling, 1 or 10 to 1000.
        eta: Share of fresh noise in each step: 0 deterministic; 1 with 1000 steps is the published sampler.
        parametrisation: "y0" predicts class probabilities by cross-entropy, "eps" the noise, as published.
        probability: "expectation" (with "y0" the mean of E[y_0 | y_T], a single call; with "eps" of E[y_0 |
            y_t] where signal and noise are even, each projected onto the simplex), "map" (mean over samples
            of softmax(-(y - 1)^2 / iota)) or "map_of_mean" (the same of the mean sample).
        hidden: Widths of the mapping networks' hidden layers.
        width: Width of the noise predictors.
        epochs: Most epochs of the mapping networks.
        diffusion_steps: Most training steps of the noise predictors.
        learning_rate: Of both.
        folds: Number of folds; the first is also the validation set of the predictors and of iota.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed of folds, views, initial weights, batches and samples.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        iota_: Width of the probability map.
        temperatures_: What divides each member's logits [K].
        columns_: The columns that each member sees.

    Example:
        >>> import numpy as np
        >>> from ldae.heads import LaDiNEClassifier
        >>> codes = np.linspace(-2, 2, 40)[:, None]
        >>> head = LaDiNEClassifier(members=2, diffusion_steps=50)
        >>> head = head.fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.predict([[-1.5], [1.5]]).tolist()
        ['CN', 'AD']
        >>> head.sample([[1.5]]).shape  # scans, members, samples, classes
        (1, 2, 20, 2)
    """

    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    columns_: list[NDArray[np.intp]]
    temperatures_: NDArray[np.float64]
    iota_: float
    mapping_: StackedMLP
    denoiser_: LabelDenoiser

    def __init__(
        self,
        *,
        depths: Sequence[int] | None = None,
        members: int | None = None,
        samples: int = 20,
        steps: int = 20,
        eta: float = 0.0,
        parametrisation: ParametrisationName = "y0",
        probability: ProbabilityName = "expectation",
        hidden: Sequence[int] = (128, 128),
        width: int = 64,
        epochs: int = 60,
        diffusion_steps: int = 1000,
        learning_rate: float = 1e-3,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.depths = depths
        self.members = members
        self.samples = samples
        self.steps = steps
        self.eta = eta
        self.parametrisation = parametrisation
        self.probability = probability
        self.hidden = hidden
        self.width = width
        self.epochs = epochs
        self.diffusion_steps = diffusion_steps
        self.learning_rate = learning_rate
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def _fit(self, training: TrainingSet) -> None:
        self.columns_ = member_columns(
            self.n_features_in_,
            members=self.members,
            depths=self.depths,
            generator=np.random.default_rng(self.seed_),
        )
        scaler = StandardScaler().fit(training.features)
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        features = self._standardised(training.features).float()
        with seeded(self.seed_):
            members = fit_members(
                member_inputs(features, self.columns_),
                training,
                columns=self.columns_,
                hidden=list(self.hidden),
                optimisation=Optimisation(self.epochs, 128, self.learning_rate, MAPPING_WEIGHT_DECAY),
            )
            denoiser = self._fit_denoiser(features, training, members)
        self.temperatures_ = members.temperatures.flatten().double().numpy()
        self.mapping_, self.denoiser_ = for_prediction(members.networks), for_prediction(denoiser)
        self.iota_ = self._fit_iota(training, members)

    def sample(self, X: ArrayLike) -> NDArray[np.float64]:
        """Sampled labels of each code [N, K, M, C], not confined to [0, 1]."""
        return self._sampled(X).labels.numpy()

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class [N, C], columns in the order of `classes_`."""
        quick = self.probability == "expectation" and self.parametrisation == "y0"
        return self._probabilities(self._sampled(X, steps=1 if quick else self.steps))

    def differentiable_proba(self, X: Tensor, *, generator: torch.Generator) -> Tensor:
        """Expected label as a differentiable function of float64 codes [N, C], under K M labels drawn afresh.

        With "y0" the mean of E[y_0 | y_T] over them, else that of E[y_0 | y_t] after ten steps. `probability`
        plays no part: what an attack needs is a gradient that samples have been averaged out of.
        """
        standardised = (X - torch.from_numpy(self.mean_)) / torch.from_numpy(self.scale_)
        condition = self.denoiser_.condition(self._prior(standardised), self._code(standardised)[None])
        shape = len(X), 1, len(self.columns_), self.samples, len(self.classes_)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        steps = 1 if self.parametrisation == "y0" else FEWEST_STEPS
        return self._mean_chances(diffuse(self.denoiser_, condition, drawn=drawn, steps=steps), over=(0, 2))

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code: cpiw, cnpv, within, between of the predicted class, entropy, least_confidence, and
        cpiw_<class>, cnpv_<class>; see `ldae.heads.label_statistics.label_spread`.

        The spread of an exact sampler is 4 p (1 - p), which the probability says already; only `between`, the
        disagreement of members, adds to it.
        """
        sampled = self._sampled(X)
        chances = self._probabilities(sampled)
        spread = label_spread(
            sampled.labels.numpy(), predicted=chances.argmax(axis=1), classes=self.classes_.tolist()
        )
        doubt = softmax_uncertainty(chances)
        return pd.concat([spread.iloc[:, :4], doubt, spread.iloc[:, 4:]], axis=1)

    def member_probabilities(self, X: ArrayLike) -> NDArray[np.float64]:
        """z_k, each member's class probabilities without diffusion [N, K, C]."""
        prior = self._prior(self._standardised(self._checked(X)))
        return np.ascontiguousarray(prior.transpose(0, 1).numpy())

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        check_is_fitted(self, "denoiser_")
        arrays: dict[str, NDArray[Any]] = {"mean": self.mean_.copy(), "scale": self.scale_.copy()}
        for prefix, network in ((MAPPING, self.mapping_), (DENOISER, self.denoiser_)):
            arrays |= {f"{prefix}{name}": array for name, array in to_arrays(network).items()}
        fitted = {
            "columns": [own.tolist() for own in self.columns_],
            "temperatures": self.temperatures_.tolist(),
            "iota": self.iota_,
        }
        return self._config() | fitted, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._restored(config)
        head.columns_ = saved_columns(config["columns"], width=head.n_features_in_)
        head.temperatures_ = saved_positive("temperatures", config["temperatures"], count=len(head.columns_))
        head.iota_ = float(saved_positive("iota", [config["iota"]], count=1)[0])
        shape = (head.n_features_in_,)
        plain = {name: array for name, array in arrays.items() if not name.startswith((MAPPING, DENOISER))}
        shapes = {"mean": shape, "scale": shape}
        kept = check_arrays(plain, shapes=shapes, head=cls.__name__, positive=["scale"])
        head.mean_, head.scale_ = kept["mean"], kept["scale"]
        mapping = mapping_networks(head.columns_, classes=len(head.classes_), hidden=list(head.hidden))
        head.mapping_ = from_arrays(mapping, subset(arrays, MAPPING), head=cls.__name__)
        head.denoiser_ = from_arrays(head._denoiser(), subset(arrays, DENOISER), head=cls.__name__)
        return head

    def _check_options(self) -> None:
        check_option("parametrisation", self.parametrisation, allowed=PARAMETRISATIONS)
        check_option("probability", self.probability, allowed=PROBABILITIES)
        check_count("members", 1 if self.members is None else self.members, least=1)
        check_count("samples", self.samples, least=1)
        check_number("eta", self.eta, least=0, most=1)
        check_count("width", self.width, least=1)
        check_count("epochs", self.epochs, least=1)
        check_count("diffusion_steps", self.diffusion_steps, least=1)
        check_count("steps", self.steps, least=1)
        level_grid(self.steps)
        super()._check_options()

    def _denoiser(self) -> LabelDenoiser:
        return LabelDenoiser(
            len(self.columns_),
            classes=len(self.classes_),
            code=len(code_columns(self.n_features_in_, depths=self.depths)),
            hidden=self.width,
            parametrisation=self.parametrisation,
        )

    def _fit_denoiser(self, features: Tensor, training: TrainingSet, members: FittedMembers) -> LabelDenoiser:
        rows = LabelledCodes(
            prior_probabilities(members.held_out, members.temperatures),
            self._code(features)[None],
            torch.from_numpy(training.encoded),
        )
        fitted_on, held_out = (torch.from_numpy(part) for part in training.folds[0])
        return train_denoiser(
            self._denoiser(),
            rows.rows(fitted_on),
            validation=rows.rows(held_out),
            steps=self.diffusion_steps,
            learning_rate=self.learning_rate,
        )

    def _fit_iota(self, training: TrainingSet, members: FittedMembers) -> float:
        held_out = training.folds[0][1]
        features = training.features[held_out]
        prior = prior_probabilities(members.held_out[:, held_out].double(), members.temperatures.double())
        condition = self.denoiser_.condition(prior, self._code(self._standardised(features))[None])
        labels = self._sample(condition, features, steps=self.steps).labels.numpy()
        mean_first = self.probability == "map_of_mean"
        return scan_iota(labels, training.encoded[held_out], mean_first=mean_first)

    def _checked(self, X: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self, "denoiser_")
        return check_features(self, X)

    def _standardised(self, features: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy((features - self.mean_) / self.scale_)

    def _code(self, features: Tensor) -> Tensor:
        return features[:, code_columns(self.n_features_in_, depths=self.depths)]

    def _prior(self, standardised: Tensor) -> Tensor:
        logits = self.mapping_(member_inputs(standardised, self.columns_))
        return prior_probabilities(logits, torch.from_numpy(self.temperatures_).reshape(-1, 1, 1))

    def _sampled(self, X: ArrayLike, *, steps: int | None = None) -> Sampled:
        features = self._checked(X)
        standardised = self._standardised(features)
        condition = self.denoiser_.condition(self._prior(standardised), self._code(standardised)[None])
        return self._sample(condition, features, steps=steps or self.steps)

    def _sample(self, condition: Condition, features: NDArray[np.float64], *, steps: int) -> Sampled:
        """Labels and expectations [N, K, M, C], some scans at a time."""
        shape = len(self.columns_), self.samples, len(self.classes_)
        parts = []
        for start in range(0, len(features), SCANS_AT_ONCE):
            rows = features[start : start + SCANS_AT_ONCE]
            chunk = condition.rows(start, start + len(rows))
            drawn = row_noise(rows, (steps if self.eta else 1, *shape), seed=self.seed_)
            parts.append(diffuse(self.denoiser_, chunk, drawn=drawn, steps=steps, eta=self.eta))
        return Sampled(
            *(torch.cat(part, dim=1).transpose(0, 1).contiguous() for part in zip(*parts, strict=True))
        )

    def _probabilities(self, sampled: Sampled) -> NDArray[np.float64]:
        if self.probability != "expectation":
            mean_first = self.probability == "map_of_mean"
            return probability_map(sampled.labels.numpy(), iota=self.iota_, mean_first=mean_first)
        return np.asarray(self._mean_chances(sampled, over=(1, 2)).numpy())

    def _mean_chances(self, sampled: Sampled, *, over: tuple[int, int]) -> Tensor:
        """Class probabilities [N, C]: the mean over members and samples of what was expected on the way.

        E[y_0 | y_t] lies in the simplex. The "eps" form divides its error by the signal and may leave it:
        each expectation is projected back before the mean, in which a single one could outweigh all others.
        """
        if self.parametrisation == "y0":
            return sampled.first.mean(dim=over)
        chances = on_simplex(sampled.middle).mean(dim=over).clamp_min(SMALLEST_CHANCE)
        return chances / chances.sum(1, keepdim=True)


def row_noise(features: NDArray[np.float64], shape: Sequence[int], *, seed: int) -> Tensor:
    """Standard normal noise of each row [N, *shape], from a seed and the row's own numbers alone."""
    drawn = [one.standard_normal(tuple(shape)) for one in row_generators(features, seed=seed)]
    return torch.from_numpy(np.stack(drawn))


def diffuse(
    denoiser: LabelDenoiser, condition: Condition, *, drawn: Tensor, steps: int, eta: float = 0.0
) -> Sampled:
    """Labels [K, B, M, C] of all members, scans and samples as one batch.

    Args:
        denoiser: The noise predictors.
        condition: What the scans tell them.
        drawn: Standard normal [B, 1, K, M, C], or [B, steps, K, M, C] where eta > 0.
        steps: Calls.
        eta: Share of fresh noise.
    """
    noise = drawn.permute(1, 2, 0, 3, 4)  # [1 or steps, K, B, M, C]
    mean = condition.prior[:, :, None].expand_as(noise[0])

    def model(label: Tensor, level: int) -> Tensor:
        return denoiser.expected_label(label, condition, level=level)

    return sample_labels(model, mean, noise=noise[0], steps=steps, eta=eta, fresh=noise[1:] if eta else None)
