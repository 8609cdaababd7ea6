"""A whole training: option file -> ``experiments/<name>``; resumed, it goes on as if it had never stopped."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from typing import Any

import torch

from seemore_fast.backends.devices import pick_device
from seemore_fast.backends.precision import autocast
from seemore_fast.data import pairs
from seemore_fast.data.pairs import Pair
from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.model import SeemoRe
from seemore_fast.options import pretrained
from seemore_fast.options.datasets import TrainSet
from seemore_fast.options.schema import Options, Training
from seemore_fast.system.ahead import map_ahead
from seemore_fast.train import pictures, processes
from seemore_fast.train.experiment import Experiment, load_state
from seemore_fast.train.network import NotFinite, Trainee
from seemore_fast.train.processes import Launcher, Processes
from seemore_fast.train.report import Report
from seemore_fast.train.sampling import Batch, Sampler
from seemore_fast.train.schedule import learning_rate
from seemore_fast.train.signals import StopRequest
from seemore_fast.train.validation import Validation


def train(
    options: Options, launcher: Launcher = "none", auto_resume: bool = False, root: Path = Path()
) -> int:
    """Trains as ``options`` say, below the folder ``root``; the signal that ended it early, or 0.

    On SIGTERM or SIGINT the state is saved first.  Raises SeemoreError, and what derives from it, for input
    that does not do, found before anything is written; for a loss that is not finite, with the batch's
    pictures; and where the disk is full.  States saved earlier stay whole.
    """
    with processes.one_failure():
        training, dataset = options.train, options.datasets.train
        if training is None or dataset is None:
            missing = "train" if training is None else "datasets:train"
            raise SeemoreError(f"{missing} is missing: the file does not describe a training")
        wanted = pick_device("cpu" if options.num_gpu == 0 else "auto").type
        everyone = processes.join(launcher, options.dist_params, wanted)
    device = torch.device(wanted, everyone.local_rank) if wanted == "cuda" else torch.device(wanted)
    with Report(training.total_iter, everyone.first) as report, processes.one_failure():
        run = _Run(options, training, dataset, auto_resume, root, device, everyone, report)
        with StopRequest() as request:
            ended_by = run.go(request)
    everyone.wait()
    processes.leave()
    return ended_by


class _Run:
    """One training: everything is read and checked by the constructor, and nothing written but the cache."""

    def __init__(
        self,
        options: Options,
        training: Training,
        dataset: TrainSet,
        auto_resume: bool,
        root: Path,
        device: torch.device,
        everyone: Processes,
        report: Report,
    ):
        self.options, self.training, self.dataset = options, training, dataset
        self.everyone, self.report = everyone, report
        seed = options.manual_seed or 0
        logger = options.logger
        self.wandb = logger.wandb if logger.wandb is not None and logger.wandb.project else None
        if self.wandb is not None:
            report.need_wandb()
        self.experiment = Experiment(
            root, options.name, logger.save_checkpoint_format, options.network_g.arguments()
        )
        state_file = self._state_file(auto_resume)
        self.state: dict[str, Any] | None = load_state(state_file) if state_file is not None else None
        precision = autocast(device.type, self.training.precision)
        self.validation = Validation(options, self.experiment.visualization, precision)

        torch.manual_seed(seed)
        model = SeemoRe(**options.network_g.arguments())
        self.notes = []
        if self.state is not None:
            self.notes.append(f"resuming {state_file}")
        elif options.path.pretrain_network_g is not None:
            self.notes = _describe(pretrained.load(model, options.path), options.path.pretrain_network_g)
        self.trainee = Trainee(model, training, device, everyone, dataset.accum_iter)
        self.done = 0
        if self.state is not None:
            self.trainee.restore(self.state)
            self.done = self.state["iter"]
            self.validation.best = self.state["best"]
        self.names, self.sampler = _sampler(dataset, options.scale, seed, everyone, report)

    def go(self, request: StopRequest) -> int:
        """Trains to the end, or until ``request`` has a signal; see `train`."""
        if self.everyone.first:
            self.experiment.prepare(resuming=self.state is not None)
            stamp = time.strftime("%Y%m%d_%H%M%S")
            self.report.open_log(self.experiment.folder / f"train_{self.options.name}_{stamp}.log")
            if self.options.logger.use_tb_logger:
                self.report.open_board(self.experiment.tensorboard, self.done)
            if self.wandb is not None:
                config = self.options.model_dump(mode="json")
                project, resume = self.wandb.project, self.wandb.resume_id
                self.report.open_wandb(project, self.options.name, resume, config, self.experiment.folder)
        self._introduce()
        total, every = self.training.total_iter, self.options.logger
        val_freq = self.options.val.val_freq if self.validation.sets else None
        sums = torch.zeros(len(self.trainee.terms), device=self.trainee.device)
        summed = 0
        saved = validated = self.done
        workers = self.dataset.num_worker_per_gpu
        batches = map_ahead(self._batch, count(self.done + 1), max(1, min(workers, 8)), 8)
        try:
            while self.done < total and not (stop := self.everyone.largest(request.signal)):
                iteration = self.done + 1
                sums += self.trainee.step(iteration, next(batches))
                summed += 1
                self.done = iteration
                self.report.step(iteration)
                if iteration % every.print_freq == 0:
                    means = self.everyone.mean(sums / summed).tolist()
                    rate = learning_rate(self.training, iteration)
                    self.report.losses(iteration, rate, dict(zip(self.trainee.terms, means, strict=True)))
                    sums.zero_()
                    summed = 0
                if val_freq is not None and iteration % val_freq == 0:
                    self._validate()
                    validated = iteration
                if iteration % every.save_checkpoint_freq == 0:
                    self._save()
                    saved = iteration
        except NotFinite as error:
            raise self._explained(error) from None
        finally:
            batches.close()
        if self.done < total:
            if saved != self.done:
                self._save()
            self.report.say(f"stopped after iteration {self.done:,}; --auto_resume goes on from there")
            return stop
        if self.validation.sets and validated != self.done:
            self._validate()
        if saved != self.done:
            self._save()
        if self.everyone.first:
            path = self.experiment.save_weights("latest", self.trainee.weights())
            self.report.say(f"finished: {path}")
        return 0

    def _state_file(self, auto_resume: bool) -> Path | None:
        newest = self.experiment.newest_state() if auto_resume else None
        given = self.options.path.resume_state
        return newest or (Path(given) if given is not None else None)

    def _introduce(self) -> None:
        name, device = self.options.name, self.trainee.device
        parameters = sum(p.numel() for p in self.trainee.model.parameters())
        alone = self.everyone.world == 1
        who = f"on {device}" if alone else f"in {self.everyone.world} processes on {device.type}"
        self.report.say(f"{name}: {parameters:,} parameters, {self.training.precision} {who}")
        pieces, shown = self.sampler.epoch_length, len(self.names)
        self.report.say(f"{shown} training pictures, {pieces:,} patches' worth of pixels")
        for note in self.notes:
            self.report.say(note)

    def _batch(self, iteration: int) -> Batch:
        batch = self.sampler.batch(iteration)
        if self.trainee.device.type == "cuda" and self.dataset.pin_memory:
            batch = Batch(*(patches.pin_memory() for patches in batch))
        return batch

    def _validate(self) -> None:
        self.trainee.check()
        if self.everyone.first and self.validation.run(self.trainee.evaluated.eval(), self.done, self.report):
            self.experiment.save_weights("best", self.trainee.weights())
        self.trainee.model.train()
        self.everyone.wait()

    def _save(self) -> None:
        self.trainee.check()
        if self.everyone.first:
            self.experiment.save_weights(str(self.done), self.trainee.weights())
            state = {"iter": self.done, "best": self.validation.best, **self.trainee.state()}
            self.experiment.save_state(self.done, state)
        self.everyone.wait()

    def _explained(self, error: NotFinite) -> SeemoreError:
        names = sorted({self.names[i] for i in self.sampler.pictures(error.iteration)})
        newest = self.experiment.newest_state()
        kept = f"the last state is {newest}" if newest else "no state had been saved yet"
        return SeemoreError(f"{error}; its patches are from {', '.join(names)}; {kept}")


def _sampler(
    dataset: TrainSet, scale: int, seed: int, everyone: Processes, report: Report
) -> tuple[list[str], Sampler]:
    """The training pictures' files and their sampler; see `pictures` for what is raised."""
    cache, patch = Path(dataset.cache_dir), dataset.gt_size // scale
    files: list[Path] = []
    paired: list[Pair] = []
    weights: list[int] = []
    for large_folder, small_folder, weight in dataset.folders:
        if small_folder is None:
            files += pairs.find_pictures(large_folder, dataset.meta_info_file)
        else:
            paired += pairs.find_pairs(
                large_folder, small_folder, dataset.filename_tmpl, dataset.meta_info_file
            )
            files = [pair.gt for pair in paired if pair.gt is not None]
        weights += [weight] * (len(files) - len(weights))
    pairs.check_sizes(paired, scale)

    def store() -> tuple[pictures.Pictures, pictures.Pictures]:
        large = pictures.decoded(files, cache, report.preparing)
        if paired:
            return large, pictures.decoded([pair.lq for pair in paired], cache, report.preparing)
        return large, pictures.reduced(large, files, scale, cache, report.preparing)

    gt, lq = everyone.one_first(store)
    small = [str(file) for file, size in zip(files, lq.sizes, strict=True) if size.min() < patch]
    if small:
        raise ImageError(f"smaller than gt_size ({dataset.gt_size}): {pairs.first_five(small)}")
    sampler = Sampler(
        gt,
        lq,
        scale,
        patch,
        dataset.batch_size_per_gpu * dataset.accum_iter,
        seed,
        weights=weights,
        shuffle=dataset.use_shuffle,
        hflip=dataset.use_hflip,
        rot=dataset.use_rot,
        degradations=dataset.degradations,
        rank=everyone.rank,
        world=everyone.world,
    )
    return [str(file) for file in files], sampler


def _describe(left_out: pretrained.LeftOut, source: str) -> list[str]:
    notes = [f"starting from {source}"]
    kinds = ("of another shape, not loaded", "not in the file, left as initialised", "unknown, not loaded")
    for kind, names in zip(kinds, left_out, strict=True):
        if names:
            notes.append(f"{kind}: {pairs.first_five(names)}")
    return notes
