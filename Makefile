# lamina. `make help` lists what can be made.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

SWIFT ?= swift
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
DESTDIR ?=

# With the Swift runtime inside, the binary runs on machines that have none.
# Libraries are taken from the system's directories alone (no RUNPATH).
# Each function and each constant is a section of its own: the linker leaves out those that nothing uses.
SECTIONS := -Xswiftc -Xfrontend -Xswiftc -function-sections -Xcc -ffunction-sections -Xcc -fdata-sections
RELEASE := -c release --static-swift-stdlib --disable-local-rpath $(SECTIONS) --product lamina
# Where the release build puts the binary: SwiftPM keeps this link to its directory. Not asked of Swift, as `sudo make install` has
# root's PATH, in which it need not be.
BINARY := $(CURDIR)/.build/release/lamina
# How long `make fuzz` takes for each of its targets. The shell has a SECONDS of its own: only what make was given counts.
SECONDS_EACH = $(if $(filter command line,$(origin SECONDS)),$(SECONDS),60)
# Warnings of our own code are errors where it counts.
STRICT := $(if $(CI),-Xswiftc -warnings-as-errors,)

# Where the benchmarks keep their inputs (some 10 GB, made once) and make their stores, best on the machine's own disk.
LAMINA_BENCH_DIR ?= $(CURDIR)/.bench
# A part of the benchmarks, as `make bench-quick PART=pull`; all without it.
PART ?=
# What is measured: the release build where there is one, else the demo's, which takes half as long to make. They differ in
# what speaks gRPC, which none of the figures has to do with.
BENCH_BUILD = $(if $(wildcard .build/release/lamina),$(RELEASE),$(DEMO_BUILD))
BENCH_BINARY = $(shell $(SWIFT) build $(BENCH_BUILD) --show-bin-path)/lamina
RUN_BENCH = Benchmarks/.build/release/lamina-bench --lamina "$(BENCH_BINARY)" --dir "$(LAMINA_BENCH_DIR)" $(if $(PART),--part "$(PART)")

.PHONY: help setup setup-test build demo test kills containerd-kills endings chaos hang takeover sealed powercut faults model fuzz grpc lint install clean bench bench-build bench-quick bench-test

help: ## List what can be made.
	@echo 'lamina: container images as files, mounted before they are downloaded.'
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)$$/  make \1\t\2/' | expand -t 20
	@echo
	@echo 'PREFIX=$(PREFIX), DESTDIR=$(DESTDIR)'

setup: ## Install the system packages that building takes, where missing.
	@scripts/setup.sh build

setup-test:
	@scripts/setup.sh build test

build: setup ## Build the release binary.
	$(SWIFT) build $(RELEASE)
	@echo "built $(BINARY)"

# Without what speaks gRPC, which the demo does not show and which is more than half of a build. In a directory of its own, so that
# this build and the other do not undo each other's work.
DEMO_BUILD := $(RELEASE) --traits ISAL --scratch-path .build-demo

demo: setup ## Build, then show the whole way: convert, pull, mount, read, look into the index.
	$(SWIFT) build $(DEMO_BUILD)
	@scripts/demo.sh "$$($(SWIFT) build $(DEMO_BUILD) --show-bin-path)/lamina"

test: setup-test ## Build and run all tests; as root, with /dev/fuse, for the whole of it.
	@scripts/test.sh $(STRICT)

KILL_MEBIBYTES ?= 1024
KILL_COUNT ?= 50
KILL_STREAMS ?= 1

kills: setup-test ## Kill the pull of a plain layer of 1 GiB 50 times (KILL_MEBIBYTES, KILL_COUNT); as root.
	$(SWIFT) build $(RELEASE)
	LAMINA_BINARY="$(BINARY)" LAMINA_KILL_MEBIBYTES=$(KILL_MEBIBYTES) LAMINA_KILL_COUNT=$(KILL_COUNT) LAMINA_KILL_STREAMS=$(KILL_STREAMS) \
	    $(SWIFT) test --no-parallel --filter 'PlainLayers/killed'

CONTAINERD_KILLS ?= 200

containerd-kills: setup-test ## Kill the server 200 times under containerd (CONTAINERD_KILLS), amid its calls; as root.
	$(SWIFT) build $(RELEASE)
	LAMINA_BINARY="$(BINARY)" LAMINA_CONTAINERD_KILLS=$(CONTAINERD_KILLS) \
	    $(SWIFT) test --no-parallel --filter 'UnderContainerd/killed'

ENDING_TRIES ?= 2000

endings: setup-test ## Run 2,000 commands at every moment of a server's end (ENDING_TRIES); as root.
	$(SWIFT) build $(RELEASE)
	LAMINA_BINARY="$(BINARY)" LAMINA_ENDING_TRIES=$(ENDING_TRIES) $(SWIFT) test --no-parallel --filter 'EndingServers'

bench-build:
	@scripts/setup.sh build bench
	$(SWIFT) build $(BENCH_BUILD)
	$(SWIFT) build -c release --package-path Benchmarks --product lamina-bench

bench: bench-build ## Measure everything beside gzip, tar and other file systems; as root. Writes docs/benchmarks.md.
	$(RUN_BENCH) --write docs/benchmarks.md

bench-quick: bench-build ## The same with fewer rounds, printed only; PART=NAME for one part.
	$(RUN_BENCH) --quick

bench-test: ## Test what makes figures of measurements.
	$(SWIFT) test --package-path Benchmarks

.PHONY: readers
readers: ## Get podman, containerd, Docker and others of Debian's suites into .build/readers, where the tests find them (2 GB).
	@scripts/readers.sh "$(CURDIR)/.build/readers"

ODD_LAYERS ?= 2000
ODD_SEED ?= 1000

.PHONY: odd-layers
odd-layers: setup-test ## Compare 2,000 odd layers with what containerd's code unpacks (ODD_LAYERS, ODD_SEED); as root.
	$(SWIFT) build $(RELEASE)
	LAMINA_BINARY="$(BINARY)" LAMINA_ODD_LAYERS=$(ODD_LAYERS) LAMINA_ODD_SEED=$(ODD_SEED) \
	    $(SWIFT) test --no-parallel --filter 'OddLayers/generated'

fuzz: setup ## Fuzz each parser of bytes from outside: SECONDS (60) each, TARGETS (all).
	@scripts/fuzz.sh $(SECONDS_EACH) $(TARGETS)
CHAOS_SECONDS ?= 660
CHAOS_KILLS ?= 1000

chaos: setup-test ## Kill the server 1,000 times under readers (CHAOS_SECONDS, CHAOS_KILLS); as root.
	$(SWIFT) build $(RELEASE)
	@directory=$$(mktemp -d "$${TMPDIR:-/var/tmp}/lamina-chaos-XXXXXX"); status=0; \
	python3 Tests/Chaos/chaos.py --lamina "$(BINARY)" --directory "$$directory" --seconds $(CHAOS_SECONDS) \
	    --minimum-kills $(CHAOS_KILLS) || status=$$?; \
	rm -rf --one-file-system "$$directory"; exit $$status

HANG_SECONDS ?= 240
HANG_COUNT ?= 5

hang: setup-test ## Stop the server (SIGSTOP) under readers until the watchdog, set to 30 s, replaces it; as root.
	$(SWIFT) build $(RELEASE)
	@directory=$$(mktemp -d "$${TMPDIR:-/var/tmp}/lamina-hang-XXXXXX"); status=0; \
	python3 Tests/Chaos/chaos.py --lamina "$(BINARY)" --directory "$$directory" --hang --seconds $(HANG_SECONDS) \
	    --minimum-kills $(HANG_COUNT) --round 30 || status=$$?; \
	rm -rf --one-file-system "$$directory"; exit $$status

takeover: setup-test ## Measure how long it takes from a server's death to the next one's first answer; as root.
	$(SWIFT) build $(RELEASE)
	@directory=$$(mktemp -d "$${TMPDIR:-/var/tmp}/lamina-takeover-XXXXXX"); status=0; \
	python3 Tests/Chaos/takeover.py --lamina "$(BINARY)" --directory "$$directory" || status=$$?; \
	rm -rf --one-file-system "$$directory"; exit $$status

SEALED_IMAGES ?= 500
SEALED_SECONDS ?= 600
# Another version of lamina, which takes turns with this one.
SEALED_OTHER ?=

sealed: setup-test ## Mount SEALED_IMAGES (500) sealed images at once, then read sealed mounts for SEALED_SECONDS (600) while all else is killed; as root.
	$(SWIFT) build $(RELEASE)
	@directory=$$(mktemp -d "$${TMPDIR:-/var/tmp}/lamina-sealed-XXXXXX"); status=0; \
	python3 Tests/Sealed/many.py --lamina "$(BINARY)" --directory "$$directory" --images $(SEALED_IMAGES) || status=$$?; \
	rm -rf --one-file-system "$$directory"; mkdir "$$directory"; \
	"$(BINARY)" convert dir:/usr/bin "oci:$$directory.image:1" || status=$$?; \
	python3 Tests/Sealed/survive.py --lamina "$(BINARY)" $(if $(SEALED_OTHER),--other "$(SEALED_OTHER)") --directory "$$directory" \
	    --seconds $(SEALED_SECONDS) "oci:$$directory.image:1" || status=$$?; \
	rm -rf --one-file-system "$$directory" "$$directory.image"; exit $$status

# Images, recordings and results of the two below; what a bad case takes to be repeated stays there.
POWERCUT_DIR ?= /var/tmp/lamina-powercut
# How many cuts of each workload, file system and noise; and how many second ones, amid the recovery from a first.
POWERCUT_CUTS ?= 4
POWERCUT_AGAIN ?= 1
POWERCUT_FS ?= ext4,xfs,btrfs
POWERCUT_NOISE ?= none,own,index
# All without it.
POWERCUT_WORKLOADS ?=
# One cut once more, by the name that was printed.
CUT ?=

powercut: setup-test ## Cut the power at any write: POWERCUT_CUTS (4), POWERCUT_FS, POWERCUT_NOISE, POWERCUT_WORKLOADS, CUT=NAME; as root.
	$(SWIFT) build $(RELEASE)
	python3 Tests/PowerCut/powercut.py --lamina "$(BINARY)" --directory "$(POWERCUT_DIR)" --cuts $(POWERCUT_CUTS) \
	    --again $(POWERCUT_AGAIN) --fs $(POWERCUT_FS) --noise $(POWERCUT_NOISE) --workloads "$(POWERCUT_WORKLOADS)" \
	    $(if $(CUT),--cut "$(CUT)")

FAULTS_EACH ?= 40
FAULTS_FS ?= ext4
FAULTS_SCENES ?=
FAULT ?=

faults: setup-test ## Let the n-th system call fail: FAULTS_EACH (40) of each kind, FAULTS_SCENES, FAULTS_FS, FAULT=NAME; as root.
	$(SWIFT) build $(RELEASE)
	python3 Tests/PowerCut/faults.py --lamina "$(BINARY)" --directory "$(POWERCUT_DIR)" --each $(FAULTS_EACH) --fs $(FAULTS_FS) \
	    --scenes "$(FAULTS_SCENES)" $(if $(FAULT),--fault "$(FAULT)")

# Directories with other podmans besides this machine's own: by default those that `make readers` has fetched.
PODMANS ?= $(wildcard .build/readers/*/bin)

.PHONY: test-podman
test-podman: setup-test ## Hold this machine's podman, and those of `make readers` (PODMANS), against lamina's image store; as root.
	$(SWIFT) build $(RELEASE)
	@directory=$$(mktemp -d "$${TMPDIR:-/var/tmp}/lamina-podman-XXXXXX"); status=0; \
	python3 Tests/Podman/check.py --lamina "$(BINARY)" --directory "$$directory" machine \
	    $(foreach podman,$(PODMANS),"$(abspath $(podman))") || status=$$?; \
	rm -rf --one-file-system "$$directory"; exit $$status

MODEL_SECONDS ?= 600
MODEL_ROUNDS ?= 50

model: setup-test ## Hold the store against a model for MODEL_SECONDS (600), and race rm, gc and failing pulls MODEL_ROUNDS (50) times; as root.
	$(SWIFT) build $(RELEASE)
	@directory=$$(mktemp -d "$${TMPDIR:-/var/tmp}/lamina-model-XXXXXX"); status=0; \
	for words in "--seconds $(MODEL_SECONDS)" "--race gc --rounds $(MODEL_ROUNDS) --files 60000" "--race stream --rounds $(MODEL_ROUNDS) --files 60000"; do \
	    rm -rf --one-file-system "$$directory"; mkdir "$$directory"; \
	    python3 Tests/Model/model.py --lamina "$(BINARY)" --directory "$$directory" $$words || status=$$?; \
	done; rm -rf --one-file-system "$$directory"; exit $$status

grpc: ## Make the Swift files of the .proto files anew; takes protoc.
	@scripts/generate-grpc.sh

# One after the other, in directories of their own, and of the package only what these tests take (see the end of Package.swift).
# What C does wrong with memory or numbers ends the tests (ASan, UBSan); so does what two
# threads do to the same memory at once (TSan), but for what is listed in Tests/Sanitizers, with the reason.
SANITIZED_C ?= LaminaFUSETests|LaminaFilesystemTests|LaminaSealTests|LaminaOCITests|LaminaFormatsTests
SANITIZED_THREADS ?= LaminaStoreTests|LaminaMergeTests|LaminaSQLiteTests|LaminaFormatsTests

.PHONY: sanitize sanitize-memory sanitize-threads
sanitize: sanitize-memory sanitize-threads ## Run the tests of the C shims under ASan and UBSan, and unit tests under TSan; takes some 40 minutes.

sanitize-memory: setup-test
	LAMINA_SANITIZE=1 ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	    $(SWIFT) test --sanitize=address -Xcc -fsanitize=undefined --scratch-path .build/sanitize-memory --no-parallel \
	    --filter '$(SANITIZED_C)'

sanitize-threads: setup-test
	LAMINA_SANITIZE=1 TSAN_OPTIONS=halt_on_error=1:suppressions=$(CURDIR)/Tests/Sanitizers/thread.txt \
	    $(SWIFT) test --sanitize=thread --scratch-path .build/sanitize-threads --no-parallel --filter '$(SANITIZED_THREADS)'

lint: ## Check the format of all Swift files.
	@scripts/lint.sh

install: ## Install the binary, its configuration, the systemd unit, completions and manual to PREFIX (and DESTDIR).
	@if [ ! -x "$(BINARY)" ]; then echo 'nothing is built yet: run "make build" first' >&2; exit 1; fi
	install -D -s -m 0755 "$(BINARY)" "$(DESTDIR)$(PREFIX)/bin/lamina"
	@# An operator's own configuration stays.
	@if [ ! -e "$(DESTDIR)$(SYSCONFDIR)/lamina/config.toml" ]; then \
	    install -D -m 0644 config/config.toml "$(DESTDIR)$(SYSCONFDIR)/lamina/config.toml"; fi
	install -d "$(DESTDIR)$(UNITDIR)"
	sed 's|@PREFIX@|$(PREFIX)|g; s|@SYSCONFDIR@|$(SYSCONFDIR)|g' config/systemd/lamina.service \
	    > "$(DESTDIR)$(UNITDIR)/lamina.service"
	install -d "$(DESTDIR)$(PREFIX)/share/bash-completion/completions" \
	    "$(DESTDIR)$(PREFIX)/share/zsh/site-functions" "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d"
	"$(BINARY)" --generate-completion-script bash > "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/lamina"
	"$(BINARY)" --generate-completion-script zsh > "$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_lamina"
	install -d "$(DESTDIR)$(PREFIX)/share/man/man1"
	"$(BINARY)" generate-manual "$(DESTDIR)$(PREFIX)/share/man/man1"
	"$(BINARY)" --generate-completion-script fish > "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/lamina.fish"

clean: ## Remove what was built, and the inputs of the benchmarks.
	rm -rf .build .build-demo Benchmarks/.build .bench
