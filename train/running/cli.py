"""`python -m train fit --config A.yaml --config B.yaml`: LightningCLI with this project's defaults.

Model and data are given as ``class_path`` and ``init_args``. Later configs win over earlier ones. Everything
a run writes lies in one folder, ``--trainer.default_root_dir`` (default ``runs/<model>``): ``last.ckpt``,
``metrics.jsonl``, ``config.yaml``, videos and TensorBoard's events.
"""

from __future__ import annotations

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from train.running.exact_resume import LatestCheckpoint, SeededSteps
from train.running.progress import ProgressLines

TRAINER_DEFAULTS = {
    "enable_progress_bar": False,  # ProgressLines instead: bars cost more than a short step
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,  # validate by steps, however long an epoch is
    "val_check_interval": 1000,
    "use_distributed_sampler": False,  # Draws already shares windows out between ranks
}


def _places(name: str, config: dict[str, Any] | None) -> int:
    """How many ids of a kind of text a dynamics of this configuration has places for."""
    from worldmodel.transformer import DynamicsConfig

    return (config or {}).get(name, getattr(DynamicsConfig, name))


class TrainingCLI(LightningCLI):
    """Adds ``--resume``, ``--checkpoint_every_n_steps``, the run's folder, and the callbacks that every run has."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--resume",
            type=Literal["never", "auto", "overwrite"],
            default="never",
            help="auto: go on from the folder's last.ckpt if there is one. overwrite: begin anew in its place.",
        )
        parser.add_argument(
            "--checkpoint_every_n_steps", type=int, default=500, help="How often last.ckpt is replaced."
        )
        # Said once; links to arguments that a module does not have are passed over.
        parser.link_arguments("model.init_args.tokens", "data.init_args.tokens")
        parser.link_arguments("data.init_args.recording", "model.init_args.recording")
        for name in ("max_text", "max_event"):
            parser.link_arguments("model.init_args.config", f"data.init_args.{name}", partial(_places, name))

    @property
    def options(self) -> Any:
        """Everything that was given to the subcommand."""
        return self.config[str(self.subcommand)]

    @property
    def folder(self) -> Path:
        return Path(self.options.trainer.default_root_dir)

    def before_instantiate_classes(self) -> None:
        if not self.options.trainer.default_root_dir:
            name = self.options.model.class_path.rsplit(".", 1)[-1].removesuffix("Module").lower()
            self.options.trainer.default_root_dir = f"runs/{name}"
        if self.options.weights_only is None:
            self.options.weights_only = True  # a checkpoint is data: it must not be able to run code
        last = self.folder / "last.ckpt"
        if (
            self.subcommand != "fit"
            or self.options.ckpt_path
            or self.options.trainer.fast_dev_run
            or not last.is_file()
        ):
            return
        if self.options.resume == "never":
            raise ValueError(
                f"{last} is an earlier run's: give --resume auto to go on with it, --resume overwrite to begin anew, "
                "or another --trainer.default_root_dir"
            )
        if self.options.resume == "auto":
            self.options.ckpt_path = str(last)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        given, folder = self.options.trainer, self.folder
        if given.logger is None and not given.fast_dev_run:
            kwargs["logger"] = TensorBoardLogger(str(folder), name="", version="")
        total_steps = self.model.hparams.get("total_steps")
        if given.max_steps == -1 and given.max_epochs is None and total_steps:
            kwargs["max_steps"] = total_steps  # the schedule's end is the run's end
        callbacks = self._get(self.config_init, "trainer")["callbacks"] or []
        own: list[L.Callback] = [SeededSteps(self.options.seed_everything or 0)]
        if self.subcommand == "fit" and not given.fast_dev_run:
            own.append(ProgressLines(folder, given.log_every_n_steps or 50))
            if given.enable_checkpointing is not False:
                own.append(LatestCheckpoint(folder, self.options.checkpoint_every_n_steps))
        kwargs["callbacks"] = [*(callbacks if isinstance(callbacks, list) else [callbacks]), *own]
        return super().instantiate_trainer(**kwargs)


def _tells_something(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning's is more than a greeting."""
    greetings = ("GPU available", "TPU available", "Seed set to", "`Trainer.fit` stopped", "litlogger")
    return not any(greeting in record.getMessage() for greeting in greetings)


def main(args: list[str] | None = None) -> TrainingCLI:
    """Parses ``args`` (default: the command line), runs the subcommand, returns the CLI with its trainer and model."""
    # Lightning's advice for scripts that mix args with a command line, its advertisement, and others' deprecations.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    warnings.filterwarnings("ignore", message=".*(LeafSpec|set_vital).*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=r"\s*(By default only one Jsonargparse|.* was deprecated in v4\.)")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).addFilter(_tells_something)
    return TrainingCLI(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_defaults=TRAINER_DEFAULTS,
        args=args,
    )
