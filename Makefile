# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
# Another interpreter has its own environment: .venv-python3.12.
VENV   := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
# Present while an installation runs. Where one begins and finds it, the last was killed and may have left half a
# package that pip would take for a whole one.
BUSY   := $(VENV)-installing

DEMO_CONFIG := configs/pspnet_repvgg_a0_demo.py
DEMO_DATA   ?= data/demo
DEMO_WORK   ?= work_dirs/demo
# A shorter training, for instance `make demo DEMO_ITERS=60`.
DEMO_ITERS  ?=
# How many processes run the tests, each in one thread and with about 3 GB of memory.
WORKERS     ?= 2

# Only what differs from the config is passed, so that the printed commands are the ones to copy.
DATA_OPTS  := $(if $(filter-out data/demo,$(DEMO_DATA)),data_root=$(DEMO_DATA))
TRAIN_OPTS := $(strip $(DATA_OPTS) $(if $(DEMO_ITERS),train_cfg.max_iters=$(DEMO_ITERS)))
OPTIONS     = $(if $(1),--cfg-options $(1))

# What running an exported model needs, and what that needs in turn.
RUNTIME := numpy|opencv-python-headless|openvino|openvino-telemetry|packaging|pillow|rich|markdown-it-py|mdurl|pygments

SAY := @printf '\n\033[1m== %s\033[0m\n'

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-lowest test-faults fuzz lint format lock licenses doctor tables gpu clean

help:
	@echo 'make demo     set up, then generate street scenes, train a PSPNet, deploy it, evaluate both forms, draw overlays'
	@echo 'make test     set up, then run all tests'
	@echo 'make test-faults, make fuzz    look longer for what loses data, runs code or crashes; writes docs/reliability.md'
	@echo 'make test-lowest    the tests with the oldest versions that setup.cfg permits, in .venv-lowest'
	@echo 'make setup    create .venv and install the tested versions (about 6 GB with CUDA)'
	@echo 'make lint     ruff and mypy'
	@echo 'make format   put the code into the house format'
	@echo 'make doctor   say what is installed, on which devices, and what is wrong with it'
	@echo 'make licenses list what is installed, under which licence'
	@echo 'make gpu      on a machine with a GPU: what is right and how fast it is there, in results/gpu.json'
	@echo 'make tables   renew the tables of README.md and docs/ from results/'
	@echo 'make lock     renew requirements.lock from setup.cfg (UPGRADE=1: to the newest versions)'
	@echo 'make clean    remove .venv, caches and the demo'
	@echo
	@echo 'PYTHON=python3.12 works in .venv-python3.12; DEMO_ITERS=60 shortens the demo; WORKERS=8 is for the tests.'

setup: $(READY)

$(READY): setup.cfg pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo 'Python 3.10 or newer is needed, and "$(PYTHON)" is not that. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	@if [ -e $(BUSY) ]; then echo 'The last installation was interrupted: $(VENV) is made afresh.'; rm -rf $(VENV); fi
	$(SAY) 'Set-up 1/4: virtual environment in $(VENV)'
	@touch $(BUSY)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || { \
		echo 'No virtual environment could be made. On Debian or Ubuntu: sudo apt-get install python3-venv'; rm -rf $(VENV); exit 1; }
	@rm -f $(READY)
	$(SAY) 'Set-up 2/4: the tested versions (requirements.lock); the first time takes some minutes'
	$(PY) -m pip install -q --require-hashes -r requirements.lock
	$(SAY) 'Set-up 3/4: the OpenCV build that needs no display, and this package'
	@# opencv-python and opencv-python-headless are both required by others and write one folder. The one installed
	@# last answers, and only the headless one runs on a server without libGL.
	@sed -n '/^opencv-python-headless==/,/[^\\]$$/p' requirements.lock > $(VENV)/opencv.lock
	$(PY) -m pip install -q --force-reinstall --no-deps --require-hashes -r $(VENV)/opencv.lock
	$(PY) -m pip install -q --no-deps --no-build-isolation -e .
	@rm $(BUSY)
	$(SAY) 'Set-up 4/4: does all of it work together?'
	@$(PY) -m repvgg_seg.doctor
	@touch $(READY)

demo: $(READY)
	$(SAY) 'Demo 1/4: street scenes in the layout of Cityscapes -> $(DEMO_DATA)'
	$(PY) tools/make_demo_data.py --out $(DEMO_DATA)
	$(SAY) 'Demo 2/4: train a PSPNet on RepVGG-A0 -> $(DEMO_WORK)'
	$(PY) tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_WORK) --overwrite --amp $(call OPTIONS,$(TRAIN_OPTS))
	$(SAY) 'Demo 3/4: convert it to plain 3x3 convolutions and prove it equal -> $(DEMO_WORK)/deploy'
	$(PY) tools/convert_deploy.py $(DEMO_CONFIG) $(DEMO_WORK) $(DEMO_WORK)/deploy
	$(SAY) 'Demo 4/4: evaluate both forms and draw the results -> $(DEMO_WORK)/overlays'
	$(PY) tools/test.py $(DEMO_CONFIG) $(DEMO_WORK) --deploy --show-dir $(DEMO_WORK)/overlays $(call OPTIONS,$(DATA_OPTS))
	$(SAY) 'Done. Look at $(DEMO_WORK)/overlays; the deployed model is in $(DEMO_WORK)/deploy'

test: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --dist worksteal

# Faults by the dozen, then the page of their figures.
test-faults: $(READY)
	FAULT_TRIES=20 $(PY) -m pytest -q -m '' tests/faults
	$(PY) -m tests.faults.report

FUZZ_EXAMPLES ?= 2000

fuzz: $(READY)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(PY) -m pytest -q tests/test_fuzz.py --timeout 0

LOWEST := .venv-lowest

test-lowest: $(READY)
	$(PY) -m uv venv -q --clear --python $(PYTHON) $(LOWEST)
	$(PY) -m uv pip compile -q --resolution lowest-direct --all-extras setup.cfg -o $(LOWEST)/lowest.txt
	$(PY) -m uv pip install -q --python $(LOWEST) -r $(LOWEST)/lowest.txt
	$(PY) -m uv pip install -q --python $(LOWEST) --reinstall --no-deps "$$(grep ^opencv-python-headless== $(LOWEST)/lowest.txt)"
	$(PY) -m uv pip install -q --python $(LOWEST) --no-deps -e .
	$(LOWEST)/bin/python -m pytest -q

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

licenses: $(READY)
	@$(PY) -m repvgg_seg.doctor --licenses

gpu: $(READY)
	$(PY) -m repvgg_seg benchmark gpu --json results/gpu.json

tables: $(READY)
	$(PY) -m repvgg_seg.benchmarks.tables

doctor: $(READY)
	$(PY) -m repvgg_seg.doctor

lock: $(READY)
	UV_CUSTOM_COMPILE_COMMAND='make lock' $(PY) -m uv pip compile --quiet --universal --python-version 3.10 \
		--all-extras --no-annotate --generate-hashes $(if $(UPGRADE),--upgrade) setup.cfg -o requirements.lock
	{ echo '# Written by `make lock`: the part of requirements.lock that running an exported model needs.'; \
		sed -nE 's/^(($(RUNTIME))==[^\\]*[^\\ ]).*/\1/p' requirements.lock; } > requirements-runtime.txt

clean:
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis data/demo work_dirs/demo
	find . -name __pycache__ -prune -exec rm -rf {} +
