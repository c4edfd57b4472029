"""LoRA Dropout: rows of the input side and of the output side of a direction are left out at random."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.relatives.relative import RelativePlugin


class LoRADropoutPlugin(RelativePlugin):
    """LoRA Dropout (Lin et al., arXiv 2404.09610): Bernoulli masks on the inputs of ``A`` and the outputs of ``B``.

    Each step learns with ``diag(m_out) B A diag(m_in)``; no mask lies on the rank. Masks are divided by ``1 - rate``,
    as torch's dropout does, so that the expected update is the whole one: chosen here, since the equations of the
    paper could not be read. One mask serves the whole batch.

    Args:
        rate: Probability with which an input or an output is left out, at least 0 and below 1; 0.5 is chosen here.
        ensemble: In ``strategy.eval``, the mean of the logits of so many masked models, as the paper predicts; 0: the
            whole weights once, which is what files and merged models hold.
        seed: Draws the masks.

    Raises:
        ValueError: An argument is out of range.
    """

    wants_every: ClassVar[bool] = False

    def __init__(self, rate: float = 0.5, ensemble: int = 0, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate={rate!r}: expected a number of at least 0 and below 1")
        if type(ensemble) is not int or ensemble < 0:
            raise ValueError(f"ensemble={ensemble!r}: expected a whole number of at least 0")
        self.rate = rate
        self.ensemble = ensemble
        self._generator = torch.Generator().manual_seed(seed)
        self._hidden: list[tuple[Projection, Tensor, Tensor, Tensor, Tensor]] = []  # whole factors and their masks

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Takes back the masks of a step that an error has ended."""
        self.unmask()
        super().before_training_exp(strategy, num_workers, **kwargs)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Masks the open directions for one step."""
        self.mask(projections_of(strategy.model))

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Makes the gradients those of the whole factors, and takes the masks off."""
        for p, _, _, m_in, m_out in self._hidden:
            for factor, mask in ((p.A, m_in), (p.B, m_out[:, None])):
                if factor.grad is not None:
                    factor.grad *= mask
        self.unmask()

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Takes back the masks of a step that an error has ended."""
        self.unmask()

    @torch.no_grad()
    def after_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Puts the mean of an ensemble of masked models in place of the logits."""
        if not self.ensemble:
            return
        state = self._generator.get_state()  # an evaluation changes nothing of what is learned later
        outputs = []
        for _ in range(self.ensemble):
            self.mask(projections_of(strategy.model))
            outputs.append(strategy.forward())
            self.unmask()
        self._generator.set_state(state)
        strategy.mb_output = torch.stack(outputs).mean(0)

    @torch.no_grad()
    def mask(self, projections: list[Projection]) -> None:
        """Multiplies the factors of the open directions by fresh masks."""
        self.unmask()
        for p in projections:
            if len(p.A):
                m_in, m_out = (self._draw(n).to(p.A) for n in (p.A.shape[1], len(p.B)))
                self._hidden.append((p, p.A.detach().clone(), p.B.detach().clone(), m_in, m_out))
                p.A.mul_(m_in)
                p.B.mul_(m_out[:, None])

    @torch.no_grad()
    def unmask(self) -> None:
        """Puts the whole factors back."""
        for p, A, B, _, _ in self._hidden:
            p.A.copy_(A)
            p.B.copy_(B)
        self._hidden = []

    def _draw(self, n: int) -> Tensor:
        return (torch.rand(n, generator=self._generator) >= self.rate) / (1 - self.rate)
