"""The loop of fit and distill: AdamW, warm-up and cosine, gradient clipping, EMA, the best of what was validated."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from lkca.training.optimise import Average, adamw, check_loss, rate_factor, set_rate
from lkca.training.progress import Budget

__all__ = ["LoopResult", "Schedule", "train_loop"]


@dataclass(frozen=True)
class Schedule:
    """start, end: shares of the budget. lr: peak learning rate. warmup: steps. evaluations: how often to validate."""

    start: float
    end: float
    lr: float
    weight_decay: float = 1e-4
    warmup: int = 20
    ema: float = 0.99
    clip: float = 1.0
    evaluations: int = 8

    def position(self, fraction: float) -> float:
        """Share of this schedule that is spent at the budget's ``fraction``."""
        return min(1.0, max(0.0, (fraction - self.start) / max(self.end - self.start, 1e-9)))


@dataclass
class LoopResult:
    """steps: taken. best: score of the state that the module was left in. interrupted: by Ctrl-C."""

    steps: int = 0
    best: float = -math.inf
    loss: float = math.nan
    interrupted: bool = False


def train_loop(
    module: nn.Module,
    loss_of: Callable[[float], Tensor],
    schedule: Schedule,
    budget: Budget,
    *,
    score: Callable[[], float] | None = None,
    report: Callable[[float | None, float | None], None] = lambda loss, gain: None,
) -> LoopResult:
    """Train ``module``'s parameters in place until the schedule's end; leaves their best averaged state in it.

    loss_of(position 0..1) gives the loss of the next batch. score() rates the module as it stands (higher is better);
    it is called on the averaged weights, at the start, ``evaluations`` times on the way and at the end. Without it the
    last averaged state is kept. KeyboardInterrupt ends the loop early, with the best so far in place; before the
    budget's first step it is raised. So does a loss that is not finite, with DivergedError, an InputError.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = adamw(module, schedule.lr, schedule.weight_decay)
    average = Average(module, schedule.ema)
    best_state = copy.deepcopy(average.state)
    result = LoopResult()

    def rate() -> float | None:
        if score is None:
            if average.finite:  # else the next loss tells
                best_state.update(copy.deepcopy(average.state))
            return None
        with average.inside(module):
            value = score()
        if value > result.best:
            result.best = value
            best_state.update(copy.deepcopy(average.state))
        return value

    try:
        gain = rate()
        due = 1
        while budget.fraction < schedule.end:
            position = schedule.position(budget.fraction)
            set_rate(optimiser, schedule.lr * rate_factor(position, result.steps, schedule.warmup))
            loss = loss_of(position)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, schedule.clip)
            optimiser.step()
            result.steps += 1
            budget.taken += 1
            result.loss = float(loss.detach())
            check_loss(result.loss, budget.taken)
            average.update(module, result.steps)
            if schedule.position(budget.fraction) >= due / schedule.evaluations:
                due = int(schedule.position(budget.fraction) * schedule.evaluations) + 1
                gain = rate()
            report(result.loss, gain)
        if due <= schedule.evaluations:
            rate()
    except KeyboardInterrupt:
        if not budget.taken:  # there is no model yet
            raise
        result.interrupted = True
    finally:
        module.load_state_dict(best_state)
    return result
