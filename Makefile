# make train    set up, build the bundled dataset, train and evaluate experiments/base_model
# make test     set up, run the tests (the slow ones: make test-slow)
#
# The first of these creates a virtual environment in .venv (VENV=path names another folder) and installs requirements.txt
# there, in the versions of constraints.txt. If one of these two files changes, the next command installs again.

PYTHON ?= python3
VENV ?= .venv
EXPERIMENT ?= experiments/base_model

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(shell cat requirements.txt constraints.txt | cksum | cut -d ' ' -f 1)

.PHONY: help setup train test test-slow

help:
	@sed -n 's/^# \(make .*\)/\1/p' $(MAKEFILE_LIST)

setup: $(INSTALLED)

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer; name another one: make train PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt
	@rm -f $(VENV)/.installed-* && touch $@

train: setup
	$(BIN)/python train.py --model_dir $(EXPERIMENT)
	$(BIN)/python evaluate.py --model_dir $(EXPERIMENT)
	@echo
	@echo "What next:"
	@echo "  look     $(EXPERIMENT)/curves.png; or: $(BIN)/tensorboard --logdir experiments"
	@$(if $(wildcard preflight.py),echo "  check    $(BIN)/python preflight.py --model_dir $(EXPERIMENT)")
	@echo "  try      $(BIN)/python train.py --model_dir experiments/wide --from $(EXPERIMENT) num_channels=64"
	@$(if $(wildcard search_hyperparams.py),echo "  search   $(BIN)/python search_hyperparams.py")
	@$(if $(wildcard synthesize_results.py),echo "  compare  $(BIN)/python synthesize_results.py")
	@$(if $(wildcard build_dataset.py),echo "  own data $(BIN)/python build_dataset.py folder path/to/your/images")
	@echo "  change   model/net.py, model/data_loader.py and $(EXPERIMENT)/params.json are yours"

# the slow tests, and those of the template's own README, docs and benchmarks
test-slow: setup
	$(BIN)/python -m pytest -m "slow or template" -n auto --dist loadgroup

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

# the targets of parts that you can delete
-include benchmarks/Makefile toolkit/mine/Makefile
