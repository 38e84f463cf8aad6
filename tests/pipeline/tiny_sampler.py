# SPDX-License-Identifier: Apache-2.0
"""A code sampler in the run of a tiny pipeline, trained for one epoch."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from ldae.data.code_data import CodeDataModule
from ldae.nets.code_denoiser import CodeDenoiserConfig
from ldae.pipeline.assemble import add_code_sampler
from ldae.stages.code_sampler import CodeSamplerStage


def add_tiny_sampler(run: Path) -> Path:
    """Train on the run's embeddings, as `fit --config code_sampler.yaml` does, and add it to the pipeline."""
    network = CodeDenoiserConfig(width=16, layers=3, embedding=8)
    stage = CodeSamplerStage(run_dir=str(run), network=network, ema_decay=0.8)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
    )
    trainer.fit(stage, datamodule=CodeDataModule(run_dir=str(run), batch_size=4))
    stage.export(run / "code_sampler")
    return add_code_sampler(run, run / "pipeline")
