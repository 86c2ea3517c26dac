"""Weights as arrays: numpy's npz without pickle, so that nothing in an archive is ever unpickled.

Why not the checkpoint itself: torch.save writes a pickle, and torch.load(weights_only=True), which reads it safely, did not before torch
2.6 (CVE-2025-32434). Why not safetensors: numpy, which is there already, does the same.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np
import torch
from torch import nn

from ldseg_auto.errors import ModelError
from ldseg_auto.sharing.archive import UNREADABLE, Writer, check_entries

ENDING = ".npy"


def own_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict's tensors under their first names: a layer that is registered twice is there once."""
    seen: set[int] = set()
    out = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            out[name] = tensor.detach()
    return out


def to_npz(network: nn.Module) -> bytes:
    """All weights and buffers, sorted by name; the same weights give the same bytes.

    Raises:
        ModelError: a weight is not finite.
    """
    target = io.BytesIO()
    with Writer(target) as out:
        for name, tensor in sorted(own_tensors(network).items()):
            if not torch.isfinite(tensor).all():
                raise ModelError(f"the weights {name} hold values that are not finite: this model cannot predict. Train again.")
            stream, array = io.BytesIO(), tensor.cpu().numpy()
            np.lib.format.write_array(stream, array.astype(array.dtype.newbyteorder("<"), copy=False), allow_pickle=False)
            out.add(name + ENDING, stream.getvalue())
    return target.getvalue()


def from_npz(content: bytes, network: nn.Module, source: str) -> dict[str, torch.Tensor]:
    """The state dict for `network` (which may lie on the meta device, and stays as it is).

    Raises:
        ModelError: damaged, or not the weights of this network: other names, shapes, types, or values that are not finite.
    """
    expected = own_tensors(network)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as opened:
            there = check_entries(opened, len(content), source)
            other = sorted(set(there) ^ {name + ENDING for name in expected})
            if other:
                raise ModelError(f"{source} does not fit plans.json: {len(other)} weights are missing or too many (first: {other[0]}).")
            loaded = {name: _read(opened.read(name + ENDING), tensor, f"{source}: {name}") for name, tensor in expected.items()}
    except ModelError:
        raise
    except UNREADABLE as cause:
        raise ModelError(f"{source} cannot be read ({cause}). Get the archive anew.") from cause
    first = {id(tensor): name for name, tensor in network.state_dict(keep_vars=True).items() if name in expected}
    return {name: loaded[first[id(tensor)]] for name, tensor in network.state_dict(keep_vars=True).items()}


def _read(content: bytes, expected: torch.Tensor, source: str) -> torch.Tensor:
    """One array; shape and type are compared before memory is taken for it."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{source}: npy version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    wanted = torch.empty((), dtype=expected.dtype).numpy().dtype.newbyteorder("<")
    if (shape, fortran, dtype) != (tuple(expected.shape), False, wanted):
        raise ModelError(f"{source}: {dtype} of shape {shape} does not fit plans.json, which asks for {wanted} of {tuple(expected.shape)}.")
    values = np.frombuffer(content, dtype, offset=stream.tell())
    tensor = torch.from_numpy(values.reshape(shape).astype(dtype.newbyteorder("=")))
    if not torch.isfinite(tensor).all():
        raise ModelError(f"{source} holds values that are not finite.")
    return tensor
