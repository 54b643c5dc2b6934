"""Several processes that train one model, as `torchrun` starts them: who does what, and what they decide together.

Without torchrun there is one process, which is the main one, and nothing here does anything.
"""

import os
import time
from typing import Any

import torch
from torch import distributed, nn

from utils import UserError

RANK_ZERO = 0  # the process that reads and writes the experiment's folder, and talks
SECONDS_FOR_RANK_ZERO = 5  # seconds in which torchrun ends the other processes if the main one has failed, too
control: Any = None  # the process group for what is not tensors on the device


def launched_by_torchrun():
    """Whether this process is one of several that torchrun, or what sets the same variables, has started."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def restarted_by_torchrun():
    """Whether torchrun, on one of the machines, has started the processes again, after one of them died."""
    restarts = torch.tensor(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))
    if world_size() > 1:
        distributed.all_reduce(restarts, distributed.ReduceOp.MAX, control)
    return restarts.item() > 0


def local_device_name(name):
    """The name of the device of this process: as asked for, but of GPUs, each process of a machine has its own.

    Raises:
        UserError: one GPU is named for several processes.
    """
    if name is not None and name.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise UserError(f"--device {name}: torchrun gives each process a GPU of its own; leave the number off")
    if launched_by_torchrun() and (name == "cuda" or (name is None and torch.cuda.is_available())):
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return name


def initialize(device):
    """Meet the other processes, where this one is one of several; `device`: the torch.device of this one."""
    global control
    if not launched_by_torchrun():
        return
    if not distributed.is_initialized():
        store, number, of = next(distributed.rendezvous("env://"))
        if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:  # else each machine counts for itself
            restart = os.environ.get("TORCHELASTIC_RESTART_COUNT")  # else they may find addresses of those that died
            store = distributed.PrefixStore(f"restart {restart}", store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=number, world_size=of)
        control = distributed.new_group(backend="gloo")


def shut_down():
    """Part from the other processes."""
    global control
    if world_size() > 1:
        distributed.destroy_process_group()
        control = None


def world_size():
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank():
    """The number of this process, from 0."""
    return distributed.get_rank() if world_size() > 1 else RANK_ZERO


def is_rank_zero():
    """Whether this process is the one that writes."""
    return rank() == RANK_ZERO


def on_rank_zero(function):
    """What `function()` gives in the main process, which alone calls it; a UserError of it is raised in all."""
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]  # what it gave, or what it raised
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
    """What `function()` gives; called by one process of each machine first, so that files are made by one."""
    if world_size() == 1:
        return function()
    is_first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    value = function() if is_first else None
    distributed.barrier(group=control)
    return value if is_first else function()


def is_from_another_rank(error):
    """Whether an exception says that another process has ended, which then says why."""
    # of NCCL's only these: others say what is wrong in this process
    words = ["Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe"]
    words += ["ncclRemoteError", "NCCL communicator was aborted"]
    return world_size() > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def is_first_to_report(error):
    """Whether no other process has told the user of an exception that several may have raised alike."""
    if world_size() == 1:
        if (
            launched_by_torchrun() and int(os.environ["RANK"]) != RANK_ZERO
        ):  # it may be this one's alone, such as a GPU not there
            time.sleep(SECONDS_FOR_RANK_ZERO)  # and would end the main one, by torchrun, before that can tell
        return True
    try:
        store = distributed.distributed_c10d._get_default_store()
        return not getattr(error, "is_told", False) and store.add(f"told: {error}", 1) == 1
    except RuntimeError:  # the main process, which had the store, has told and is gone
        return False


def gather(thing):
    """What each process gave for `thing`, anything that can be pickled: a list in the main one, None in the others."""
    if world_size() == 1:
        return [thing]
    gathered = [None] * world_size() if is_rank_zero() else None
    distributed.gather_object(thing, gathered, dst=RANK_ZERO, group=control)
    return gathered


def shard_of(length):
    """Which of `length` samples of a batch this process takes: (start, end). They differ by one at most."""
    return length * rank() // world_size(), length * (rank() + 1) // world_size()


def all_reduce_sum(weight, device):
    """The sum of the `weight` of all processes, each a number or a scalar tensor on `device`; the same, or a tensor."""
    if world_size() == 1:
        return weight
    is_tensor = isinstance(weight, torch.Tensor)
    total = weight.float() if is_tensor else torch.full((), weight, dtype=torch.float32, device=device)
    distributed.all_reduce(total)
    return total


class Agreement:
    """What several processes decide together between two steps: each says what it wants, and all get the largest.

    They get it one step later, so that none waits for the others; alone, at once.
    """

    def __init__(self):
        self.pending = None

    def __call__(self, *wishes):
        """Say what this process wants, ints of at least 0. Returns what is agreed, a list of as many."""
        if world_size() == 1:
            return wishes
        agreed = self.finish() or [0] * len(wishes)
        wanted = torch.tensor(wishes, dtype=torch.int64)
        self.pending = wanted, distributed.all_reduce(wanted, distributed.ReduceOp.MAX, control, async_op=True)
        return agreed

    def finish(self):
        """What the wishes of the step before came to, a list; None: there were none."""
        if self.pending is None:
            return None
        (agreed, work), self.pending = self.pending, None
        work.wait()
        return agreed.tolist()


def prepare_model(model, params):
    """A model as several processes train it: its batch normalisation is of the whole batch, its parts are divided.

    To be called before the optimizer is made. With "fsdp" the parameters become DTensors, of which each process holds
    a part: those of each block (a child, itself made of several modules, of an nn.Sequential or nn.ModuleList)
    together, and the rest; https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html.
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

        mesh = init_device_mesh(
            torch.device(params.device).type, (world_size(),)
        )  # else that of a GPU, if there is one
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # which it needs
        for module in reversed(list(model.modules())):
            for block in module.children() if isinstance(module, nn.Sequential | nn.ModuleList) else ():
                if any(True for _ in block.children()) and any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def wrap_in_ddp(model, params):
    """What is called in place of `model` in training: its gradients become the mean of those of all processes."""
    if world_size() == 1 or params.parallel == "fsdp" or not any(p.requires_grad for p in model.parameters()):
        return model
    unused = getattr(params, "has_unused_parameters", False)
    devices = [torch.device(params.device)] if params.device.startswith("cuda") else None
    return nn.parallel.DistributedDataParallel(model, devices, find_unused_parameters=unused)


def has_unused_parameters(model, loss):
    """Whether there are parameters of `model` that are trained but that `loss` does not depend on."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return any(gradient is None for gradient in torch.autograd.grad(loss, trained, allow_unused=True))


def broadcast_buffers(model, averages):
    """Give the buffers of all copies of `model`, such as those of batch normalisation, the values of the main one's.

    So with their moving averages, where `averages`, a dict from name to tensor, has them.
    """
    for name, buffer in model.named_buffers() if world_size() > 1 else ():
        for tensor in [buffer, averages[name]] if name in averages else [buffer]:
            distributed.broadcast(tensor, src=RANK_ZERO)


def set_gradient_sync(model, wanted):
    """Whether the next backward pass is to bring together the gradients of all processes, or to add to its own."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.require_backward_grad_sync = wanted
    elif hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(wanted)


def reshard(model):
    """To be called after forward passes without a backward pass, which leave all of the parameters in each process."""
    if hasattr(model, "reshard"):
        model.reshard()
