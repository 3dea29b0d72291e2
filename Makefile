# Floe's targets. `make` alone lists them.

GO      ?= go
PKG     ?= ./...
# Flags for every go test below, such as GOFLAGS_TEST=-json.
GOFLAGS_TEST ?=
TAGS    := integration
# A module of its own, which checks the folder deploy.
DEPLOY  := integration/deploy

# The race detector needs a C compiler; without one the tests run all the same.
RACE    := $(shell [ "$$($(GO) env CGO_ENABLED)" = 1 ] && command -v "$$($(GO) env CC | cut -d' ' -f1)" >/dev/null 2>&1 && echo -race)

# Tests over many hours of virtual time, in ./agent, which skip themselves under the race detector.
HOURS   := ^(TestSlowPartitionsDoNotKeepDeadSegments|TestAnIdleClusterAsksNothingOfTheObjectStore|TestSparseSegmentsAreToldUntilAllHaveHeard)$$

# With the race detector, packages whose tests have bubbles of virtual time get one thread each: it
# crashes at times when two threads fire timers of the same bubble (golang/go#78156).
IMPORTS = $(GO) list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}} ' $(PKG)
BUBBLES = $$($(IMPORTS) | sed -n 's/ .* testing\/synctest .*//p')
OTHERS  = $$($(IMPORTS) | sed '/ testing\/synctest /d; s/ .*//')

.DEFAULT_GOAL := help
.PHONY: help build run test check integration torture torture-planted bench bench-go fuzz sim docs manifests clean

help: ## list the targets
	@echo 'make TARGET, where TARGET is'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  %-12s %s\n' "$$name" "$$what"; done

build: ## build bin/floe, static
	@echo '==> building bin/floe'
	@CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -o bin/floe ./cmd/floe

run: build ## build and start floe dev; ARGS='--agents 3' adds flags
	@bin/floe dev $(ARGS)

test: ## run the tests, which need only Go and make
	@echo '==> tests of $(PKG)$(if $(RACE), with the race detector, without the race detector: it needs a C compiler)'
ifeq ($(RACE),)
	@$(GO) test -timeout 20m $(GOFLAGS_TEST) $(PKG)
else
	@code=0; bubbles="$(BUBBLES)" others="$(OTHERS)"; \
		[ -z "$$others" ] || $(GO) test -race -timeout 20m $(GOFLAGS_TEST) $$others || code=1; \
		[ -z "$$bubbles" ] || $(GO) test -race -cpu 1 -timeout 20m $(GOFLAGS_TEST) $$bubbles || code=1; \
		$(GO) test -timeout 10m -run '$(HOURS)' $(GOFLAGS_TEST) ./agent || code=1; exit $$code
endif

check: ## formatting, vet, staticcheck, go.mod
	@echo '==> gofmt'
	@bad="$$(gofmt -l $$($(GO) list -f '{{.Dir}}' -tags $(TAGS) ./...) $(DEPLOY))"; [ -z "$$bad" ] || { echo "not formatted (run gofmt -w):"; echo "$$bad"; exit 1; }
	@echo '==> go vet'
	@$(GO) vet ./...
	@$(GO) vet -tags $(TAGS) ./...
	@cd $(DEPLOY) && $(GO) vet -tags $(TAGS) ./...
	@echo '==> staticcheck'
	@$(GO) tool staticcheck ./...
	@$(GO) tool staticcheck -tags $(TAGS) ./...
	@$(GO) build -o bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	@cd $(DEPLOY) && $(CURDIR)/bin/staticcheck -tags $(TAGS) ./...
	@echo '==> go mod tidy'
	@$(GO) mod tidy -diff
	@cd $(DEPLOY) && $(GO) mod tidy -diff

integration: ## run the tests against real etcd, MinIO and clients
	@echo '==> integration tests'
	@code=0; $(GO) test -tags $(TAGS) -count=1 -p 1 -timeout 40m $(GOFLAGS_TEST) ./integration/... || code=1; \
		cd $(DEPLOY) && $(GO) test -tags $(TAGS) -count=1 -timeout 10m $(GOFLAGS_TEST) ./... || code=1; exit $$code

torture: ## fire every fault at a cluster under load and judge the history (10 min); TORTURE_ARGS='-for 1h -seed 7' adds flags
	@$(GO) run ./integration/torture $(TORTURE_ARGS)

torture-planted: ## prove that torture finds bugs: plant each one, see it caught (20 min); PLANTED=name,name chooses
	@$(GO) test -tags planted ./cmd/floe/planted
	@$(GO) run ./integration/torture -planted $(or $(PLANTED),all) $(TORTURE_ARGS)

bench: $(if $(BENCH),bench-go) ## measure Floe from outside, one table (15 min); BENCH_ARGS='-quick' adds flags
	@$(if $(BENCH),:,$(GO) run ./integration/bench $(BENCH_ARGS))

bench-go: ## run the Go benchmarks; BENCH=regexp and PKG=./dir choose
	@echo '==> benchmarks of $(PKG)'
	@$(GO) test -run '^$$' -bench '$(or $(BENCH),.)' -benchmem $(PKG)

fuzz: ## run each fuzz target for FUZZTIME (10s); FUZZ=regexp chooses
	@set -e; grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|/[^/]*:func |:|' | sort -u | while IFS=: read -r dir name; do \
		if ! echo "$$name" | grep -qE '$(or $(FUZZ),.)'; then continue; fi; \
		echo "==> fuzzing $$dir $$name for $(or $(FUZZTIME),10s)"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(or $(FUZZTIME),10s) "$$dir" </dev/null; \
	done

sim: ## run the simulation over SEEDS (100) seeds; SEED=n replays one
	@echo '==> simulation, $(if $(SEED),seed $(SEED),$(or $(SEEDS),100) seeds)'
	@$(GO) test -count=1 -timeout 60m -v ./integration/sim -args $(if $(SEED),-seed=$(SEED),-seeds=$(or $(SEEDS),100))

docs: ## write docs/configuration.md and docs/doctor.md from the tables in the code
	@mkdir -p bin
	@$(GO) run ./cmd/floe settings --markdown >bin/configuration.md && mv bin/configuration.md docs/configuration.md
	@$(GO) run ./cmd/floe doctor --markdown >bin/doctor.md && mv bin/doctor.md docs/doctor.md

manifests: ## write deploy/kubernetes/floe.yaml from the Helm chart
	@cd $(DEPLOY) && $(GO) run ./render $(CURDIR)

clean: ## delete bin and cached test results; .cache (etcd, MinIO) stays
	@rm -rf bin
	@$(GO) clean -testcache
