package metrics

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

const head = `# Metrics

` + "```yaml" + `
metrics: {listen: "127.0.0.1:9101"}
listeners: {mail: {listen: ["10.0.1.1:25"], pool: mail}}
pools: {mail: {servers: ["10.0.2.2:25"]}}
` + "```" + `

serves ` + "`/metrics`" + ` in the text format of Prometheus. The page is served by an unprivileged process, so it goes on while workers change, and the process
that is root parses no HTTP. Counters count from the start of the gateway: a reload, a worker that crashed and an upgrade (` + "`salp upgrade`" + `) set none of
them back. Those of a listener, pool or server that is no longer in the configuration are gone.

Where HAProxy's own exporter has a metric that tells the same, it is named, so that dashboards and alerts can be carried over. HAProxy's labels
` + "`proxy`" + ` and ` + "`server`" + ` become ` + "`listener`" + ` (a frontend), ` + "`pool`" + ` (a backend) and ` + "`server`" + `; ` + "`address`" + ` is beside it because one name can have several
addresses. Sums that HAProxy has for a backend are sums over its servers here:
` + "`sum by (pool) (salp_server_connections)`" + ` is ` + "`haproxy_backend_current_sessions`" + `, and so on.

| Metric | Type | Labels | What it tells | HAProxy |
|---|---|---|---|---|
`

const tail = `
The process that serves the page also tells about itself by nothing but this page: there are no ` + "`go_`" + ` and no ` + "`process_`" + ` metrics.

## Kinds of errors

` + "`salp_listener_errors_total`" + ` counts by ` + "`kind`" + `; a kind that has not happened is not there. About the server: ` + "`connect_refused`, `connect_timeout`, `connect_other`," + `
` + "`server_reset`, `server_lost`, `bad_response`, `response_timeout`, `truncated`, `server_handshake`" + `. About the pool: ` + "`no_server`, `queue_full`, `queue_timeout`, `same_network`" + `. About the
client: ` + "`client_reset`, `client_lost`, `bad_request`, `head_timeout`, `body_timeout`, `not_http`, `proxy_header`, `handshake`" + `. Timeouts: ` + "`idle`, `half_closed`" + `. Limits, the
connection was refused: ` + "`limit_listener`, `limit_client`, `over_rate`, `over_client_rate`, `rate_limit`" + `. Rules: ` + "`denied`" + `. Links: ` + "`no_link`, `link_down`" + `. The
gateway: ` + "`no_port`, `no_name`, `loop`, `no_destination`, `descriptors`, `internal`" + `. A test keeps this list complete.
` + "`salp_server_errors_total`" + ` has those about the server.

## Alerts to begin with

` + "```text" + `
- alert: SalpTakesNothingIn
  expr: salp_up == 0
- alert: SalpServerDown
  expr: salp_server_up == 0 and on (pool, server, address) salp_server_state{state="down"} == 1
- alert: SalpPoolWithoutServers
  expr: sum by (pool) (salp_pool_servers{state="up"}) == 0
- alert: SalpReloadRefused
  expr: salp_last_reload_success == 0
- alert: SalpKernelFight
  expr: rate(salp_kernel_repairs_total[5m]) > 0
` + "```" + `
`

// Reference is the page of documentation, made from the table of metrics.
func Reference() []byte {
	var page strings.Builder
	page.WriteString(head)
	for i := range families {
		f := &families[i]
		kind := "gauge"
		if f.kind == prometheus.CounterValue {
			kind = "counter"
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s | %s |\n", f.name, kind, quoted(f.labels), f.help, quoted(strings.FieldsFunc(f.haproxy, func(r rune) bool { return r == ',' || r == ' ' })))
	}
	page.WriteString(tail)
	return []byte(page.String())
}

func quoted(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return "`" + strings.Join(words, "`, `") + "`"
}
