# Each target makes .venv and installs what it needs first.
PYTHON ?= python3
# another interpreter gets an environment of its own: .venv-python3.12
VENV ?= .venv$(if $(filter-out python3,$(notdir $(PYTHON))),-$(notdir $(PYTHON)))
RUN = runs/demo

CONSTRAINTS ?= constraints.txt
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	-c $(CONSTRAINTS)

.PHONY: demo test test-slow lint smoke smoke-demo smoke-qwen notebooks multi bench \
	fuzz parity parity-full faults faults-full clean

demo: $(VENV)/.installed
	$(VENV)/bin/rlft run --config=configs/general_points/demo.py \
		--run_dir=$(RUN)

test: $(VENV)/.tested
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m pytest -n 2 --dist=loadfile \
		--no-loadscope-reorder

# the tests that take long, one by one, and are left out of `make test`
test-slow: $(VENV)/.tested
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m pytest -n 2 --dist=loadfile -m slow

lint: $(VENV)/.linted
	$(VENV)/bin/ruff check .

QUICK = --xla_backend_optimization_level=0 \
	--xla_cpu_use_fusion_emitters=false
# both at once; most of each is compilation, of which the second does less than
# a run does by itself (as the tests do, see tests/conftest.py)
smoke: $(VENV)/.installed
	$(MAKE) --no-print-directory -j 2 smoke-demo smoke-qwen

smoke-demo smoke-qwen: $(VENV)/.installed
smoke-demo:
	rm -rf runs/smoke
	$(VENV)/bin/rlft run --config=configs/general_points/demo.py:smoke \
		--run_dir=runs/smoke
smoke-qwen:
	rm -rf runs/smoke_qwen
	XLA_FLAGS='$(QUICK)' $(VENV)/bin/rlft run --run_dir=runs/smoke_qwen \
		--config=configs/general_points/qwen2_5_7b.py:smoke

# the tour of notebooks/, whose study is a smoke study too
notebooks: $(VENV)/.tested
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m pytest \
		-o python_files='run_*.py' tests/notebooks

# random models beside transformers with torch, and the algebra of RL beside
# verl and TRL; PARITY_SEED=... repeats a run
PARITY_SEED ?= $(shell date +%s)
PEERS = VERL_PYTHON=$(abspath $(VENV)-verl/bin/python) \
	TRL_PYTHON=$(abspath $(VENV)-trl/bin/python) \
	TRL_PPO_PATH=$(abspath $(VENV)-trl/ppo)
parity: $(VENV)/.tested  # by this make alone, as other targets ask for it, too
	$(MAKE) --no-print-directory -j 2 $(VENV)/.compared \
		$(VENV)-verl/.made $(VENV)-trl/.made
	PARITY_SEED=$(PARITY_SEED) $(PEERS) JAX_PLATFORMS=cpu \
		$(VENV)/bin/python -m pytest -n 2 --dist=loadgroup -rP \
		-o python_files='test_*.py live*.py' tests/parity

parity-full: export PARITY_DRAWS = 50
parity-full: export PARITY_BATCHES = 20000
parity-full: parity

# runs that are killed, signalled, hung and made to differ, in processes of
# their own; three at a time, as they often wait
faults: $(VENV)/.tested
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m pytest -n 3 --dist=load \
		--durations=20 -o python_files='drill_*.py' tests/faults

faults-full: export FAULTS_KILLS = 30
faults-full: faults

# runs on several devices beside runs on one
multi: $(VENV)/.tested
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m pytest -n 2 --dist=load \
		--durations=10 -o python_files='drill_*.py' tests/multi

bench: $(VENV)/.tested $(VENV)-trl/.made $(VENV)-tunix/.made
	$(VENV)/bin/python -m tests.bench.scoring
	$(VENV)/bin/python -m tests.bench.speed
	$(VENV)/bin/python -m tests.bench.sampling
	$(VENV)/bin/python -m tests.bench.spectral
	$(VENV)/bin/python -m tests.bench.models
	$(PEERS) TUNIX_PYTHON=$(abspath $(VENV)-tunix/bin/python) \
		$(VENV)/bin/python -m tests.bench.rl
	$(VENV)/bin/python -m tests.bench.gpu_svd
	$(VENV)/bin/python -m tests.bench.gpu_models

# hostile inputs, for a quarter of an hour; FUZZ=--only=name --inputs=1000
FUZZ ?=
fuzz: $(VENV)/.tested
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m tests.fuzz $(FUZZ)

# an interrupted venv has a python but no pip; made again, it is completed
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.linted: setup.py constraints.txt | $(VENV)/.made
	$(PIP) ruff
	touch $@

$(VENV)/.installed: setup.py constraints.txt | $(VENV)/.made
	$(PIP) -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/.compared: $(VENV)/.tested
	$(PIP) -e '.[test,parity]'
	touch $@

# What others need contradicts what rlft does: each has an environment of its
# own. verl is installed without its requirements, of which verl.txt has those
# that its functions import; the last TRL with PPO lies beside the current one.
# Of torch and the rest only what is imported is compiled, when it is.
PEER_PIP = -m pip install --quiet --disable-pip-version-check --no-compile
$(VENV)-verl/.made: tests/parity/rl/verl.txt
	$(PYTHON) -m venv $(VENV)-verl
	$(VENV)-verl/bin/python $(PEER_PIP) -r $<
	$(VENV)-verl/bin/python $(PEER_PIP) --no-deps verl==0.9.1
	touch $@

$(VENV)-trl/.made: tests/parity/rl/trl.txt constraints.txt
	$(PYTHON) -m venv $(VENV)-trl
	$(VENV)-trl/bin/python $(PEER_PIP) -c $(CONSTRAINTS) -r $<
	$(VENV)-trl/bin/python $(PEER_PIP) --no-deps --upgrade \
		--target $(VENV)-trl/ppo trl==1.12.0
	touch $@

$(VENV)-tunix/.made: tests/bench/tunix.txt
	$(PYTHON) -m venv $(VENV)-tunix
	$(VENV)-tunix/bin/python $(PEER_PIP) -r $<
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-verl $(VENV)-trl $(VENV)-tunix build *.egg-info
