"""Split base weights among processes, for a base too large for one device (FSDP2).

Every transformer block's frozen weights are split among all processes and gathered while the block runs. Trained
parameters stay whole in every process and are reduced as usual, so that RefLoRA sees whole factors and gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reflora_cli.ground.errors import InputError, Problem


def shard_blocks(model: Any, loss_module: nn.Module, device: torch.device, processes: int) -> int:
    """Split the frozen weights of every block, in place; returns the number of blocks.

    loss_module: the module that holds the model and will be wrapped for data parallelism, which must leave frozen
    weights alone. Raises InputError for a model that does not say what its blocks are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    names = set(getattr(model, "_no_split_modules", None) or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        what = f"a {model.config.model_type} model does not declare its blocks, so it cannot be sharded"
        raise InputError(Problem(what, "model.sharded", "true", remedy="model.sharded=false"))
    mesh = init_device_mesh(device.type, (processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params={p for p in block.parameters() if p.requires_grad})
    ignored = [name for name, parameter in loss_module.named_parameters() if not parameter.requires_grad]
    ignored += [name for name, _ in loss_module.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(loss_module, ignored)
    return len(blocks)
