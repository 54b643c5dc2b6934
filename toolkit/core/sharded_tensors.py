"""Tensors that are divided among processes (DTensor, of FSDP): a part, the whole, and divided again."""

from torch import distributed


def local(tensor):
    """The part of a tensor that this process holds: all of it, unless it is a DTensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor):
    """A tensor, or of a DTensor all of it, in the main process; in others nothing of it. All processes call it."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if distributed.get_rank() == 0 else full.new_empty(0)


def divided_like(tensor, model):
    """`tensor`, all of which is there, as it is divided among the processes where `model`, a tensor, is."""
    if not hasattr(model, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)
