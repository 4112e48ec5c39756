# make repro, make test, make bench, make ui: everything creates what it needs first.
PYTHON ?= python3
VENV := $(CURDIR)/.venv
export PATH := $(VENV)/bin:$(PATH)
export OMP_WAIT_POLICY := PASSIVE
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
export DVC_NO_ANALYTICS := true

.PHONY: repro study study-audio test chaos slow check bench ui install schema doctor

repro: $(VENV)/installed      ## run every stage whose inputs changed, JOBS experiments at once, then publish to MLflow
	python -m stages.pipeline.parallel $(if $(JOBS),--jobs $(JOBS))
	python -m stages.publish

study: $(VENV)/installed      ## method x network x tokenisation on digits: what is left of it, JOBS cells at a time
	cd study && OMP_NUM_THREADS=1 PYTHONPATH=.. python -m stages.pipeline.parallel $(if $(JOBS),--jobs $(JOBS))

study-audio: $(VENV)/installed ## the codec by method, steps and temperature: what is left of it, JOBS cells at a time
	cd audio_study && OMP_NUM_THREADS=1 PYTHONPATH=.. python -m stages.pipeline.parallel $(if $(JOBS),--jobs $(JOBS))

test: $(VENV)/installed       ## every test but the slow ones
	OMP_NUM_THREADS=1 pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not bench" --campaigns 5

chaos: $(VENV)/installed      ## the faults again with many more kills; their table goes into README.md
	OMP_NUM_THREADS=1 pytest -n auto --dist loadfile -m fault --campaigns $(or $(CAMPAIGNS),25)
	python -m tests.faults.outcomes

slow: $(VENV)/installed      ## what takes minutes: byte-identical fresh runs of the whole DAG
	OMP_NUM_THREADS=1 pytest -m slow

check: $(VENV)/installed      ## lint, layers, types
	ruff check .
	ruff format --check .
	lint-imports
	pyright

bench: $(VENV)/installed      ## speed and memory against the figures wanted; writes reports/benchmarks.json
	OMP_NUM_THREADS=1 pytest -m bench tests/benchmarks

ui: $(VENV)/installed         ## MLflow on 127.0.0.1:5000, the runs side by side
	python -m stages.publish
	mlflow ui --host 127.0.0.1 --workers 1 --port $(or $(PORT),5000) --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}

doctor: $(VENV)/installed     ## what could keep this from running here, and what to do about it
	python -m stages.pipeline.doctor

schema: $(VENV)/installed     ## rewrite params.schema.json, which gives editors completion
	python -m stages.plan --schema > params.schema.json

install: $(VENV)/installed
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Partita needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	@command -v gcc >/dev/null || { echo "Partita needs gcc (the pesq package is compiled on installation)"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h") and "Partita needs the headers of Python (Python.h): install python3-dev, or your distribution'"'"'s equivalent")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	touch $@
