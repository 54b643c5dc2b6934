"""What is measured on: the device, what it could do at best, and the rest of the machine."""

import datetime
import platform
import subprocess

import torch

from toolkit.core.provenance import processor

PEAKS = {  # bfloat16 operations a second, without sparsity: Nvidia's data sheets
    "NVIDIA B200": 2250e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA A40": 149.7e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L4": 121e12,
}


def peak_of(device):
    """Operations a second of a GPU at best, by its data sheet, in bfloat16; None where it is not known."""
    return next((rate for name, rate in PEAKS.items() if name_of(device).startswith(name)), None)


def memory_of(device):
    """Bytes of memory of a GPU."""
    return torch.cuda.get_device_properties(device).total_memory


def name_of(device):
    """The name of a GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor()


def environment(device):
    """What it was measured on, as lines of Markdown."""
    lines = [f"- device: {name_of(device)}"]
    if torch.device(device).type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            driver = "unknown"
        lines[0] += f", {memory_of(device) / 2**30:.0f} GiB, one of {torch.cuda.device_count()}"
        lines += [f"- driver {driver}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"]
    lines += [
        f"- processor: {processor()}",
        f"- Python {platform.python_version()}, torch {torch.__version__}",
        f"- {datetime.date.today():%d %B %Y}",
    ]
    return "\n".join(lines)
