# What people type. The work is done by .ci/setup, .ci/run and cargo, so that CI and a laptop run the
# same lines. Every target can be run again; nothing needs root once the packages are installed.
.DEFAULT_GOAL := help
.PHONY: help setup build demo test bench side-by-side crash soak fuzz clean

SOAK_MINUTES ?= 30
FUZZ_SECONDS ?= 60

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

help:
	@echo 'make setup    install what is missing to build (says what; needs root only for packages)'
	@echo 'make build    the program, optimised: $(TARGET_DIR)/release/mingchu'
	@echo 'make demo     set up, build and run a kitchen with a camera, a broker and the daemon'
	@echo '              SOURCE=rtsp://... or a video file instead of the built-in camera'
	@echo '              DEMO_SECONDS=60 ends it by itself; otherwise Ctrl-C does'
	@echo 'make test     set up and run everything CI runs (.ci/run)'
	@echo 'make bench    set up and run the benchmarks; writes benches/RESULTS.md'
	@echo 'make side-by-side  CPU time beside what one would write by hand, about two hours; benches/side_by_side'
	@echo 'make soak     eight cameras, a broker and faults for SOAK_MINUTES=30; writes tests/soak.svg'
	@echo 'make crash    kills the store and cuts its power some thousand times; prints the table of benches/README.md'
	@echo 'make fuzz     each target of tests/fuzz for FUZZ_SECONDS=60'
	@echo 'make clean    remove what was built and what set-up put into .runtime/'

setup:
	@.ci/setup build

build: setup
	cargo build --release --locked

demo: build
	@'$(TARGET_DIR)/release/mingchu' demo $(if $(SOURCE),--source '$(SOURCE)') $(if $(DEMO_SECONDS),--seconds '$(DEMO_SECONDS)')

test:
	@.ci/run

bench:
	@.ci/setup test
	@.ci/bench

side-by-side: build
	@.ci/setup test
	python3 -m venv .runtime/side-by-side
	.runtime/side-by-side/bin/pip install --quiet --requirement benches/side_by_side/requirements.txt
	.runtime/side-by-side/bin/python benches/side_by_side/compare.py --out benches/side_by_side/RESULTS.md

soak:
	@.ci/setup test
	cargo bench --locked --bench soak -- --minutes '$(SOAK_MINUTES)' --out tests/soak.svg

crash: setup
	cargo bench --locked --profile dev --bench crash -- --all

fuzz:
	@.ci/setup test
	@.ci/fuzz '$(FUZZ_SECONDS)'

clean:
	cargo clean
	rm -rf .runtime
