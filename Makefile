# Every target sets up what it needs in .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
SEEDS ?= 200
ARCH ?= amd64
DEBIAN ?= 12
FRESH ?= demo

.PHONY: demo test lint bench simulate powercuts bundles lock clean whole deb deb-size system system-arm64 fresh zoo tflite

demo: .venv/.demo
	$(BIN)/python -m examples.shoulder.demo

test: .venv/.test .venv-tflite-runtime
	scripts/test

lint: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.test .venv-onnxruntime-training
	$(BIN)/python -m benchmarks

simulate: .venv/.test
	SEEDS=$(SEEDS) $(BIN)/python -m pytest -n auto tests/simulation

# The tests, and all that they draw a part of by the date.
whole: .venv/.test .venv-tflite-runtime
	MARRAM_ZOO=all scripts/test

# Build, train, release and run every architecture of tests/zoo (needs torch; nine minutes on two cores).
zoo: .venv/.test
	MARRAM_ZOO=all $(BIN)/python -m pytest -n 2 --dist loadfile tests/zoo tests/unit/cloud/workshop tests/examples/test_tutorial.py
	$(BIN)/python -m tests.zoo.table

# Kill a device at every change of its disk while it installs a release, and a repository at every write.
powercuts: .venv/.test
	$(BIN)/python -m tests.support.powercut $(CUTS)
	MARRAM_ZOO=all $(BIN)/python -m pytest -n 2 -k power_cut tests/unit/cloud/releases/repository

# Debian packages for one release and one processor, in build/deb: make deb ARCH=arm64 DEBIAN=13
deb: .venv/.package
	$(BIN)/python packaging/deb/build.py --arch $(ARCH) --debian $(DEBIAN)

# What takes how much of them; fails when the agent's is over its budget.
deb-size: deb
	$(BIN)/python packaging/deb/size.py build/deb/*~deb$(DEBIAN)_$(ARCH).deb

# The packages and units in a booted systemd, on both Debian releases (needs root).
system: .venv/.test
	MARRAM_DEBIAN=12 MARRAM_SYSTEM=all $(BIN)/python -m pytest -n 2 tests/system
	MARRAM_DEBIAN=13 MARRAM_SYSTEM=all $(BIN)/python -m pytest -n 2 tests/system

# The package for 64-bit ARM on an emulated processor (needs root and qemu-user-static).
system-arm64: .venv/.test
	MARRAM_SYSTEM=arm64 $(BIN)/python -m pytest tests/system/test_arm64.py

# What README names on a minimal Debian that has nothing but make (needs root): make fresh FRESH=test
fresh:
	scripts/fresh $(FRESH)

# Conversions of PyTorch and Keras models for LiteRT, releases in both forms, and examples of other people's models.
tflite: .venv/.test .venv-litert .venv-keras build/others
	MARRAM_TFLITE=1 $(BIN)/python -m pytest -n 2 tests/unit/cloud/workshop/test_litert.py \
		tests/unit/cloud/workshop/test_keras.py tests/integration/test_forms.py tests/examples

# Build the committed example bundles again (needs torch).
bundles: .venv/.test
	$(BIN)/marram-cloud workshop build examples/shoulder
	$(BIN)/marram-cloud workshop build examples/host
	$(BIN)/python -m examples.sites.make

# Write down the versions that are installed now, for everybody's set-up.
lock: .venv/.test
	scripts/lock

# Other people's models, for examples/others.
build/others: .venv/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/others.new \
		silero-vad==6.2.3 rapidocr-onnxruntime==1.4.4 pymicro-wakeword==2.5.0
	rm -rf build/others
	mv build/others.new build/others
	$(BIN)/python examples/others/prepare.py

# An environment with litert-torch (2 GB), for `marram-cloud workshop build --tflite`.
.venv-litert: scripts/setup-litert
	PYTHON=$(PYTHON) scripts/setup-litert

# An environment with TensorFlow and Keras (1.6 GB), for `marram-cloud workshop keras`.
.venv-keras: scripts/setup-keras
	PYTHON=$(PYTHON) scripts/setup-keras

# An environment with tflite-runtime for its part of the tests (Python 3.11 only).
.venv-tflite-runtime: scripts/setup-tflite-runtime
	PYTHON=$(PYTHON) scripts/setup-tflite-runtime

# An environment with onnxruntime-training for benchmarks/zoo.py (x86-64, Python up to 3.12).
.venv-onnxruntime-training: scripts/setup-onnxruntime-training
	PYTHON=$(PYTHON) scripts/setup-onnxruntime-training

.venv/.%: pyproject.toml constraints.txt scripts/setup
	PYTHON=$(PYTHON) scripts/setup $*
	touch $@

clean:
	rm -rf .venv .venv-* build
