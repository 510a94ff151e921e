# Two commands: `make demo` and `make test`. Both set up .venv first; nothing outside this folder is touched.

bin := .venv/bin
# Threads that wait sleep: spinning ones take the cores from each other where other work runs.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo test lint docs lock clean

help:
	@echo 'make demo    set up, distil the bundled digits, judge the result, say where the report lies'
	@echo 'make test    set up, run the tests (ARGS="-k name" for some of them)'
	@echo 'make lint    ruff'
	@echo 'make docs    write the generated parts of the documentation anew'
	@echo 'make lock    write requirements.lock anew'
	@echo 'make clean   remove .venv and what the demo made'

.venv/.installed: requirements.lock pyproject.toml tools/install
	@bash tools/install

demo: export OMP_NUM_THREADS ?= 1
demo: .venv/.installed
	$(bin)/datadistill distill digits --method dm --ipc 10 --out demo/digits
	$(bin)/datadistill evaluate demo/digits --data digits --protocol quick
	@echo "The report: $(CURDIR)/demo/digits/report.html"

# One thread: the tests' tensors are tiny, and some start several processes at once.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(bin)/python -m pytest $(ARGS)

lint: .venv/.installed
	$(bin)/ruff check src tests tools examples

docs: .venv/.installed
	$(bin)/python tools/reference.py

lock:
	bash tools/lock

clean:
	rm -rf .venv demo
