# SPDX-License-Identifier: Apache-2.0
# The ways to build, try, test and install allocsd. `make` alone lists them.
#
# Every target does its own set-up: missing Debian packages are installed where that is allowed, else the line to run is
# printed. SCRATCH is where Swift builds.

PREFIX ?= /usr/local
DESTDIR ?=
SCRATCH ?= .build

# Installed binaries must not need Swift on their machine.
BUILD = swift build -c release --static-swift-stdlib --scratch-path '$(SCRATCH)'
BIN = $(abspath $(SCRATCH))/release

.PHONY: help build demo test page api aarch64 stacks models fuzz sanitize soak attack bench bench-check lint docs \
  install clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## the agent, the kit, allocsctl and allocsd, for release
	@scripts/install-dependencies build
	$(BUILD)
	scripts/build-kit '$(BIN)'

demo: ## start redis-server under the agent, ask what lies at addresses of it, and who holds its memory
	@scripts/install-dependencies build demo
	$(BUILD) --product allocs_agent
	$(BUILD) --product allocsctl
	@ALLOCS_BIN_DIR='$(BIN)' scripts/demo

# The end-to-end tests run the release binaries; the others need nothing of the server's dependencies.
test: ## unit tests, and real programs under the agent
	@scripts/install-dependencies build test
	@scripts/fetch-mimalloc '$(abspath $(SCRATCH))/mimalloc'
	@scripts/fetch-perfetto '$(abspath $(SCRATCH))/perfetto'
	$(BUILD)
	scripts/build-kit '$(BIN)'
	ALLOCS_TESTS_ONLY=1 swift build --build-tests --scratch-path '$(SCRATCH)'
	ALLOCS_BIN_DIR='$(BIN)' ALLOCS_MIMALLOC_DIR='$(abspath $(SCRATCH))/mimalloc' \
	  ALLOCS_PERFETTO_DIR='$(abspath $(SCRATCH))/perfetto' scripts/run-tests '$(abspath $(SCRATCH))'

page: ## the page in Chromium without a window; ARGS="--screenshots DIRECTORY" keeps pictures
	@scripts/install-dependencies build page
	$(BUILD)
	ALLOCS_BIN_DIR='$(BIN)' python3 -B Tests/Page/page.py $(ARGS)

api: ## the HTTP API asked by schemathesis, from PyPI; its options in ARGS
	@scripts/install-dependencies build page
	$(BUILD)
	scripts/check-api '$(BIN)' $(ARGS)

aarch64: ## the agent for AArch64, compiled here, to see that it compiles
	@scripts/install-dependencies build aarch64
	scripts/build-aarch64 '$(abspath $(SCRATCH))/aarch64'

stacks: ## call stacks against gdb's, address by address; half an hour; names of programs in ARGS
	@scripts/install-dependencies build stacks
	$(BUILD) --product allocs_agent
	ALLOCS_BIN_DIR='$(BIN)' scripts/compare-stacks $(ARGS)

models: ## the models of the shared-memory protocols, every interleaving of them
	@scripts/install-dependencies models
	scripts/check-models

fuzz: ## damaged and made segments, rings, symbol files, recordings: ten million of each; RUNS for another number
	@scripts/install-dependencies build
	scripts/fuzz $(if $(RUNS),--runs $(RUNS)) '$(abspath $(SCRATCH))/fuzz'

sanitize: ## the tests of the server side under ThreadSanitizer and AddressSanitizer
	@scripts/install-dependencies build test
	$(BUILD)
	scripts/sanitize thread '$(abspath $(SCRATCH))/sanitize' '$(BIN)'
	scripts/sanitize address '$(abspath $(SCRATCH))/sanitize' '$(BIN)'

soak: ## half an hour of mixed load; MINUTES for another time
	@scripts/install-dependencies build test
	$(BUILD)
	ALLOCS_BIN_DIR='$(BIN)' scripts/soak $(or $(MINUTES),30)

attack: ## how long others wait while one user does his worst, as root; options of Tests/Attacks/measure.py in ARGS
	@scripts/install-dependencies build test
	$(BUILD)
	ALLOCS_BIN_DIR='$(BIN)' python3 -B Tests/Attacks/measure.py $(ARGS)

bench: ## plain against agent against heaptrack; options of Benchmarks/run in ARGS
	@scripts/install-dependencies build bench
	SCRATCH='$(SCRATCH)' Benchmarks/run $(ARGS)

bench-check: ## instruction counts against the thresholds in Benchmarks/instructions.txt; ARGS=--set sets these
	@SCRATCH='$(SCRATCH)' Benchmarks/run --check $(ARGS)

lint: ## format, comments, documents, licence lines, generated code, scripts
	swift format lint --strict --recursive Sources Tests Benchmarks Package.swift
	scripts/check-comments --self-test
	scripts/check-comments
	scripts/check-foreign --self-test
	scripts/check-foreign
	scripts/check-text --self-test
	scripts/check-text
	scripts/check-markdown --self-test
	scripts/check-markdown
	scripts/check-page --self-test
	scripts/check-page
	scripts/add-spdx --self-test
	scripts/add-spdx --check
	scripts/generate-protobuf --check
	@if command -v shellcheck >/dev/null; then \
	  git grep -lE '^#!/bin/(ba)?sh' | xargs shellcheck; \
	else echo "shellcheck is not installed, scripts were not looked at: scripts/install-dependencies lint"; fi

docs: ## the library's documentation, by DocC; every public symbol has a comment
	scripts/check-documentation '$(SCRATCH)'

install: ## into PREFIX (/usr/local), below DESTDIR; builds first if there is nothing to install
	@test -x '$(BIN)/allocsd' -a -x '$(BIN)/allocsctl' -a -e '$(BIN)/liballocs_agent.so' || $(MAKE) build
	scripts/install '$(BIN)' '$(DESTDIR)' '$(PREFIX)'

clean: ## remove what was built
	rm -rf '$(SCRATCH)'
