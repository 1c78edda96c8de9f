"""The training loop all recipes share: seeded, stoppable at every step, resumable bit for bit on a CPU.

Knows a network with `scores` and a loss. Does not know datasets on disk, jobs, or where checkpoints go: hooks
are called for that. The order of rows follows from seed and epoch alone, so a position in it is two numbers.
"""

from __future__ import annotations

import io
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: A batch is taken in at most 2 to this many parts when memory runs out.
MOST_HALVINGS = 3
#: Raised when the layout of a checkpoint changes: older ones are then not resumed.
STATE_VERSION = 1


class Diverged(Exception):
    """The loss is no longer a finite number."""


class TrainableNetwork(nn.Module, ABC):
    """A network whose `forward` is what is exported: raw rows in, what the client is told out."""

    @abstractmethod
    def scores(self, rows: Tensor) -> Tensor:
        """Raw rows [N, ...] -> what the loss compares: logits [N, C], or standardised values [N, T]."""

    @abstractmethod
    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of scores against class positions [N] or values [N, T]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows [N, ...] float32 and labels [N] int64 or [N, T] float32, on the device."""

    rows: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """What the client chose about the loop. `max_seconds` ends it and keeps the best."""

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    patience: int
    seed: int
    max_seconds: float = math.inf


@dataclass(slots=True, kw_only=True)
class EpochMetrics:
    """One line of the history."""

    epoch: int
    loss: float
    validation_loss: float
    #: Share of validation rows with the right class; None for a regression.
    validation_accuracy: float | None
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the loop calls. `step` may raise to end it; `checkpoint_due` is asked after every step."""

    step: Callable[[int, int], None] = lambda _step, _total: None
    epoch: Callable[[EpochMetrics], None] = lambda _line: None
    checkpoint_due: Callable[[], bool] = lambda: False
    checkpoint: Callable[[int, bytes], None] = lambda _step, _state: None


@dataclass(slots=True, kw_only=True)
class _Position:
    """Everything of the loop that is neither network nor optimizer."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    rows_seen: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    elapsed: float = 0.0
    history: list[EpochMetrics] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """How the loop went; the network holds the best epoch's weights."""

    epochs: int
    best_epoch: int
    steps: int
    #: Steps this process made, and the seconds it took for them.
    own_steps: int
    own_seconds: float
    stopped_early: bool
    history: list[EpochMetrics]


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and ask torch for deterministic kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)


class Loop:
    """One training run: made with its parts, told to `resume` or not, then `fit`."""

    def __init__(self, network: TrainableNetwork, train: Part, validation: Part, options: LoopOptions) -> None:
        """`network` and parts lie on one device; the network is trained in place. Set `hooks` to listen."""
        self.network = network
        self.train = train
        self.validation = validation
        self.options = options
        self.hooks = Hooks()
        self.optimizer = _optimizer(network, options)
        self.position = _Position()
        self.best = _copy(network)
        self.steps_per_epoch = _steps(len(train.rows), options.batch_size)
        self.total_steps = self.steps_per_epoch * options.epochs
        self.halvings = 0
        self._order: tuple[int, Tensor] | None = None

    def fit(self) -> FitResult:
        """Train to the last epoch, to `max_seconds`, or until patience runs out; leaves the best weights.

        Raises:
            Diverged: the loss is not finite.
            Exception: whatever the hooks raise.
        """
        first_step, started = self.position.step, time.monotonic()
        resumed_elapsed = self.position.elapsed
        position, options = self.position, self.options
        while position.epoch < options.epochs and not self._patience_is_out():
            begun = time.monotonic()
            self._run_epoch(started, resumed_elapsed)
            self._end_epoch(time.monotonic() - begun)
            if position.elapsed > options.max_seconds:
                break
        self.network.load_state_dict(self.best)
        self.network.eval()
        return FitResult(
            epochs=position.epoch,
            best_epoch=position.best_epoch,
            steps=position.step,
            own_steps=position.step - first_step,
            own_seconds=time.monotonic() - started,
            stopped_early=position.epoch < options.epochs,
            history=position.history,
        )

    def _run_epoch(self, started: float, resumed_elapsed: float) -> None:
        position = self.position
        self.network.train()
        loss_sum = torch.tensor(position.loss_sum, dtype=torch.float64, device=self.train.rows.device)
        while position.step_in_epoch < self.steps_per_epoch:
            self.hooks.step(position.step, self.total_steps)
            indices = self._batch(position.step_in_epoch)
            loss_sum += self._step(indices) * len(indices)
            position.rows_seen += len(indices)
            position.step_in_epoch += 1
            position.step += 1
            position.elapsed = resumed_elapsed + time.monotonic() - started
            if self.hooks.checkpoint_due():
                position.loss_sum = float(loss_sum)
                self.hooks.checkpoint(position.step, self.state())
            if position.elapsed > self.options.max_seconds:
                break
        position.loss_sum = float(loss_sum)

    def _step(self, indices: Tensor) -> Tensor:
        """One step of the optimizer; its mean loss. A batch the GPU cannot hold is taken in halves from then on."""
        rate = self._rate(self.position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Halved outside the except block: the exception keeps the tensors of its frames alive.
        while (loss := self._try_gradients(indices)) is None:
            self.halvings += 1
            self.optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        return loss

    def _try_gradients(self, indices: Tensor) -> Tensor | None:
        try:
            return self._gradients(indices)
        except torch.OutOfMemoryError:
            if self.halvings == MOST_HALVINGS:
                raise
            return None

    def _gradients(self, indices: Tensor) -> Tensor:
        """Gradients of the mean loss over the rows, summed up over 2^halvings parts."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.train.rows.device)
        for part in indices.chunk(2**self.halvings):
            loss = self.network.loss(self.network.scores(self.train.rows[part]), self.train.labels[part])
            share = len(part) / len(indices)
            (loss * share if self.halvings else loss).backward()
            total += loss.detach().double() * share
        return total

    def _end_epoch(self, seconds: float) -> None:
        position = self.position
        validation_loss, accuracy = self._validate()
        mean = position.loss_sum / max(1, position.rows_seen)
        if not (math.isfinite(mean) and math.isfinite(validation_loss)):
            raise Diverged(f"the loss is no longer a number in epoch {position.epoch + 1}")
        position.epoch += 1
        position.step_in_epoch = position.rows_seen = 0
        position.loss_sum = 0.0
        if validation_loss < position.best_loss:
            position.best_loss, position.best_epoch = validation_loss, position.epoch
            self.best = _copy(self.network)
        line = EpochMetrics(
            epoch=position.epoch,
            loss=mean,
            validation_loss=validation_loss,
            validation_accuracy=accuracy,
            learning_rate=self._rate(max(0, position.step - 1)),
            seconds=seconds,
        )
        position.history.append(line)
        self.hooks.epoch(line)

    def _patience_is_out(self) -> bool:
        return self.position.epoch - self.position.best_epoch >= self.options.patience

    def _batch(self, step_in_epoch: int) -> Tensor:
        if self._order is None or self._order[0] != self.position.epoch:
            generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.position.epoch)
            order = torch.randperm(len(self.train.rows), generator=generator)
            self._order = (self.position.epoch, order.to(self.train.rows.device))
        start = step_in_epoch * self.options.batch_size
        return self._order[1][start : start + self.options.batch_size]

    def _rate(self, step: int) -> float:
        """Warm-up over the first 5 % of all steps, then a cosine down to zero."""
        warm = max(1, self.total_steps // 20)
        if step < warm:
            return self.options.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.total_steps - warm)
        return self.options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float | None]:
        self.network.eval()
        loss = right = 0.0
        rows, labels = self.validation.rows, self.validation.labels
        for start in range(0, len(rows), 1024):
            scores = self.network.scores(rows[start : start + 1024])
            part = labels[start : start + 1024]
            loss += float(self.network.loss(scores, part)) * len(part)
            if labels.ndim == 1:
                right += float((scores.argmax(1) == part).sum())
        return loss / len(rows), right / len(rows) if labels.ndim == 1 else None

    def state(self) -> bytes:
        """All that `resume` needs: weights, best weights, optimizer, position, every generator's state."""
        position = self.position
        lines = [[line.epoch, line.loss, line.validation_loss, line.validation_accuracy, line.learning_rate,
                  line.seconds] for line in position.history]  # fmt: skip
        kept = {
            "version": STATE_VERSION,
            "network": self.network.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "position": {name: getattr(position, name) for name in _PLAIN},
            "history": lines,
            "random": _generators(),
        }
        buffer = io.BytesIO()
        torch.save(kept, buffer)
        return buffer.getvalue()

    def resume(self, data: bytes) -> bool:
        """Continue from `state`'s bytes. False if they are of another layout or another network: start anew then."""
        try:
            kept = torch.load(io.BytesIO(data), weights_only=True, map_location=self.train.rows.device)
            if kept["version"] != STATE_VERSION:
                return False
            probe = kept["network"]
            if {name: value.shape for name, value in probe.items()} != {
                name: value.shape for name, value in self.network.state_dict().items()
            }:
                return False
        except Exception:  # noqa: BLE001 - torch raises many kinds for bytes that are not its own
            return False
        self.network.load_state_dict(kept["network"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.best = kept["best"]
        self.position = _Position(**kept["position"], history=[_line(values) for values in kept["history"]])
        _restore_generators(kept["random"])
        return True


_PLAIN = ("epoch", "step_in_epoch", "step", "loss_sum", "rows_seen", "best_loss", "best_epoch", "elapsed")


def _line(values: list[Any]) -> EpochMetrics:
    epoch, loss, validation_loss, accuracy, rate, seconds = values
    return EpochMetrics(
        epoch=epoch,
        loss=loss,
        validation_loss=validation_loss,
        validation_accuracy=accuracy,
        learning_rate=rate,
        seconds=seconds,
    )


def _steps(rows: int, batch_size: int) -> int:
    """Steps of an epoch; a last batch of one row is left out, batch normalisation cannot take it."""
    steps = math.ceil(rows / batch_size)
    return steps - 1 if steps > 1 and rows % batch_size == 1 else steps


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _optimizer(network: nn.Module, options: LoopOptions) -> torch.optim.Optimizer:
    weights = network.parameters()
    if options.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=options.learning_rate, momentum=0.9, weight_decay=options.weight_decay)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(weights, lr=options.learning_rate, weight_decay=options.weight_decay)


def _generators() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    name, keys, place, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), place, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_generators(kept: dict[str, Any]) -> None:
    version, words, gauss = kept["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, place, has_gauss, cached = kept["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), place, has_gauss, cached))
    torch.set_rng_state(kept["torch"].cpu())
    if kept["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in kept["cuda"]])
