VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
VOICE := src/codec_lm_hf/pretrained/tts/voice.ogg
export OMP_NUM_THREADS ?= 2
# So that no make target reaches a hub by accident.
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint format setup test-transformers benchmark clean

demo: $(VENV)/.demo
	$(BIN)/codec-lm roundtrip --output out
	$(BIN)/codec-lm generate --text "three one four one five" --prompt $(VOICE) --output out/spoken.wav

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-transformers: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.transformers_suite.run

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[benchmark]"
	$(BIN)/python -m pip install --quiet --no-deps speechtokenizer==1.0.1 descript-audio-codec==1.0.0 funcodec==0.2.0
	$(BIN)/python benchmarks/codec_speed.py

setup: $(VENV)/.dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch first: with the pinned build in place, nothing that follows pulls another one.
$(VENV)/.torch: $(VENV)/bin/python constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[metrics,demo,gruut]"
	touch $@

# EnCodec's own program writes .ecdc files beside ours in a test; of what it depends on, nothing is needed for that.
$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps encodec==0.1.1
	touch $@

clean:
	rm -rf $(VENV) out dist build
