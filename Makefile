# make demo   installs into .venv-demo, then data, plan, train, predict, evaluate in ./demo_output (about 3 minutes on two cores)
# make test   installs into .venv, then ruff, mypy, pytest
# Variables:  PYTHON=python3.12  VENV=folder  PYTEST='tests/data -x'  PROCESSES=auto (of pytest: one per core, at most 4; 0: in pytest's own)
#             DEMO=folder (of its output)  DEMO_TIME=5m (of training)  DEMO_TRAIN='--epochs 3' (flags of ldseg_train)

PYTHON ?= python3
DEMO ?= demo_output
DEMO_TIME ?= 120s
# What two cores train in that time: slices instead of volumes, half the planned width, smaller batches, a higher rate for so few iterations.
# The plan's own configuration is meant for a graphics card and hours: make demo DEMO_TRAIN= DEMO_TIME=2h
DEMO_TRAIN ?= -c 2d --set 'network.features_per_stage=[16,32,64,128,128]' --set batch_size=8 --set training.learning_rate=0.002
DEMO_VENV = $(or $(VENV),.venv-demo)
TEST_VENV = $(or $(VENV),.venv)
PYTEST ?=
PROCESSES ?= auto

# pip --no-compile halves the installation's time: Python then compiles at first import what is really used, unless told not to.
INSTALL = -m pip install --quiet --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE
NEEDS = setup.py pyproject.toml constraints.txt

.PHONY: help demo test lint types clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,6s/^# //p' Makefile

define MAKE_VENV
@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed, %s is %s: make PYTHON=python3.11 ..." % (sys.executable, sys.version.split()[0]))'
@test -x $(@D)/bin/python || { echo "Making $(@D)"; $(PYTHON) -m venv $(@D); }
@echo "Installing into $(@D)"
endef

$(DEMO_VENV)/.installed: $(NEEDS)
	$(MAKE_VENV)
	@$(@D)/bin/python $(INSTALL) --editable .
	@touch $@

$(TEST_VENV)/.installed-test: $(NEEDS)
	$(MAKE_VENV)
	@$(@D)/bin/python $(INSTALL) --editable '.[test]'
	@touch $@

RAW = $(DEMO)/raw/Dataset900_Demo
MASKS = $(DEMO)/predictions

demo: $(DEMO_VENV)/.installed
	@rm -rf $(DEMO)/preprocessed/Dataset900_Demo $(DEMO)/results/Dataset900_Demo
	$(DEMO_VENV)/bin/ldseg_make_demo $(DEMO)/raw --overwrite
	$(DEMO_VENV)/bin/ldseg_plan_and_preprocess -d 900 --raw $(DEMO)/raw --preprocessed $(DEMO)/preprocessed
	$(DEMO_VENV)/bin/ldseg_train 900 0 --time-budget $(DEMO_TIME) $(DEMO_TRAIN) --preprocessed $(DEMO)/preprocessed --results $(DEMO)/results
	$(DEMO_VENV)/bin/ldseg_predict -i $(RAW)/imagesTs -o $(MASKS) --overwrite --results $(DEMO)/results
	$(DEMO_VENV)/bin/ldseg_evaluate $(RAW)/labelsTs $(MASKS) -d 900 --raw $(DEMO)/raw --images $(RAW)/imagesTs --picture $(DEMO)/compare.png
	@echo "Image, reference and prediction side by side: $(DEMO)/compare.png"

test: lint types
	$(TEST_VENV)/bin/python -m pytest -p no:cacheprovider --durations=15 -n $(PROCESSES) --maxprocesses 4 --dist loadfile $(PYTEST)

lint: $(TEST_VENV)/.installed-test
	$(TEST_VENV)/bin/ruff check .

# mypy does not see the folders that setup.py moves into the package: it is shown the tree as it is installed.
types: $(TEST_VENV)/.installed-test
	@rm -rf build/types && mkdir -p build/types/ldseg_auto
	@ln -s "$(CURDIR)"/ldseg_auto/* "$(CURDIR)"/planners "$(CURDIR)"/preprocessing build/types/ldseg_auto/
	cd build/types && "$(abspath $(TEST_VENV))"/bin/mypy --config-file "$(CURDIR)/pyproject.toml" --cache-dir "$(CURDIR)/.mypy_cache" -p ldseg_auto

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
