# make demo    see it work: an office, a home and a VPN between them, on this machine
# make test    the whole suite
# make         the other targets

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help demo demo-faults lab test soak stories fuzz bench bench-crowd bench-growth bench-micro lint types coverage news clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo      log in from home, reach the office: shown in namespaces on this machine'
	@echo 'make demo-faults  a download that survives what happens to networks, shown likewise'
	@echo 'make lab       the same lab, with the VPN up, left running for you to play in'
	@echo 'make test      all tests: unit and live under pytest, the unit tests under trial too'
	@echo 'make soak      the live tests at their full length and many stories: hours (KILLS=...)'
	@echo 'make stories   everything that breaks a network, combined, on a simulated one (SEED=... RUNS=...)'
	@echo 'make fuzz      a million changed inputs for everything that reads what strangers send (RUNS=...)'
	@echo 'make bench     side by side with other VPNs, into bench/results (BENCH=..., see bench/README.rst)'
	@echo 'make bench-crowd  how soon one client is served while ten download (BENCH=...)'
	@echo 'make bench-growth what a packet costs with 1 to 10,000 sessions, without root (BENCH=...)'
	@echo 'make bench-micro  what each step of the packet path costs, without root (BENCH=...)'
	@echo 'make lint      ruff: faults and format'
	@echo 'make types     mypy, strict'
	@echo 'make coverage  the unit tests again, with the lines and branches they miss'
	@echo 'make news      what the next release will say'
	@echo 'make clean     remove what the targets above made'
	@echo
	@echo 'PYTHON=python3.13 chooses the Python (3.11 or newer), VENV=folder where it installs.'

demo: $(VENV)/runtime
	@exec $(BIN)/python -m pyvpn.testing.demo

demo-faults: $(VENV)/runtime
	@exec $(BIN)/python -m pyvpn.testing.demo_faults

lab: $(VENV)/runtime
	@exec $(BIN)/python -m pyvpn.testing.demo --stay

# The live tests are functions, which trial does not see; every other test is a TestCase, and the
# equal counts say that none is lost to one of the two runners.
test: $(VENV)/test
	$(BIN)/python -m pytest
	@echo 'The unit tests again, under trial ...'
	@$(BIN)/python -m twisted.trial --temp-directory=_trial_temp_make tests >_trial_temp_make.log \
	    2>&1 || { cat _trial_temp_make.log; exit 1; }
	@trial=$$(sed -n 's/^Ran \([0-9]*\) tests* in .*/\1/p' _trial_temp_make.log); \
	pytest=$$($(BIN)/python -m pytest --collect-only -q --ignore=tests/live \
	    | sed -n 's/^\([0-9]*\) tests* collected.*/\1/p'); \
	if [ "$$trial" = "$$pytest" ]; \
	then echo "... passed: the same $$trial tests."; \
	else echo "... trial ran $$trial, pytest $$pytest: is one not a SynchronousTestCase?"; exit 1; \
	fi

# Hours: long floods, many kills, ten minutes of silence, fifty flaps, thousands of sessions.
soak: KILLS = 20
soak: $(VENV)/test
	PYVPN_KILLS=$(KILLS) $(BIN)/python -m pytest -s tests/live tests/simulator/test_udp_alone.py
	$(BIN)/python -m pyvpn.testing.simulator --seed 1 --runs 500 --quiet

# Each seed is another order of the same mishaps; all of one story follows from its seed.
stories: SEED = 1
stories: RUNS = 20
stories: MINUTES = 5
stories: $(VENV)/runtime
	$(BIN)/python -m pyvpn.testing.simulator --seed $(SEED) --runs $(RUNS) --minutes $(MINUTES) --quiet

# The same bytes each time; SEED=... tries others.
fuzz: RUNS = 1000000
fuzz: SEED = 0
fuzz: $(VENV)/test
	$(BIN)/python -m tests.fuzz all --runs $(RUNS) --seed $(SEED)

bench: $(VENV)/runtime
	@exec $(BIN)/python -m bench $(BENCH)

bench-growth: $(VENV)/runtime
	@exec $(BIN)/python -m bench.growth $(BENCH)

bench-crowd: $(VENV)/runtime
	@exec $(BIN)/python -m bench.crowd $(BENCH)

bench-micro: $(VENV)/bench
	$(BIN)/python -m pytest -p no:twisted bench/micro.py --benchmark-columns=median,iqr,ops \
	    --benchmark-sort=name $(BENCH)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

coverage: $(VENV)/dev
	$(BIN)/coverage run -m pytest --ignore=tests/live
	$(BIN)/coverage report --skip-covered --show-missing

news: $(VENV)/dev
	$(BIN)/towncrier build --draft --version next

# One stamp for each set of requirements, so that the demonstration installs no test tools.
$(VENV)/runtime: WHAT = .
$(VENV)/test: WHAT = .[test]
$(VENV)/bench: WHAT = .[bench]
$(VENV)/dev: WHAT = .[test,dev]
$(VENV)/runtime $(VENV)/test $(VENV)/bench $(VENV)/dev: setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), once: $(WHAT)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '$(WHAT)'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "pyvpn needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.13"; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu:" \
	         "sudo apt-get install python3-venv"; \
	    exit 1; }
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf .venv .venv-* build dist *.egg-info htmlcov .coverage* .hypothesis _trial_temp* \
	    .mypy_cache .pytest_cache .ruff_cache twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
