package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"salp/internal/admin"
	"salp/internal/control"
)

// family is one metric: what it is called, what it means, what a user of HAProxy knows it as, and where its values are in a status.
type family struct {
	name    string
	help    string
	kind    prometheus.ValueType
	labels  []string
	haproxy string // names of haproxy's exporter, "" when it has none
	values  func(s *admin.Status, emit emit)
}

// emit gives one value with its labels, in the order of the family's.
type emit func(value float64, labels ...string)

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// families are all metrics, in the order of the documentation.
var families = slicesOf(gatewayFamilies, listenerFamilies, poolFamilies, serverFamilies, linkFamilies)

func slicesOf(parts ...[]family) (all []family) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

var gatewayFamilies = []family{
	{"salp_info", "The version that runs; always 1.", gauge, []string{"version"}, "haproxy_process_build_info",
		func(s *admin.Status, emit emit) { emit(1, s.Version) }},
	{"salp_start_time_seconds", "When the gateway was started, in seconds since 1970. An upgrade is no start.", gauge, nil, "haproxy_process_start_time_seconds",
		func(s *admin.Status, emit emit) { emit(unix(s.Since)) }},
	{"salp_up", "Whether new connections are carried: a worker answers and takes them in (1) or not (0).", gauge, nil, "",
		func(s *admin.Status, emit emit) { emit(truth(s.Alive)) }},
	{"salp_generation", "The number of the configuration in force; every reload that is taken adds one.", gauge, nil, "",
		func(s *admin.Status, emit emit) { emit(float64(s.Generation)) }},
	{"salp_reloads_total", "Reloads, by whether the new configuration was taken (good) or refused (refused).", counter, []string{"outcome"}, "",
		func(s *admin.Status, emit emit) {
			emit(float64(s.Reloads.Good), "good")
			emit(float64(s.Reloads.Refused), "refused")
		}},
	{"salp_last_reload_success", "Whether the last reload was taken (1) or refused (0); 1 when there was none.", gauge, nil, "",
		func(s *admin.Status, emit emit) { emit(truth(s.Reload == nil || s.Reload.Good)) }},
	{"salp_upgrades_total", "Upgrades that were tried.", counter, nil, "",
		func(s *admin.Status, emit emit) {
			if s.Upgrade == nil {
				emit(0)
				return
			}
			emit(float64(s.Upgrade.Number))
		}},
	{"salp_workers", "Worker processes, by state and the version they were started from. More than one runs while older ones drain.", gauge,
		[]string{"state", "version"}, "haproxy_process_workers", workerValues(func(admin.Worker) float64 { return 1 })},
	{"salp_worker_connections", "Connections that are open, by the state and version of the worker that carries them.", gauge,
		[]string{"state", "version"}, "haproxy_process_current_connections", workerValues(func(w admin.Worker) float64 { return float64(w.Connections) })},
	{"salp_worker_restarts_total", "Workers that were replaced because they had ended or hung.", counter, nil, "haproxy_process_failed_workers_total",
		func(s *admin.Status, emit emit) { emit(float64(s.Restarts)) }},
	{"salp_kernel_needed", "Whether the configuration wants something in the kernel (1) or not (0).", gauge, nil, "",
		func(s *admin.Status, emit emit) { emit(truth(s.Kernel.Needed)) }},
	{"salp_kernel_repairs_total", "Things that another program had changed in the kernel and that Salp put back.", counter, nil, "",
		func(s *admin.Status, emit emit) { emit(float64(s.Kernel.Repaired)) }},
	{"salp_kernel_faulty", "Whether the kernel could not be brought to the plan at the last try (1).", gauge, nil, "",
		func(s *admin.Status, emit emit) { emit(truth(s.Kernel.Error != "")) }},
}

// workerValues sums over the workers of the same state and version.
func workerValues(value func(admin.Worker) float64) func(*admin.Status, emit) {
	return func(s *admin.Status, emit emit) {
		type key struct{ state, version string }
		var order []key
		sums := map[key]float64{}
		for _, w := range s.Workers {
			k := key{string(w.State), w.Version}
			if _, seen := sums[k]; !seen {
				order = append(order, k)
			}
			sums[k] += value(w)
		}
		for _, k := range order {
			emit(sums[k], k.state, k.version)
		}
	}
}

var listenerFamilies = []family{
	{"salp_listener_info", "What a listener does; always 1.", gauge, []string{"listener", "mode", "source", "pool"}, "haproxy_frontend_status",
		listeners(func(l *admin.Listener, emit emit) { emit(1, l.Name, l.Mode, l.Source, l.Pool) })},
	ofListener("salp_listener_connections_total", "Connections that were accepted.", counter,
		"haproxy_frontend_connections_total, haproxy_frontend_sessions_total", func(l *admin.Listener) float64 { return float64(l.Counters.Accepted) }),
	ofListener("salp_listener_connections", "Connections that are open.", gauge,
		"haproxy_frontend_current_sessions", func(l *admin.Listener) float64 { return float64(l.Counters.Active) }),
	ofListener("salp_listener_limit_connections", "Connections that may be open at once; 0 when there is no bound.", gauge,
		"haproxy_frontend_limit_sessions", func(l *admin.Listener) float64 { return float64(l.Limits.Connections) }),
	ofListener("salp_listener_limit_connections_per_client", "Connections that one client address may have open at once; 0 when there is no bound.", gauge,
		"", func(l *admin.Listener) float64 { return float64(l.Limits.PerClient) }),
	ofListener("salp_listener_limit_connection_rate", "New connections that may come in a second; 0 when there is no bound.", gauge,
		"haproxy_frontend_limit_session_rate", func(l *admin.Listener) float64 { return float64(l.Limits.Rate) }),
	ofListener("salp_listener_limit_connection_rate_per_client", "New connections that may come in a second from one client address; 0 when there is no bound.", gauge,
		"", func(l *admin.Listener) float64 { return float64(l.Limits.ClientRate) }),
	bytesOfListener("salp_listener_bytes_in_total", "Bytes that clients sent to servers. Listeners with offload have none: nobody counts them.",
		"haproxy_frontend_bytes_in_total", func(l *admin.Listener) float64 { return float64(l.Counters.BytesIn) }),
	bytesOfListener("salp_listener_bytes_out_total", "Bytes that servers sent to clients. Listeners with offload have none: nobody counts them.",
		"haproxy_frontend_bytes_out_total", func(l *admin.Listener) float64 { return float64(l.Counters.BytesOut) }),
	ofListener("salp_listener_retries_total", "Connects to servers that failed and were made again before the client noticed.", counter,
		"haproxy_backend_retry_warnings_total", func(l *admin.Listener) float64 { return float64(l.Counters.Retries) }),
	ofListener("salp_listener_ports_kept_total", "Connections to servers that have the client's port.", counter,
		"", func(l *admin.Listener) float64 { return float64(l.Counters.PortKept) }),
	ofListener("salp_listener_ports_replaced_total", "Connections to servers that had to take another port than the client's.", counter,
		"", func(l *admin.Listener) float64 { return float64(l.Counters.PortFallbacks) }),
	ofListener("salp_listener_accept_queue", "Connections that wait to be accepted.", gauge,
		"", func(l *admin.Listener) float64 { return float64(l.Queue.Waiting) }),
	ofListener("salp_listener_accept_drops_total", "SYNs and connections that the kernel dropped because that queue was full, or for want of memory.", counter,
		"", func(l *admin.Listener) float64 { return float64(l.Queue.Dropped) }),
	ofListener("salp_listener_http_requests_total", "HTTP requests.", counter,
		"haproxy_frontend_http_requests_total", func(l *admin.Listener) float64 { return float64(l.Counters.Requests) }),
	{"salp_listener_http_responses_total", "HTTP responses to clients, by the class of their status; none: the request got no response.", counter, []string{"listener", "code"},
		"haproxy_frontend_http_responses_total", listeners(func(l *admin.Listener, emit emit) {
			for i, n := range l.Counters.Statuses {
				emit(float64(n), l.Name, [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}[i])
			}
		})},
	ofListener("salp_listener_http_reused_total", "HTTP requests that went to a server by a connection that was open already.", counter,
		"haproxy_backend_connection_reuses_total", func(l *admin.Listener) float64 { return float64(l.Counters.Reused) }),
	ofListener("salp_listener_http_tunnels_total", "Connections to an HTTP listener that became opaque: CONNECT, upgrades, and what is not HTTP.", counter,
		"", func(l *admin.Listener) float64 { return float64(l.Counters.Tunnels) }),
	{"salp_listener_errors_total", "Connections that ended by an error or were refused, by kind: see below.", counter, []string{"listener", "kind"},
		"haproxy_frontend_connections_rejected_total, haproxy_frontend_denied_connections_total, haproxy_frontend_request_errors_total",
		listeners(func(l *admin.Listener, emit emit) {
			for kind, n := range l.Counters.Errors {
				emit(float64(n), l.Name, kind)
			}
		})},
}

func ofListener(name, help string, kind prometheus.ValueType, haproxy string, value func(*admin.Listener) float64) family {
	return family{name, help, kind, []string{"listener"}, haproxy, listeners(func(l *admin.Listener, emit emit) { emit(value(l), l.Name) })}
}

// bytesOfListener leaves out those whose bytes are not counted: a 0 would be wrong.
func bytesOfListener(name, help, haproxy string, value func(*admin.Listener) float64) family {
	return family{name, help, counter, []string{"listener"}, haproxy, listeners(func(l *admin.Listener, emit emit) {
		if !l.Offloaded {
			emit(value(l), l.Name)
		}
	})}
}

func listeners(values func(*admin.Listener, emit)) func(*admin.Status, emit) {
	return func(s *admin.Status, emit emit) {
		for i := range s.Listeners {
			values(&s.Listeners[i], emit)
		}
	}
}

var poolFamilies = []family{
	{"salp_pool_servers", "Servers of a pool, each address of a name for itself, by state.", gauge, []string{"pool", "state"},
		"haproxy_backend_active_servers, haproxy_backend_backup_servers",
		pools(func(p *admin.Pool, emit emit) {
			for _, state := range serverStates {
				n := 0
				for i := range p.Servers {
					if p.Servers[i].State == state {
						n++
					}
				}
				emit(float64(n), p.Name, string(state))
			}
		})},
	ofPool("salp_pool_queue", "Connections that wait for a place on one of the servers, whichever has one first.", gauge,
		"haproxy_backend_current_queue, haproxy_server_current_queue", func(p *admin.Pool) float64 { return float64(p.Queued) }),
	ofPool("salp_pool_queue_timeouts_total", "Connections that waited in vain.", counter,
		"", func(p *admin.Pool) float64 { return float64(p.QueueTimeouts) }),
	ofPool("salp_pool_queue_full_total", "Connections that found the queue full.", counter,
		"", func(p *admin.Pool) float64 { return float64(p.QueueFull) }),
	ofPool("salp_pool_no_server_total", "Connections that found no server fit for them.", counter,
		"haproxy_backend_connection_errors_total", func(p *admin.Pool) float64 { return float64(p.NoServer) }),
}

var serverStates = []control.ServerState{control.ServerUp, control.ServerDown, control.ServerDrain, control.ServerMaint}

func ofPool(name, help string, kind prometheus.ValueType, haproxy string, value func(*admin.Pool) float64) family {
	return family{name, help, kind, []string{"pool"}, haproxy, pools(func(p *admin.Pool, emit emit) { emit(value(p), p.Name) })}
}

func pools(values func(*admin.Pool, emit)) func(*admin.Status, emit) {
	return func(s *admin.Status, emit emit) {
		for i := range s.Pools {
			values(&s.Pools[i], emit)
		}
	}
}

var serverFamilies = []family{
	{"salp_server_state", "1 for the state that a server is in, 0 for the others.", gauge, []string{"pool", "server", "address", "state"}, "haproxy_server_status",
		servers(func(p *admin.Pool, s *admin.PoolServer, emit emit) {
			for _, state := range serverStates {
				emit(truth(s.State == state), p.Name, s.Name, s.Address, string(state))
			}
		})},
	ofServer("salp_server_up", "Whether a server takes new connections (1) or not (0).", gauge,
		"haproxy_server_status", func(s *admin.PoolServer) float64 { return truth(s.State == control.ServerUp) }),
	ofServer("salp_server_weight", "The share of a server as configured.", gauge,
		"haproxy_server_weight", func(s *admin.PoolServer) float64 { return float64(s.Weight) }),
	ofServer("salp_server_connections_total", "Connections to a server that were made.", counter,
		"haproxy_server_sessions_total, haproxy_server_connection_attempts_total", func(s *admin.PoolServer) float64 { return float64(s.Connections) }),
	ofServer("salp_server_connections", "Connections to a server that are open.", gauge,
		"haproxy_server_current_sessions", func(s *admin.PoolServer) float64 { return float64(s.Active) }),
	ofServer("salp_server_limit_connections", "Connections that a server may have at once; 0 when there is no bound.", gauge,
		"haproxy_server_limit_sessions", func(s *admin.PoolServer) float64 { return float64(s.MaxConnections) }),
	bytesOfServer("salp_server_bytes_in_total", "Bytes that were sent to a server. Servers of a listener with offload have none: nobody counts them.",
		"haproxy_server_bytes_in_total", func(s *admin.PoolServer) float64 { return float64(s.BytesIn) }),
	bytesOfServer("salp_server_bytes_out_total", "Bytes that a server sent. Servers of a listener with offload have none: nobody counts them.",
		"haproxy_server_bytes_out_total", func(s *admin.PoolServer) float64 { return float64(s.BytesOut) }),
	ofServer("salp_server_retries_total", "Connects to a server that failed and went on to another.", counter,
		"haproxy_server_retry_warnings_total, haproxy_server_redispatch_warnings_total", func(s *admin.PoolServer) float64 { return float64(s.Retries) }),
	ofServer("salp_server_same_network_total", "Connections of clients that a server would have answered past Salp: see same_network.", counter,
		"", func(s *admin.PoolServer) float64 { return float64(s.SameNetwork) }),
	{"salp_server_errors_total", "Errors of a server, by kind: see below.", counter, []string{"pool", "server", "address", "kind"},
		"haproxy_server_connection_errors_total, haproxy_server_response_errors_total",
		servers(func(p *admin.Pool, s *admin.PoolServer, emit emit) {
			for kind, n := range s.Errors {
				emit(float64(n), p.Name, s.Name, s.Address, kind)
			}
		})},
	ofServer("salp_server_downs_total", "How often a server went down.", counter,
		"haproxy_server_check_up_down_total", func(s *admin.PoolServer) float64 { return float64(s.Downs) }),
	{"salp_server_check_duration_seconds", "How long the last check of a server took.", gauge, []string{"pool", "server", "address"},
		"haproxy_server_check_duration_seconds", servers(func(p *admin.Pool, s *admin.PoolServer, emit emit) {
			if s.Checked != nil {
				emit(s.Checked.Took, p.Name, s.Name, s.Address)
			}
		})},
	{"salp_server_check_success", "Whether the last check of a server was good (1) or not (0).", gauge, []string{"pool", "server", "address"},
		"haproxy_server_check_status", servers(func(p *admin.Pool, s *admin.PoolServer, emit emit) {
			if s.Checked != nil {
				emit(truth(s.Checked.Error == ""), p.Name, s.Name, s.Address)
			}
		})},
}

func ofServer(name, help string, kind prometheus.ValueType, haproxy string, value func(*admin.PoolServer) float64) family {
	return family{name, help, kind, []string{"pool", "server", "address"}, haproxy,
		servers(func(p *admin.Pool, s *admin.PoolServer, emit emit) { emit(value(s), p.Name, s.Name, s.Address) })}
}

// bytesOfServer is bytesOfListener for a server.
func bytesOfServer(name, help, haproxy string, value func(*admin.PoolServer) float64) family {
	return family{name, help, counter, []string{"pool", "server", "address"}, haproxy, servers(func(p *admin.Pool, s *admin.PoolServer, emit emit) {
		if !s.Offloaded {
			emit(value(s), p.Name, s.Name, s.Address)
		}
	})}
}

func servers(values func(*admin.Pool, *admin.PoolServer, emit)) func(*admin.Status, emit) {
	return pools(func(p *admin.Pool, emit emit) {
		for i := range p.Servers {
			values(p, &p.Servers[i], emit)
		}
	})
}

var linkFamilies = []family{
	ofLink("salp_link_up", "Whether a link is used (1) or not (0).", gauge, func(l *admin.Link) float64 { return truth(l.Up) }),
	ofLink("salp_link_weight", "The share of a link as configured.", gauge, func(l *admin.Link) float64 { return float64(l.Weight) }),
	ofLink("salp_link_share_ratio", "The share of new flows that a link gets now of those that are spread over all links, 0 to 1.", gauge,
		func(l *admin.Link) float64 { return l.Share }),
	ofLink("salp_link_rtt_seconds", "Mean round trip of the last probes through a link; 0 when it is not known.", gauge, func(l *admin.Link) float64 { return l.RTT }),
	ofLink("salp_link_loss_ratio", "Share of the last probes through a link that were lost, 0 to 1.", gauge, func(l *admin.Link) float64 { return l.Loss }),
	ofLink("salp_link_downs_total", "How often a link went down.", counter, func(l *admin.Link) float64 { return float64(l.Downs) }),
	ofLink("salp_link_flows_total", "Flows that were sent over a link.", counter, func(l *admin.Link) float64 { return float64(l.Flows) }),
	ofLink("salp_link_bytes_in_total", "Bytes that came by a link.", counter, func(l *admin.Link) float64 { return float64(l.BytesIn) }),
	ofLink("salp_link_bytes_out_total", "Bytes that went by a link.", counter, func(l *admin.Link) float64 { return float64(l.BytesOut) }),
	ofLink("salp_link_leaked_packets_total", "Packets that were dropped because they would have left with a source that is not the link's.", counter,
		func(l *admin.Link) float64 { return float64(l.Leaked) }),
	{"salp_links_refused_packets_total", "Packets that were refused because no link was up that their flow may use.", counter, nil, "",
		func(s *admin.Status, emit emit) {
			if s.Linkless != nil {
				emit(float64(s.Linkless.Refused))
			}
		}},
	{"salp_links_blackhole_packets_total", "Packets that a rule of `balance` sent to `blackhole`.", counter, nil, "",
		func(s *admin.Status, emit emit) {
			if s.Linkless != nil {
				emit(float64(s.Linkless.Dropped))
			}
		}},
}

func ofLink(name, help string, kind prometheus.ValueType, value func(*admin.Link) float64) family {
	return family{name, help, kind, []string{"link"}, "", func(s *admin.Status, emit emit) {
		for i := range s.Links {
			emit(value(&s.Links[i]), s.Links[i].Name)
		}
	}}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
