# One command for the book, one for the tests; neither needs a step before it.
PROFILE ?= quick
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' 2>/dev/null && echo $$p && break; done)
PY := $(if $(PYTHON),$(PYTHON),$(error Python 3.11, 3.12 or 3.13 is needed and none was found: install one, or name it with make PYTHON=/path/to/python))
EDGE := $(PY) -m edgeutils

.PHONY: help book run test lab serve lint linkcheck clean
help: ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

book: ## run the stages and build the book into _build/html (PROFILE=full for all data sets)
	@$(EDGE) book --profile $(PROFILE)
run: ## run the stages only (PROFILE=full for all data sets)
	@$(EDGE) run --profile $(PROFILE)
test: ## run the tests
	@$(EDGE) test
lab: ## open the notebooks in JupyterLab
	@$(EDGE) lab
serve: ## show the built book at http://localhost:8000
	@$(EDGE) serve
lint: ## ruff, mypy, codespell and stored outputs
	@$(EDGE) lint
linkcheck: ## check the links to other sites (needs the network)
	@$(EDGE) linkcheck
clean: ## delete what was built; the environment stays
	rm -rf _build results book/status.md .pytest_cache .mypy_cache .ruff_cache
