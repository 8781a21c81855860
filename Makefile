# What a newcomer needs: `make demo` and `make test`. `make help` lists the rest.
# Tools are pinned here and run with `go run`, so nothing has to be installed by hand.
GOTESTSUM    := go run gotest.tools/gotestsum@v1.13.0
GOLANGCILINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0
BENCHSTAT    := go run golang.org/x/perf/cmd/benchstat@latest

# The embedded ClickHouse and Apache Kafka of the tests live in the user's cache folder (MILLSTREAM_CACHE moves it).
BIN := bin/millstream
FUZZTIME ?= 20s
SEEDS ?= 20

.PHONY: help build demo test race lint fuzz e2e bench docs check clean

help: ## list the targets
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

build: ## build bin/millstream
	@go build -o $(BIN) ./cmd/millstream

demo: build ## play a made-up shop through an embedded pipeline and compare with the truth
	@trap '' INT; $(BIN) demo; status=$$?; [ $$status -eq 130 ] || exit $$status

test: ## all tests; what cannot run here is skipped, and named at the end
	@$(GOTESTSUM) --format pkgname -- -count=1 -timeout 14m ./...

race: ## the concurrent packages under the race detector
	@go test -race -count=1 -short -timeout 14m ./pipeline/... ./sources/... ./sinks/...

e2e: ## only the end-to-end tests, one line each
	@$(GOTESTSUM) --format testname -- -count=1 -timeout 20m ./internal/e2e/...

lint: ## golangci-lint, pinned
	@$(GOLANGCILINT) run

fuzz: ## every fuzz target for FUZZTIME
	@for p in $$(grep -rl '^func Fuzz' --include=*_test.go . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -h '^func Fuzz' $$p/*_test.go | sed 's/func \([A-Za-z0-9_]*\).*/\1/'); do \
	    echo "$$p $$f"; go test $$p -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) || exit 1; done; done

bench: ## the benchmark suite, each next to its ceiling
	@go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./benchmarks/...

check: ## what must be green before a change is done: build, vet, formatting, lint, tests, race
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	@go vet ./...
	@$(MAKE) --no-print-directory lint test race

clean: ## remove what was built and run here
	@rm -rf bin .millstream
