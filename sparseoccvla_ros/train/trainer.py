"""The training loop, common to all stages, datasets and machines (CPU, one GPU, several with `accelerate launch`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..core.errors import InvalidInput
from ..core.files import written
from ..data.dataset import DrivingSamples
from . import checkpoint
from .checkpoint import Progress
from .data_loader import BatchLoader
from .run_log import RunLog
from .settings import TrainSettings
from .task import Stage, Validation

LAST, BEST = "last.safetensors", "best.safetensors"
"""Files in the output folder: the checkpoint to resume from, and the exported weights of the best validation."""


@dataclass(frozen=True)
class Report:
    """Progress report after each step; share: done fraction of the run; eta: s; validation: if one was run."""

    step: int
    share: float
    loss: float
    samples_per_second: float
    eta: float
    validation: Validation | None = None


class Trainer:
    """Trains a stage. out: folder of checkpoints, logs and pictures; resume: continue from OUT/last.safetensors.

    augment: None for no augmentation. on_report: called after every step, including its validation.
    """

    def __init__(
        self,
        stage: Stage[Any],
        train: DrivingSamples,
        validation: DrivingSamples,
        settings: TrainSettings,
        out: Path,
        resume: bool = False,
        augment: Callable[[Any, np.random.Generator], Any] | None = None,
        device: str = "auto",
        on_report: Callable[[Report], None] | None = None,
    ) -> None:
        if not len(train):
            raise InvalidInput("data", "there is no training sample yet")
        self.settings, self.out = settings, out
        self._train, self._validation, self._augment = train, validation, augment
        self._report = on_report or (lambda report: None)
        # A stage may hold parameters that its loss does not use yet, e.g. the voxel head while the encoder trains.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[unused])
        torch.manual_seed(settings.seed)
        if not resume:
            stage.begin(train, settings.seed)
        self.stage = stage.to(self.accelerator.device)
        groups = stage.parameter_groups(settings.learning_rate, settings.backbone_lr_scale)
        self._peak_lrs = [group["lr"] for group in groups]
        # The fused optimizer takes a fifth of the time on a CPU.
        fused = self.accelerator.device.type == "cpu"
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused or None
        )
        self.progress = Progress()
        self.average = {k: v.detach().clone() for k, v in stage.state_dict().items()}
        last = out / LAST
        if resume:
            self.progress, _ = checkpoint.load(last, stage, self.average, self.optimizer)
            train.refresh(self.progress.samples)
        elif last.exists():
            raise InvalidInput("out", f"{out} holds a run already: add --resume, or choose another folder")
        self._model = self.accelerator.prepare(stage)

    def run(self) -> Validation | None:
        """Train to the end; returns the last validation."""
        settings, progress, main = self.settings, self.progress, self.accelerator.is_main_process
        log = RunLog(self.out) if main else None
        loader = BatchLoader(
            self._train, self.stage.collate, self._augment, settings.batch_size, settings.seed, progress.place,
            settings.num_workers, self.accelerator.process_index, self.accelerator.num_processes,
        )  # fmt: skip
        if main and not progress.step:
            progress.samples = loader.samples
            self.save()  # Stage.begin may have taken half an hour
        last: Validation | None = None
        # All time since `last_tick` counts as training time: waiting for data, steps, validation and checkpoints.
        last_tick, throughput = time.monotonic(), 0.0
        try:
            while (share := settings.share(progress.step, progress.seconds)) < 1.0:
                load_start = time.monotonic()
                batch, place = next(loader)
                step_start = time.monotonic()
                values = self._step(self.stage.move(batch, self.accelerator.device), share)
                progress.step += 1
                progress.place, progress.samples = place, loader.samples
                now = time.monotonic()
                values["data_seconds"], values["step_seconds"] = step_start - load_start, now - last_tick
                current = settings.batch_size * self.accelerator.num_processes / (now - last_tick)
                throughput = current if not throughput else 0.95 * throughput + 0.05 * current
                progress.seconds += now - last_tick
                last_tick = now
                share = settings.share(progress.step, progress.seconds)
                eta = progress.seconds * (1.0 - share) / max(share, 1e-9)
                validation = None
                if log is not None:
                    values |= {"samples_per_second": throughput, "seconds": progress.seconds, "epoch": place.epoch}
                    log.write("train", progress.step, values)
                    if progress.step % settings.validate_every == 0 or share >= 1.0:
                        last = validation = self._validate(log)
                self._report(Report(progress.step, share, values["loss"], throughput, eta, validation))
                progress.seconds += time.monotonic() - last_tick
                last_tick = time.monotonic()
                if main and (progress.step % settings.save_every == 0 or share >= 1.0 or validation is not None):
                    self.save()
        finally:
            loader.close()
            if log is not None:
                log.close()
        # The first process still validates and saves when the others are done; only it knows the best score.
        (self.progress.best,) = broadcast_object_list([self.progress.best])
        return last

    def save(self) -> None:
        """Write the checkpoint for resuming."""
        checkpoint.save(self.out / LAST, self.stage, self.average, self.optimizer, self.progress, asdict(self.settings))

    @contextmanager
    def averaged(self) -> Iterator[Stage[Any]]:
        """Context in which the stage has the averaged weights and is in evaluation mode; restores its own weights."""
        own = {k: v.detach().clone() for k, v in self.stage.state_dict().items()}
        self.stage.load_state_dict(self.average)
        try:
            yield self.stage.eval()
        finally:
            self.stage.load_state_dict(own)

    def _step(self, batch: Any, share: float) -> dict[str, float]:
        """Train on a batch at fraction `share` of the run; returns the loss, its terms and other numbers to log."""
        settings, step = self.settings, self.progress.step
        lr_scale = settings.lr_scale(step, share)
        for group, peak in zip(self.optimizer.param_groups, self._peak_lrs, strict=True):
            group["lr"] = peak * lr_scale
        self.stage.train()
        terms: dict[str, Tensor] = self._model(batch)
        loss = torch.stack(list(terms.values())).sum()
        values = {k: float(v.detach()) for k, v in terms.items()}
        if not bool(loss.isfinite()):
            raise InvalidInput("loss", f"is not finite at step {step}: {values}")
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        trained = [p for p in self.stage.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        self.optimizer.step()
        self._update_average(step)
        lr = settings.learning_rate * lr_scale
        return {"loss": float(loss.detach()), "grad_norm": float(norm), "lr": lr, **values}

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        decay = min(self.settings.ema_decay, (1.0 + step) / (10.0 + step))
        for name, value in self.stage.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1.0 - decay)
            else:
                self.average[name].copy_(value)

    def _validate(self, log: RunLog) -> Validation:
        step, rng_state, began = self.progress.step, torch.get_rng_state(), time.monotonic()
        with self.averaged() as stage:
            result = stage.validate(self._validation_batches(stage))
            torch.set_rng_state(rng_state)
            log.write("validation", step, {**result.numbers, "validation_seconds": time.monotonic() - began})
            if result.picture is not None:
                log.picture(stage.name, step, result.picture)
            if result.score > self.progress.best:
                self.progress.best = result.score
                with written(self.out / BEST) as part:
                    stage.export(part)
        return result

    def _validation_batches(self, stage: Stage[Any]) -> Iterator[Any]:
        for start in range(0, len(self._validation), self.settings.batch_size):
            indices = range(start, min(start + self.settings.batch_size, len(self._validation)))
            yield stage.move(stage.collate([self._validation[i] for i in indices]), self.accelerator.device)
