PYTHON ?= python3
BIN := .venv/bin

DURATION ?= 600
CLUSTERS ?= 100
SEED ?= 1
FUZZ ?= 1000
WORKERS ?= 2

# Images: what they are made from, and how they are called. ETCD=debian makes etcd's from BASE and Debian's packages.
BASE ?= python:3.12-slim
ETCD ?= gcr.io/etcd-development/etcd:v3.5.21
TAG ?= latest

.DEFAULT_GOAL := help

.PHONY: help setup demo test conformance judge soak images test-compose test-kubernetes lint protos shim bench clean

help:  ## Show what each target does
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null || sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

.venv/ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[embedded,dev]'
	touch $@

setup: .venv/ready  ## Make the virtual environment and the shim; needs only Python and pip
	@$(BIN)/python scripts/build_shim.py --auto

demo: setup  ## Real pods, real policy: start everything, play the three-tier example, stop
	@$(BIN)/muslin demo

test: setup  ## Run all tests (unit, etcd, kernel integration), WORKERS at a time; needs root
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

conformance: setup  ## Hold Muslin, or PLUGIN=path CONF=file, to the CNI specification; needs root
	$(BIN)/python -m pytest tests/conformance $(if $(PLUGIN),--plugin $(PLUGIN) --conf $(CONF))

# It pins its dependencies, so it gets an environment of its own.
build/nca/ready:
	$(PYTHON) -m venv build/nca
	build/nca/bin/python -m pip install --quiet --disable-pip-version-check network-config-analyzer==2.1.0
	touch $@

judge: setup $(if $(CASES),build/nca/ready)  ## Policy by documentation, Explain, packets: CLUSTERS, SEED, FUZZ, CASES=file; root
	MUSLIN_JUDGE_CLUSTERS=$(CLUSTERS) MUSLIN_JUDGE_SEED=$(SEED) MUSLIN_FUZZ_EXAMPLES=$(FUZZ) \
	  $(if $(CASES),MUSLIN_NETPOL_CASES=$(abspath $(CASES)) MUSLIN_NCA=$(abspath build/nca/bin/python)) \
	  $(if $(GOLDEN),MUSLIN_CALICO_GOLDEN=$(abspath $(GOLDEN))) \
	  $(BIN)/python -m pytest -s tests/policy_judges tests/unit/policy/test_outside_cases.py tests/unit/policy/test_fuzz.py

soak: .venv/ready  ## Random kills of services and etcd for 10 minutes (DURATION=seconds); violations must be 0
	$(BIN)/python -m tests.soak --seconds $(DURATION) $(SOAK_FLAGS)

images:  ## Build the images muslin/{ipam,endpoint,policy,node,cli,etcd}; BASE=, ETCD=, TAG=, BUILD_FLAGS='--network host'
	@for target in ipam endpoint policy node cli; do \
	  docker build --quiet $(BUILD_FLAGS) --build-arg BASE=$(BASE) --target $$target --tag muslin/$$target:$(TAG) . || exit 1; done
	@$(if $(filter debian,$(ETCD)),docker build --quiet $(BUILD_FLAGS) --build-arg BASE=$(BASE) \
	  --file docker/etcd-debian.Dockerfile --tag muslin/etcd-debian:$(TAG) docker)
	@docker build --quiet --build-arg ETCD=$(if $(filter debian,$(ETCD)),muslin/etcd-debian:$(TAG),$(ETCD)) \
	  --file docker/etcd.Dockerfile --tag muslin/etcd:$(TAG) .
	@docker images --filter 'reference=muslin/*:$(TAG)' --format 'table {{.Repository}}:{{.Tag}}\t{{.Size}}'

test-compose: setup  ## Break a cluster of containers in all ways, and print what it did to traffic; needs root and Docker
	MUSLIN_COMPOSE=1 TAG=$(TAG) $(BIN)/python -m pytest -s tests/compose

test-kubernetes: setup  ## Muslin on a real Kubernetes node of its own, K8S_BIN=its binaries, IMAGES=archive; needs root
	MUSLIN_KUBERNETES_NODE=1 K8S_BIN=$(abspath $(K8S_BIN)) MUSLIN_IMAGES=$(abspath $(IMAGES)) $(BIN)/python -m pytest -s tests/kubernetes

lint: .venv/ready  ## Check style, types and module boundaries
	$(BIN)/ruff check
	$(BIN)/mypy

protos: .venv/ready  ## Regenerate muslin/api and the etcd stubs from their sources
	$(BIN)/python scripts/protos.py

shim: .venv/ready  ## Build build/cni/muslin as one static file (gcc, libpython3-dev)
	$(BIN)/python scripts/build_shim.py --static

bench: setup  ## Run the benchmarks; each prints a table and a JSON line
	@for file in bench/*.py; do $(BIN)/python $$file $(BENCH_FLAGS) || exit 1; done

clean:  ## Stop what runs, remove what it left in the kernel, and all that was built
	-@test -x $(BIN)/muslin && $(BIN)/muslin down
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf .venv
