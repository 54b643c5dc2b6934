"""The template's own hyperparameters: the keys of params.json that the training loop reads, each declared once."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Hyperparameters(BaseModel):
    """The keys of `params.json` that the training loop reads. `model/net.py` adds the model's own.

    Left at their defaults, they leave the loop plain: what is not asked for is not done.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())

    dataset: str | None = Field(None, description="folder under data/ that holds the dataset; --data_dir goes first")
    seed: int = Field(230, ge=0, lt=2**32, description="seed of the weights, the order of batches and augmentation")
    learning_rate: float = Field(1e-3, gt=0, le=1e6, description="step size of the optimizer")
    batch_size: int = Field(32, ge=1, le=2**31, description="samples in a batch, over all processes")
    num_epochs: int = Field(10, ge=1, le=2**31, description="passes over the training split")

    optimizer: str = Field("Adam", description="its name in torch.optim")
    optimizer_arguments: dict[str, Any] = Field({}, description='further arguments of it: {"momentum": 0.9}')
    weight_decay: float = Field(0, ge=0, description="the optimizer's; of all parameters but biases and norms")
    lr_schedule: Literal["constant", "step", "cosine", "one_cycle", "plateau"] = Field(
        "constant", description="how the learning rate goes on from learning_rate (one_cycle: up to it, and down)"
    )
    warmup_steps: int = Field(0, ge=0, description="steps that it takes to rise; one_cycle: 0 is 30% of them all")
    lr_decay_epochs: int = Field(
        10, ge=1, description="step: epochs to the next decay; plateau: those without a better result"
    )
    lr_decay_factor: float = Field(0.1, gt=0, lt=1, description="step, plateau: what a decay multiplies it by")
    accumulation_steps: int = Field(1, ge=1, description="batches whose gradients make one step of the optimizer")
    max_grad_norm: float | None = Field(None, gt=0, description="gradients are scaled down to this norm; null: never")
    ema_decay: float = Field(0, ge=0, lt=1, description="evaluate a moving average of the weights; 0: the weights")
    early_stopping_patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better result"
    )

    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field(
        "fp32", description="the last three: faster where the hardware has it, less exact; auto: bf16 on new GPUs"
    )
    compile: bool = Field(False, description="torch.compile the model: slow to begin with, then faster")
    deterministic: bool = Field(False, description="only algorithms that give the same bits each time; slower on GPUs")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="many processes: a copy of the model in each, or a part (for models that need it)"
    )
    sync_batch_norm: bool = Field(True, description="many GPUs: batch normalisation over the whole batch")
    num_workers: int = Field(0, ge=0, le=1024, description="worker processes of data loaders that use them")
    checkpoint_minutes: float = Field(5, gt=0, description="minutes between two checkpoints within an epoch")
    save_summary_steps: int = Field(100, ge=1, le=2**31, description="steps between two readings of the training loss")
    monitor: str | None = Field(None, description="metric that selects the best checkpoint; accuracy, else loss")
    monitor_mode: Literal["max", "min"] | None = Field(None, description="whether more or less of it is better")
