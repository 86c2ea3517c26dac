"""Starts and connects the processes that train one model together, by Lightning Fabric (ranks.py says what they do)."""

from __future__ import annotations

from datetime import timedelta

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from ldseg_auto.errors import InputError, LostRank
from ldseg_auto.training.ranks import Ranks

LONGEST_WAIT = timedelta(hours=2)  # for another rank: one may still predict a large case when the others are done


class Together(DDPStrategy):
    """Fabric's processes without its wrapper around the network (ranks.py says why)."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """The module as it is."""
        return module


def make_fabric(device: torch.device, precision: str, devices: int = 1, nodes: int = 1) -> Fabric:
    """Fabric for `devices` processes on each of `nodes` machines; `launch` connects them.

    Raises:
        InputError: this machine has fewer devices, or what started this process (torchrun, SLURM) says otherwise.
    """
    if devices * nodes == 1:
        return Fabric(accelerator=device.type, devices=1, precision=precision)  # type: ignore[arg-type]
    _check_devices(device, devices)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # plain numbers need not wait for the GPU
    strategy = Together(process_group_backend=backend, timeout=LONGEST_WAIT)
    try:
        return Fabric(accelerator=device.type, devices=devices, num_nodes=nodes, strategy=strategy, precision=precision)  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as cause:
        raise InputError(f"--devices {devices} --num-nodes {nodes} does not work here: {cause}") from cause


def rank_of(device: torch.device, devices: int, nodes: int) -> int:
    """This process's rank, known before the processes are connected; raises as `make_fabric`."""
    return 0 if devices * nodes == 1 else make_fabric(device, "32-true", devices, nodes).global_rank


def _check_devices(device: torch.device, devices: int) -> None:
    if device.type == "mps" and devices > 1:
        raise InputError(f"--devices {devices}: a machine with MPS has one device. Leave --devices out, or use --device cpu.")
    if device.type == "cuda" and devices > torch.cuda.device_count():
        what = f"--devices {devices}: this process sees {torch.cuda.device_count()} GPUs"
        raise InputError(f"{what}. Ask for fewer; under SLURM, give every task all GPUs of its node (no --gpus-per-task, no --gpu-bind).")


def launch(fabric: Fabric, batch_size: int) -> Ranks:
    """Connects the processes; returns when all are there.

    Raises:
        InputError: fewer samples in a batch than ranks, or not as many processes as torchrun or SLURM say.
        LostRank: they do not find each other.
    """
    if batch_size < fabric.world_size:
        what = f"batch_size {batch_size} is smaller than the {fabric.world_size} devices that share it"
        raise InputError(f"{what}: use fewer devices, or --set batch_size={fabric.world_size} or more.")
    if fabric.world_size > 1:
        try:
            fabric.launch()
        except ValueError as cause:
            raise InputError(str(cause)) from cause
        except (RuntimeError, OSError) as cause:
            raise LostRank(f"the {fabric.world_size} processes of this training did not find each other: {cause}") from cause
    return Ranks(fabric)
