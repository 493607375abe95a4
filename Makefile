# make demo           watch a fleet learn (TASK=presence for real data)
# make test           all tests (TESTS=tests/client/test_pace.py: these; OPTIONS=--last-failed: of pytest)
# make install        what all commands need, into .venv
# make test-image     what a container's image is built of, installed and served
# make test-boards    the client on emulated boards, whose firmwares are built first; half an hour
# make test-faults    all under kills, cuts, full disks, clock jumps; an hour (FAULTS_OPTIONS=--quick: minutes)
# make fuzz           decoders under coverage-guided fuzzing, ten minutes each on a core (FUZZ_SECONDS=600)
# make check          linter, formatter and type checker
# make bench          the figures of docs/benchmarks.md
# make attacks        what hostile devices do to a run, a table; half an hour (ATTACKS_OPTIONS=--quick: two minutes)
# make bench-boards   what learning and TLS take of emulated boards; 40 minutes
# make long-runs      whether learning lasts: a million updates of sine, 200,000 of Omniglot; three hours
# make reproduce      the study of docs/results.md, some hours (STUDY_OPTIONS=--quick: rough, ten minutes)
PYTHON ?= python3
TASK ?= sine
DEMO_OPTIONS ?=
BENCH_OPTIONS ?=
ATTACKS_OPTIONS ?=
STUDY_OPTIONS ?=
FUZZ_SECONDS ?= 600
FAULTS_OPTIONS ?=
TESTS ?=
OPTIONS ?=
# Of the tests: one more than processors, for they wait half of their time for clocks and brokers; at most eight.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); [ $$n -lt 8 ] && echo $$((n + 1)) || echo 8)

# Data sets: see docs/tasks.md. A folder ../shared/data is taken if there is one.
export TINYREPTILE_DATA ?= $(abspath $(wildcard ../shared/data))
# Rounds on emulated boards in which nothing may grow.
export TINYREPTILE_ENDURANCE ?= 10000

.PHONY: demo install test test-image test-boards test-faults fuzz check format bench attacks bench-boards long-runs reproduce \
	packages system-packages board-packages fault-packages clean

demo: .venv/demo.stamp
	.venv/bin/tinyreptile demo --task $(TASK) $(DEMO_OPTIONS)

install: .venv/install.stamp

# PyTorch, which takes long to come and is only compared with, is for continuous integration and for who has it.
test: .venv/dev.stamp system-packages
	@if [ "$$CI" = true ]; then $(PIP) -r requirements-bench.txt; fi
	.venv/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(OPTIONS) $(TESTS)

test-image: .venv/dev.stamp system-packages
	.venv/bin/python -m pytest tests/package

test-boards: .venv/dev.stamp system-packages board-packages
	$(PIP) -r requirements-boards.txt
	@for chip in rp2 esp32; do \
		$(PIP) --no-deps --upgrade --target .venv/stubs-$$chip \
			-r requirements-stubs-$$chip.txt || exit 1; \
	done
	.venv/bin/python -m pytest -o cache_dir=.pytest_cache/boards $(OPTIONS) $(or $(TESTS),tests/boards)

test-faults: .venv/dev.stamp system-packages fault-packages
	.venv/bin/python -m tests.faults $(FAULTS_OPTIONS)

fuzz: .venv/dev.stamp
	$(PIP) -r requirements-fuzz.txt
	.venv/bin/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

check: .venv/dev.stamp
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: .venv/dev.stamp
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

bench: .venv/dev.stamp system-packages
	$(PIP) -r requirements-bench.txt
	.venv/bin/python -m benchmarks $(BENCH_OPTIONS)

attacks: .venv/install.stamp
	.venv/bin/python -m benchmarks.hostile $(ATTACKS_OPTIONS)

bench-boards: .venv/dev.stamp board-packages
	$(PIP) -r requirements-boards.txt
	.venv/bin/python -m benchmarks.boards $(BENCH_OPTIONS)

long-runs: .venv/install.stamp
	.venv/bin/python -m benchmarks.long_runs

reproduce: .venv/install.stamp
	$(PIP) -r requirements-bench.txt
	.venv/bin/tinyreptile reproduce all $(STUDY_OPTIONS)

# The environment that everything else runs in, in three parts: a demonstration needs the first, all commands the second,
# tests and checks the third.
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check

.venv/demo.stamp: pyproject.toml requirements.txt requirements-demo.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt -r requirements-demo.txt
	$(PIP) --no-deps --editable .
	@touch $@

.venv/install.stamp: .venv/demo.stamp requirements-extras.txt
	$(PIP) -r requirements-extras.txt
	@touch $@

.venv/dev.stamp: .venv/install.stamp requirements-dev.txt requirements-oldest.txt
	$(PIP) -r requirements-dev.txt
	$(PIP) --no-deps --upgrade --target .venv/oldest -r requirements-oldest.txt
	@touch $@

# What all stages of continuous integration need, which run side by side and must not install at the same time.
packages: .venv/dev.stamp system-packages board-packages fault-packages
	$(PIP) -r requirements-bench.txt -r requirements-boards.txt

# Tests run against a real Mosquitto, with TLS, a real PostgreSQL, a real Prometheus, and systemd's checks of units. As
# root on Debian they are installed; elsewhere the tests of what is absent are skipped.
SYSTEM_PACKAGES = mosquitto openssl postgresql prometheus systemd

system-packages:
	@$(call install,$(SYSTEM_PACKAGES))

# As root on Debian: install the packages $(1) that are not there.
install = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg -s $(1) >/dev/null 2>&1; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
	fi

# Emulators of boards, and the compilers of their firmwares. As root on Debian they are installed.
BOARD_PACKAGES = make gcc g++ cmake bzip2 xz-utils qemu-user-static qemu-system-arm qemu-system-misc gcc-arm-none-eabi \
	libnewlib-arm-none-eabi libstdc++-arm-none-eabi-newlib picolibc-arm-none-eabi gcc-riscv64-unknown-elf \
	picolibc-riscv64-unknown-elf

board-packages:
	@$(call install,$(BOARD_PACKAGES))

# What makes the clock of a process jump. As root on Debian it is installed.
fault-packages:
	@$(call install,faketime)

clean:
	rm -rf .venv out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
