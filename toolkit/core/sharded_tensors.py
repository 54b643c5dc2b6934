"""Tensors that FSDP shards over the processes (DTensor): the local shard, the full tensor, and sharding it again."""

from torch import distributed


def local(tensor):
    """Return this rank's shard of a DTensor, or the tensor itself if it is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor):
    """Return the full tensor on rank 0 and an empty one on other ranks; all ranks must call it for a DTensor."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if distributed.get_rank() == 0 else full.new_empty(0)


def divided_like(tensor, other):
    """Return a full tensor sharded like the DTensor `other`, or the tensor itself if `other` is not sharded."""
    if not hasattr(other, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
