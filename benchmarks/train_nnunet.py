"""nnU-Net's half of train.py: its own trainer, loaders and step, timed from outside. Run by nnU-Net's own Python, not by hand.

    .venv-nnunet/bin/python benchmarks/train_nnunet.py Dataset004_Hippocampus 3d_fullres cpu 2 12 result.json

One epoch of iterations to warm up, one that is measured; its training step ends with a transfer to the host, so that it is whole.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def epoch(trainer: Any, iterations: int) -> dict[str, float]:
    """Mean seconds and CPU seconds (of this process) per iteration, and the share spent in fetching batches."""
    start, cpu, waited = time.perf_counter(), time.process_time(), 0.0
    for _ in range(iterations):
        before = time.perf_counter()
        batch = next(trainer.dataloader_train)
        waited += time.perf_counter() - before
        trainer.train_step(batch)
    seconds = time.perf_counter() - start
    return {"seconds": seconds / iterations, "cpu_seconds": (time.process_time() - cpu) / iterations, "waiting": waited / seconds}


def operations(trainer: Any, batch: dict[str, Any]) -> float:
    """Floating-point operations of one training step, by the network as it is before compilation."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = getattr(trainer.network, "_orig_mod", trainer.network)
    with FlopCounterMode(display=False) as counter, torch.autocast("cuda"):
        target = [t.cuda() for t in batch["target"]]
        trainer.loss(network(batch["data"].cuda()), target).backward()
    return float(counter.get_total_flops())


def main() -> None:
    """Trains two epochs and writes what it measured."""
    dataset, configuration, device, threads, iterations, output = sys.argv[1:]
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.set_num_threads(int(threads) if device == "cpu" else 1)  # its command sets one per CPU, and one on CUDA
    trainer = get_trainer_from_args(dataset, configuration, 0, plans_identifier="benchmarkPlans", device=torch.device(device))
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    epoch(trainer, int(iterations))
    found = epoch(trainer, int(iterations))
    if device == "cuda":
        found["device_mib"] = torch.cuda.max_memory_allocated() / 2**20
        found["operations"] = operations(trainer, next(trainer.dataloader_train))
    Path(output).write_text(json.dumps(found), encoding="utf-8")
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        loader._finish()


if __name__ == "__main__":
    main()
