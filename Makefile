# make demo           watch a fleet learn (TASK=presence for real data)
# make test           all tests
# make test-image     what a container's image is built of, installed and served
# make test-boards    the client on emulated boards, whose firmwares are built first; half an hour
# make test-faults    all under kills, cuts, full disks, clock jumps; an hour (FAULTS_OPTIONS=--quick: minutes)
# make fuzz           decoders under coverage-guided fuzzing, ten minutes each on a core (FUZZ_SECONDS=600)
# make check          linter, formatter and type checker
# make bench          the figures of docs/benchmarks.md
# make bench-boards   what learning takes of emulated boards; half an hour
# make reproduce      the study of docs/results.md, some hours (STUDY_OPTIONS=--quick: rough, ten minutes)
PYTHON ?= python3
TASK ?= sine
DEMO_OPTIONS ?=
BENCH_OPTIONS ?=
STUDY_OPTIONS ?=
FUZZ_SECONDS ?= 600
FAULTS_OPTIONS ?=

# Data sets: see docs/tasks.md. A folder ../shared/data is taken if there is one.
export TINYREPTILE_DATA ?= $(abspath $(wildcard ../shared/data))

.PHONY: demo test test-image test-boards test-faults fuzz check format bench bench-boards reproduce \
	system-packages board-packages fault-packages clean

demo: .venv
	.venv/bin/tinyreptile demo --task $(TASK) $(DEMO_OPTIONS)

# PyTorch, which takes long to come and is only compared with, is for continuous integration and for who has it.
test: .venv system-packages
	@if [ "$$CI" = true ]; then .venv/bin/python -m pip install --quiet -r requirements-bench.txt; fi
	.venv/bin/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

test-image: .venv system-packages
	.venv/bin/python -m pytest tests/package

test-boards: .venv system-packages board-packages
	.venv/bin/python -m pip install --quiet -r requirements-boards.txt
	@for chip in rp2 esp32; do \
		.venv/bin/python -m pip install --quiet --no-deps --upgrade --target .venv/stubs-$$chip \
			-r requirements-stubs-$$chip.txt || exit 1; \
	done
	.venv/bin/python -m pytest tests/boards

test-faults: .venv system-packages fault-packages
	.venv/bin/python -m tests.faults $(FAULTS_OPTIONS)

fuzz: .venv
	.venv/bin/python -m pip install --quiet -r requirements-fuzz.txt
	.venv/bin/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

check: .venv
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: .venv
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

bench: .venv system-packages
	.venv/bin/python -m pip install --quiet -r requirements-bench.txt
	.venv/bin/python -m benchmarks $(BENCH_OPTIONS)

bench-boards: .venv board-packages
	.venv/bin/python -m pip install --quiet -r requirements-boards.txt
	.venv/bin/python -m benchmarks.boards $(BENCH_OPTIONS)

reproduce: .venv
	.venv/bin/python -m pip install --quiet -r requirements-bench.txt
	.venv/bin/tinyreptile reproduce all $(STUDY_OPTIONS)

# The environment that everything else runs in.
.venv: pyproject.toml requirements.txt requirements-dev.txt requirements-oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/oldest \
		-r requirements-oldest.txt
	@touch .venv

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
BOARD_PACKAGES = make gcc g++ cmake qemu-user-static qemu-system-arm qemu-system-misc gcc-arm-none-eabi \
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
