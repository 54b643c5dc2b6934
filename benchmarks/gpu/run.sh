#!/usr/bin/env bash
# All that is checked and measured on a GPU, in under ten minutes: the tests of tests/gpu, then measure.py, which writes
# results.md beside this script. Where there is no CUDA GPU it says so, and tries all of it small on the CPU.
#
#   benchmarks/gpu/run.sh                 # PYTHON=python3.12 takes another Python
#
# On a machine that has torch, torchvision, numpy and pytest, this is what else is needed (scikit-learn only gives the
# tests real images; without it they use made ones):
#
#   pip install pydantic tabulate tqdm pillow tensorboard matplotlib scikit-learn
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
"$python" -m pytest tests/gpu -p no:cacheprovider -rs
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    "$python" benchmarks/gpu/measure.py
else
    echo "There is no CUDA GPU: a small trial on the CPU, which says nothing about speed."
    "$python" benchmarks/gpu/measure.py --device cpu --small
fi
