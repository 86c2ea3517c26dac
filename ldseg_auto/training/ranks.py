"""The processes (ranks) that train one model together, and what they tell each other (training/connect.py starts them).

Any number of ranks computes what one does, up to rounding:

- Batch i is a function of (seed, i); rank r makes the samples r, r + N, ... of it.
- What is drawn at random is drawn for the whole batch, by every rank from the same seed; each takes the rows of its own samples.
- A loss is a function of sums over the batch, and the sums go over all ranks (`Ranks.total`). So the ranks' gradients add up to the
  gradient of the whole batch's loss; the latent's statistics, inside the network, are gathered with their gradient (`Ranks.stacked`).

DistributedDataParallel is not used: it averages gradients of losses that are means over equal parts, and it interleaves its messages
with the order in which gradients become ready. Here ranks hold uneven parts, and which layers a rank uses depends on what its samples
are chosen for, so that the order differs between ranks. The gradients are added up in one message after the backward pass instead.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ldseg_auto.errors import LostRank
from ldseg_auto.training.stop import Stop, check

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|process group|\[c10d", re.IGNORECASE)


class Ranks:
    """This process among those that train one model; without `fabric`, or with one process, it is alone and each method a formality."""

    def __init__(self, fabric: Fabric | None = None) -> None:
        self.rank: int = 0 if fabric is None else fabric.global_rank
        self.size: int = 1 if fabric is None else fabric.world_size
        self._fabric = fabric

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes files and messages."""
        return self.rank == 0

    def mine(self, count: int) -> range:
        """Which of `count` samples, patches or cases are this rank's."""
        return range(self.rank, count, self.size)

    def held(self, own: int, batch: int) -> Held:
        """The samples of a batch of `batch` samples that this rank holds, `own` in number (alone: all that there are)."""
        return Held(torch.arange(own), own) if self.size == 1 else Held(torch.tensor(self.mine(batch)), batch)

    def stacked(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of every rank, `(ranks, *x.shape)`; the gradient goes back to the rank that each came from.

        Either all ranks differentiate it or none: they meet again in the backward pass.
        """
        return x[None] if self._alone else self._fabric.strategy.all_gather(x, sync_grads=True)  # type: ignore[union-attr]

    def total(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of `x` over ranks. Its gradient is that of the own part only: added up over ranks, gradients are those of the sum."""
        if self._alone:
            return x
        summed = self._fabric.strategy.all_gather(x.detach()).sum(0)  # type: ignore[union-attr]
        return summed + (x - x.detach())

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its sum over ranks; None where no rank has one, as with one process."""
        if self._alone:
            return
        wanted = [p for p in parameters if p.requires_grad]
        used = torch.tensor([float(p.grad is not None) for p in wanted], device=wanted[0].device)
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in wanted]
        flat = torch.cat([*parts, used])
        torch.distributed.all_reduce(flat)  # Fabric's own would wait for all GPUs first
        used = flat[-len(wanted) :].tolist()
        for p, total, ranks in zip(wanted, flat.split([*(p.numel() for p in wanted), len(wanted)]), used, strict=False):
            p.grad = total.view_as(p).clone() if ranks else None

    def numbers(self, *values: float) -> torch.Tensor:
        """`(ranks, values)` float64 on the CPU: what every rank says."""
        own = torch.tensor(values, dtype=torch.float64)
        return own[None] if self._alone else self._fabric.strategy.all_gather(own)  # type: ignore[union-attr]

    def agree(self, stop: bool, *seconds: float) -> tuple[bool, list[float]]:
        """Whether any rank is to stop, and rank 0's `seconds`: ranks that went by their own clocks would part ways."""
        said = self.numbers(float(stop), *seconds)
        return bool(said[:, 0].any()), said[0, 1:].tolist()

    def told(self, content: Any) -> Any:
        """Rank 0's `content`, plain JSON values; what the others pass does not matter."""
        return self.gathered(content if self.first else None)[0]

    def first_of(self, x: torch.Tensor) -> torch.Tensor:
        """Rank 0's `x`; those of the others are of the same shape."""
        return x if self._alone else self._fabric.strategy.all_gather(x.detach())[0]  # type: ignore[union-attr]

    def gathered(self, content: Any) -> list[Any]:
        """`content` (plain JSON values, NaN allowed) of every rank, in the order of ranks."""
        if self._alone:
            return [content]
        own = torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)
        lengths = [int(n) for n in self.numbers(len(own))[:, 0]]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(own)] = own
        rows = self._fabric.strategy.all_gather(padded)  # type: ignore[union-attr]
        return [json.loads(bytes(row[:n].numpy())) for row, n in zip(rows, lengths, strict=True)]

    @contextlib.contextmanager
    def explained(self, stop: Stop) -> Iterator[None]:
        """Turns what torch raises when another rank is gone into a message.

        Raises:
            LostRank: it is gone.
            Stopped: where `stop` says so; then the other rank has stopped, too.
        """
        try:
            yield
        except RuntimeError as cause:
            if self._alone or not (isinstance(cause, torch.distributed.DistError) or LOST.search(str(cause))):
                raise
            check(stop)
            what = f"rank {self.rank} of {self.size} has lost another process of this training"
            raise LostRank(f"{what} ({str(cause).splitlines()[0]}). Correct what ended it, then use --continue.") from cause

    def leave(self) -> None:
        """Ends the connection, when all is done."""
        if not self._alone:
            torch.distributed.destroy_process_group()

    @property
    def _alone(self) -> bool:
        return self.size == 1


ALONE = Ranks()


@dataclass(frozen=True)
class Held:
    """Places in a batch, or in a part of one, whose samples this rank holds: `rows` (n,) ascending, of `size` places."""

    rows: torch.Tensor
    size: int

    def __len__(self) -> int:
        return len(self.rows)

    def shuffled(self, order: torch.Tensor) -> tuple[Held, torch.Tensor]:
        """After the batch is put into `order` (size,): the new places, and which of the held samples is at each, (n,).

        Of the whole batch no value of `order` is looked at, so that it may be on the device.
        """
        if len(self) == self.size:
            return self, order
        places = torch.isin(order, self.rows).nonzero()[:, 0]
        return Held(places, self.size), torch.searchsorted(self.rows, order[places])

    def within(self, first: int, last: int) -> tuple[slice, Held]:
        """The held samples at places first ... last - 1: where they are among those held, and their places in that part."""
        start, stop = int((self.rows < first).sum()), int((self.rows < last).sum())
        return slice(start, stop), Held(self.rows[start:stop] - first, last - first)

    def find(self, places: torch.Tensor) -> torch.Tensor:
        """Those of `places` that are held, in their order, as numbers among the samples held; of the whole batch all, as they are."""
        if len(self) == self.size:
            return places
        return torch.searchsorted(self.rows, places[torch.isin(places, self.rows)])

    def twice(self) -> Held:
        """The part followed by itself."""
        return Held(torch.cat([self.rows, self.rows + self.size]), 2 * self.size)

    def randn(self, like: torch.Tensor) -> torch.Tensor:
        """Standard normal noise for `like` `(n, ...)`, drawn for all places of the part."""
        return self._own(torch.randn((self.size, *like.shape[1:]), dtype=like.dtype, device=like.device))

    def rand(self, device: torch.device) -> torch.Tensor:
        """`(n,)` uniform in [0, 1), likewise."""
        return self._own(torch.rand(self.size, device=device))

    def _own(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn if len(self) == self.size else drawn[self.rows.to(drawn.device)]
