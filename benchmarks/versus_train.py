"""nnU-Net's half of versus_nnunet.py: one fold in a given time, its learning rate annealed over it. Run by nnU-Net's own Python.

    nnUNet_raw=R nnUNet_preprocessed=P nnUNet_results=S .venv-nnunet/bin/python benchmarks/versus_train.py 4 3d_fullres 0 720 cpu

All is nnU-Net's but the clock: an epoch is a twentieth of the time, the rate follows the time in place of the epoch, and an epoch's
validation takes a fifth of the iterations that it trained, as the 50 of 250 that are nnU-Net's. On a CPU glibc keeps freed memory, as it
does for ours: without that, up to half of nnU-Net's processor time goes to page faults, which is no matter of method.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

EPOCHS = 20
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, LARGEST = -3, -1, 2**31 - 1  # malloc.h


class TimedTrainer(nnUNetTrainer):
    """nnU-Net's trainer by the clock."""

    seconds: float

    def run_training(self) -> None:
        """Trains for `seconds`, validation and logging included."""
        self.on_train_start()
        self.lr_scheduler.step = lambda *_: None
        start, iterations, part = time.monotonic(), 0, 0
        while (since := time.monotonic() - start) < self.seconds:
            part = min(EPOCHS, int(since / self.seconds * EPOCHS) + 1)
            self.on_epoch_start()
            self.on_train_epoch_start()
            outputs = []
            while not outputs or time.monotonic() - start < self.seconds * (part - 0.15) / EPOCHS:
                share = min(1.0, (time.monotonic() - start) / self.seconds)
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - share) ** 0.9
                outputs.append(self.train_step(next(self.dataloader_train)))
            iterations += len(outputs)
            self.on_train_epoch_end(outputs)
            with torch.no_grad():
                self.on_validation_epoch_start()
                self.on_validation_epoch_end([self.validation_step(next(self.dataloader_val)) for _ in range(max(1, len(outputs) // 5))])
            self.on_epoch_end()
        record = {"iterations": iterations, "seconds": round(time.monotonic() - start, 1), "epochs": self.current_epoch}
        Path(self.output_folder, "timed.json").write_text(json.dumps(record), encoding="utf-8")
        self.on_train_end()


def main() -> None:
    """Trains and validates one fold."""
    import nnunetv2.run.run_training as module

    dataset, configuration, fold, seconds, device = sys.argv[1:]
    if device == "cpu":
        for threshold in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(threshold, LARGEST)
    module.recursive_find_trainer_class_by_name = lambda name: TimedTrainer
    torch.backends.cudnn.benchmark = device == "cuda"
    trainer = get_trainer_from_args(dataset, configuration, int(fold), "TimedTrainer", device=torch.device(device))
    trainer.seconds = float(seconds)
    trainer.run_training()
    trainer.perform_actual_validation()


if __name__ == "__main__":
    main()
