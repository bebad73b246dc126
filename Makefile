# Salp. The two commands to know: make demo, make test.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Both need root for network namespaces; as another user they ask sudo.
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: build demo test short bench bench-quick lint fuzz generate clean

build: ## bin/salp, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/salp ./cmd/salp

demo: build ## watch real connections pass through a gateway, in private namespaces (SCENE=mail: a mail cluster)
	$(SUDO) ./bin/salp demo $(SCENE)

test: build ## everything: unit tests, goldens, and packets in namespaces (installs the peers it needs when it may)
	./scripts/test

short: ## the quick half of the tests, without root
	$(GO) test -short ./...

bench: build ## Salp beside HAProxy, nginx, Squid and Traffic Server in one run
	./scripts/install-peers haproxy nginx libnginx-mod-stream squid trafficserver
	$(GO) build -o bin/bench ./bench
	$(SUDO) ./bin/bench -salp bin/salp

bench-quick: build
	./scripts/install-peers haproxy nginx libnginx-mod-stream squid trafficserver
	$(GO) build -o bin/bench ./bench
	$(SUDO) ./bin/bench -salp bin/salp -quick

lint: ## go vet and staticcheck
	./scripts/lint

fuzz: ## every fuzz target for half a minute
	./scripts/fuzz 30s

generate: ## the reference pages and the JSON Schema, from the tables and the types
	$(GO) test ./internal/config ./internal/metrics ./internal/admin -run 'Generated|Document' -update

clean:
	rm -rf bin
