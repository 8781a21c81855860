# What a newcomer needs: `make demo` and `make test`. `make help` lists the rest.
# Tools are pinned here and run with `go run`, so nothing has to be installed by hand.
GOTESTSUM    := go run gotest.tools/gotestsum@v1.13.0
GOLANGCILINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0

# The embedded ClickHouse and Apache Kafka of the tests live in the user's cache folder (MILLSTREAM_CACHE moves it).
BIN := bin/millstream
FUZZTIME ?= 20s
ROUNDS ?= 1

.PHONY: help build demo test race lint fuzz e2e chaos bench docs check clean

help: ## list the targets
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

build: ## build bin/millstream
	@test -x $(BIN) || echo "Building $(BIN); the first time takes some minutes."
	@go build -o $(BIN) ./cmd/millstream

# With job control the terminal's Ctrl-C goes to the demo and not to make, which would call it an error.
demo: build ## play a made-up shop through an embedded pipeline and compare with the truth
	@if [ -t 0 ]; then set -m; fi; $(BIN) demo; status=$$?; [ $$status -eq 130 ] || exit $$status

test: ## all tests; what cannot run here is skipped, and named at the end
	@$(GOTESTSUM) --format pkgname -- -count=1 -timeout 20m ./...

# The end-to-end tests build the program with GOFLAGS; a race ends it, and the test with it.
race: ## the concurrent packages and the whole program under the race detector, without the longest tests
	@go test -race -short -count=1 -timeout 14m ./pipeline/... ./sources/... ./sinks/... ./internal/chdb
	@GOFLAGS=-race GORACE=halt_on_error=1 go test -short -count=1 -timeout 14m -run 'Demo|DeadReceiver|BadEvents' ./internal/e2e

lint: ## golangci-lint, pinned
	@$(GOLANGCILINT) run

fuzz: ## every fuzz target for FUZZTIME
	@for p in $$(grep -rl '^func Fuzz' --include=*_test.go . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -h '^func Fuzz' $$p/*_test.go | sed 's/func \([A-Za-z0-9_]*\).*/\1/'); do \
	    echo "$$p $$f"; go test $$p -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) || exit 1; done; done

e2e: ## only the end-to-end tests, one line each
	@$(GOTESTSUM) --format testname -- -count=1 -timeout 20m ./internal/e2e

chaos: ## only the tests that kill processes or take servers away, ROUNDS times, one line each
	@$(GOTESTSUM) --format testname -- -count=$(ROUNDS) -timeout $(ROUNDS)h -run 'Kill|Away|Outage|DeadReceiver|DeadEndpoint|Down|Lost|Zombie|Undecided' \
	  ./internal/e2e ./sinks/... ./pipeline/broker

bench: ## the benchmark suite, each next to its ceiling
	@go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./benchmarks

docs: ## are the pages true: links, named tests and targets, examples, keys, flags
	@go test -count=1 ./internal/docs && go test -count=1 -run 'Docs|Examples|Reference' ./cmd/millstream

check: ## what must be green before a change is done: formatting, vet, lint, docs, tests, race
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	@go vet ./...
	@$(MAKE) --no-print-directory lint docs test race

clean: ## remove what was built and run here
	@rm -rf bin .millstream
