"""Data-parallel training in several processes, as started by `torchrun`: their ranks, and what they exchange.

Without torchrun there is one process, rank 0, and these functions exchange nothing.
"""

import logging
import os
import time
from typing import Any

import torch
from torch import distributed, nn

from utils import UserError

RANK_ZERO = 0  # the only process that writes to the experiment folder and prints
SECONDS_FOR_RANK_ZERO = 5  # time that another rank leaves rank 0 to report an error before torchrun ends all of them
control: Any = None  # the gloo process group for everything that is not a tensor on the device


def launched_by_torchrun():
    """Return True if this process is one of several, by the environment variables that torchrun sets.

    Some of them may be left over from another job, or be set by a cluster that starts one process.
    """
    count, number = (os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK"))
    are_numbers = count.isdecimal() and number.isdecimal() and int(number) < int(count) > 1
    return are_numbers and {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def restarted_by_torchrun():
    """Return True if torchrun, on any machine, has restarted the processes after one of them died."""
    restarts = torch.tensor(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))
    if world_size() > 1:
        distributed.all_reduce(restarts, distributed.ReduceOp.MAX, control)
    return restarts.item() > 0


def local_device_name(name):
    """Return the device name for this process: `name`, but with several processes each uses the GPU of its local rank.

    Raises:
        UserError: one GPU is named for several processes.
    """
    is_several = launched_by_torchrun() and os.environ.get("LOCAL_WORLD_SIZE", "1") != "1"
    if name is not None and name.startswith("cuda:") and is_several:
        raise UserError(f"--device {name}: torchrun gives each process its own GPU; write --device cuda")
    if launched_by_torchrun() and (name == "cuda" or (name is None and torch.cuda.is_available())):
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return name


def initialize(device):
    """Connect to the other processes, if torchrun has started several; `device` is the torch.device of this one."""
    global control
    if distributed.is_initialized():
        return
    if not launched_by_torchrun():
        if os.environ.get("WORLD_SIZE", "") not in ("", "1"):
            logging.warning(
                "The environment variable WORLD_SIZE is %s, but RANK, MASTER_ADDR or MASTER_PORT do not fit: training "
                "in one process; torchrun starts several",
                os.environ["WORLD_SIZE"],
            )
        return
    store, number, count = next(distributed.rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:  # each machine counts its restarts alone
        # without the prefix, restarted processes may find the addresses of those that died
        store = distributed.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=count)
    control = distributed.new_group(backend="gloo")


def world_size():
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank():
    """Return the number of this process, from 0."""
    return distributed.get_rank() if world_size() > 1 else RANK_ZERO


def is_rank_zero():
    """Return True in the process that writes to the experiment folder and prints."""
    return rank() == RANK_ZERO


def on_rank_zero(function):
    """Call `function()` on rank 0 only, and return its result on all ranks; a UserError is raised on all ranks."""
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]  # result, error
    if is_rank_zero():
        try:
            outcome[0] = function()
        except UserError as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome, src=RANK_ZERO, group=control)
    if outcome[1] is not None:
        outcome[1].is_told = not is_rank_zero()
        raise outcome[1]
    return outcome[0]


def local_rank_zero_first(function):
    """Return `function()`, called on one process of each machine before the others: that one writes the files."""
    if world_size() == 1:
        return function()
    is_first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    value = function() if is_first else None
    distributed.barrier(group=control)
    return value if is_first else function()


def is_from_another_rank(error):
    """Return True if an exception only says that another process has ended; that one reports the cause."""
    words = ["Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe"]
    words += ["ncclRemoteError", "NCCL communicator was aborted"]  # other NCCL errors have their cause in this process
    return world_size() > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def is_first_to_report(error):
    """Return True if no other process has printed this error, which several may have raised."""
    if world_size() == 1:
        if launched_by_torchrun() and int(os.environ["RANK"]) != RANK_ZERO:
            time.sleep(SECONDS_FOR_RANK_ZERO)  # rank 0 may have the same error; it is ended when this process ends
        return True
    try:
        store = distributed.distributed_c10d._get_default_store()
        return not getattr(error, "is_told", False) and store.add(f"told: {error}", 1) == 1
    except RuntimeError:  # rank 0, which had the store, has reported the error and ended
        return False


def gather(value):
    """Return on rank 0 the list of the picklable `value` of every rank, and None on the others."""
    if world_size() == 1:
        return [value]
    gathered = [None] * world_size() if is_rank_zero() else None
    distributed.gather_object(value, gathered, dst=RANK_ZERO, group=control)
    return gathered


def shard_of(length):
    """Return (start, end) of this rank's shard of `length` samples; the shards' sizes differ by at most one."""
    return length * rank() // world_size(), length * (rank() + 1) // world_size()


def mean(value, device):
    """Return the mean over ranks of `value`, a number or scalar tensor; with several ranks, as a tensor on `device`."""
    if world_size() == 1:
        return value
    total = torch.as_tensor(value, dtype=torch.float32, device=device).clone()
    distributed.all_reduce(total)
    return total / world_size()


class Agreement:
    """All ranks agree on the maximum of what each requests, between two steps.

    With several ranks the answer arrives one step later, so that no rank waits for the others.
    """

    def __init__(self):
        self.pending = None

    def __call__(self, *requests):
        """Request integers of at least 0, and return the maximum over all ranks of the previous call's requests."""
        if world_size() == 1:
            return requests
        agreed = self.finish() or [0] * len(requests)
        wanted = torch.tensor(requests, dtype=torch.int64)
        self.pending = wanted, distributed.all_reduce(wanted, distributed.ReduceOp.MAX, control, async_op=True)
        return agreed

    def finish(self):
        """Wait for the last requests and return their maxima, a list, or None if there were none."""
        if self.pending is None:
            return None
        (agreed, work), self.pending = self.pending, None
        work.wait()
        return agreed.tolist()


def prepare_model(model, params):
    """Return the model with synchronized batch normalisation, and sharded with "parallel": "fsdp".

    Call it before the optimizer is made. FSDP shards the parameters of each block (a child of an nn.Sequential or
    nn.ModuleList that itself contains modules) together, and the rest together:
    https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html.
    """
    if world_size() == 1:
        return model
    if params.sync_batch_norm and params.device.startswith("cuda"):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if params.parallel == "fsdp":
        if params.device == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
            raise UserError(f'params.json: "parallel": "fsdp" on a CPU needs a newer torch than {torch.__version__}')
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(torch.device(params.device).type, (world_size(),))  # by default it would be on GPUs
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # fully_shard needs that
        for parent in reversed([m for m in model.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]):
            for block in parent.children():
                if next(block.children(), None) is not None and next(block.parameters(), None) is not None:
                    fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def wrap_in_ddp(model, params):
    """Return `model` in a DDP wrapper, which averages gradients over all ranks; the model itself if it needs none."""
    if world_size() == 1 or params.parallel == "fsdp" or not any(p.requires_grad for p in model.parameters()):
        return model
    unused = getattr(params, "has_unused_parameters", False)
    devices = [torch.device(params.device)] if params.device.startswith("cuda") else None
    return nn.parallel.DistributedDataParallel(model, devices, find_unused_parameters=unused)


def has_unused_parameters(model, loss):
    """Return True if `loss` does not depend on some trainable parameter of `model`."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return any(gradient is None for gradient in torch.autograd.grad(loss, trainable, allow_unused=True))


def broadcast_buffers(model, averages):
    """Copy the buffers of `model` (running means and variances) from rank 0 to all ranks.

    `averages`, a dict from name to tensor, holds the exponential moving averages of some of them, copied too.
    """
    for name, buffer in model.named_buffers() if world_size() > 1 else ():
        for tensor in [buffer, averages[name]] if name in averages else [buffer]:
            distributed.broadcast(tensor, src=RANK_ZERO)


def set_gradient_sync(model, wanted):
    """Set whether the next backward pass averages the gradients over all ranks or accumulates them locally."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.require_backward_grad_sync = wanted
    elif hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(wanted)


def reshard(model):
    """Free the full parameters of an FSDP model, which forward passes without a backward pass leave on every rank."""
    if hasattr(model, "reshard"):
        model.reshard()
