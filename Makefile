# make train    set up, build the bundled dataset, train and evaluate experiments/base_model
# make test     set up, run the tests
#
# Setting up is done once: a virtual environment in .venv (VENV=path uses another place) with requirements.txt under
# constraints.txt. It is done again when one of these two files changes.

PYTHON ?= python3
VENV ?= .venv
EXPERIMENT ?= experiments/base_model

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(shell cat requirements.txt constraints.txt | cksum | cut -d ' ' -f 1)

.PHONY: help setup train test test-slow

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(INSTALLED)

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt
	@rm -f $(VENV)/.installed-* && touch $@

train: setup
	$(BIN)/python build_dataset.py
	$(BIN)/python train.py --model_dir $(EXPERIMENT)
	$(BIN)/python evaluate.py --model_dir $(EXPERIMENT)
	@echo
	@echo "What next:"
	@echo "  look     $(EXPERIMENT)/curves.png, mistakes_test.png; or: $(BIN)/tensorboard --logdir experiments"
	@echo "  check    $(BIN)/python preflight.py --model_dir $(EXPERIMENT)"
	@echo "  try      $(BIN)/python train.py --model_dir experiments/wide --from $(EXPERIMENT) num_channels=64"
	@echo "  search   $(BIN)/python search_hyperparams.py, then $(BIN)/python synthesize_results.py"
	@echo "  own data $(BIN)/python build_dataset.py folder path/to/your/images"
	@echo "  change   model/net.py, model/data_loader.py and $(EXPERIMENT)/params.json are yours"

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

# of the template alone: make mine removes it
.PHONY: bench mine

# make bench    set up, install benchmarks/requirements.txt too, and measure: writes benchmarks/results.md
bench: setup
	$(BIN)/python -m pip install --disable-pip-version-check -q -r benchmarks/requirements.txt -c constraints.txt
	$(BIN)/python benchmarks/bench.py

# make mine     make this clone a repository of your own: without examples, benchmarks and history (asks first)
mine:
	@$(PYTHON) -m toolkit.mine
# end
