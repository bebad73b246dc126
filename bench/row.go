package main

import (
	"runtime"
	"time"

	"salp/bench/traffic"
)

// row is a kind of traffic and what is counted in it.
type row struct {
	name  string
	what  string // for people
	rate  string // the unit of throughput
	cost  string // the unit of what is compared
	job   traffic.Job
	goals []goal // what Salp must reach
}

// goal is the most that Salp's cost may be, as a multiple of that of another peer.
type goal struct {
	peer string
	most float64
}

// Request and response of the rows that do not say otherwise, in bytes: as a small object asked for by HTTP.
const (
	smallRequest  = 128
	smallResponse = 1024
)

// rows are all there are. The goals are those that the project has set itself.
var rows = []row{
	{
		name: "keepalive", what: "1 KiB responses, 100 connections kept", rate: "requests/s", cost: "µs/request",
		job:   traffic.Job{Connections: 100, Request: smallRequest, Response: smallResponse},
		goals: []goal{{"haproxy", 1.0}},
	},
	{
		name: "echo", what: "64 bytes each way, 50 connections kept", rate: "requests/s", cost: "µs/request",
		job:   traffic.Job{Connections: 50, Request: 64, Response: 64},
		goals: []goal{{"haproxy", 1.0}},
	},
	{
		name: "connect", what: "a connection for each 1 KiB response, 64 at once", rate: "connections/s", cost: "µs/connection",
		job:   traffic.Job{Connections: 64, Request: smallRequest, Response: smallResponse, Reconnect: true},
		goals: []goal{{"haproxy", 0.95}},
	},
	{
		name: "bulk1", what: "one stream from server to client", rate: "GB/s", cost: "ms/GB",
		job:   traffic.Job{Connections: 1, Request: traffic.HeaderSize, Response: traffic.Endless},
		goals: []goal{{"haproxy", 0.35}, {"haproxy-splice", 1.0}},
	},
	{
		name: "bulk8", what: "eight streams from server to client", rate: "GB/s", cost: "ms/GB",
		job:   traffic.Job{Connections: 8, Request: traffic.HeaderSize, Response: traffic.Endless},
		goals: []goal{{"haproxy", 0.35}, {"haproxy-splice", 1.0}},
	},
	{
		name: "idle", what: "3,800 connections that are silent after one request", cost: "kB/connection",
		job:   traffic.Job{Connections: 3800, Request: smallRequest, Response: smallResponse, Hold: true},
		goals: []goal{{"haproxy", 0.25}},
	},
	{
		name: "http1k", what: "HTTP, 1 KiB responses, 100 connections kept", rate: "requests/s", cost: "µs/request",
		job:   traffic.Job{HTTP: true, Connections: 100, Request: smallRequest, Response: smallResponse},
		goals: httpGoals,
	},
	{
		name: "http64k", what: "HTTP, 64 KiB responses, 50 connections kept", rate: "requests/s", cost: "µs/request",
		job:   traffic.Job{HTTP: true, Connections: 50, Request: smallRequest, Response: 64 << 10},
		goals: httpGoals,
	},
	{
		name: "httpconnect", what: "HTTP, a client connection for each 1 KiB response, 64 at once", rate: "requests/s", cost: "µs/request",
		job:   traffic.Job{HTTP: true, Connections: 64, Request: smallRequest, Response: smallResponse, Reconnect: true},
		goals: []goal{{"haproxy", 0.95}, {"squid", 0.3}, {"trafficserver", 0.6}},
	},
	{
		name: "httpidle", what: "HTTP, 1,000 connections that are silent after one request", cost: "kB/connection",
		job:   traffic.Job{HTTP: true, Connections: 1000, Request: smallRequest, Response: smallResponse, Hold: true},
		goals: []goal{{"haproxy", 0.25}},
	},
}

var httpGoals = []goal{{"haproxy", 0.85}, {"squid", 0.3}, {"trafficserver", 0.6}}

func (r row) stream() bool { return r.job.Response == traffic.Endless }

// units converts what the client counted between two moments to the row's unit.
func (r row) units(from, to traffic.Count) float64 {
	if r.stream() {
		return float64(to.Bytes-from.Bytes) / 1e9
	}
	return float64(to.Exchanges - from.Exchanges)
}

// per divides processor time by units, in the row's unit of cost.
func (r row) per(d time.Duration, units float64) float64 {
	scale := time.Microsecond
	if r.stream() {
		scale = time.Millisecond
	}
	return float64(d) / float64(scale) / units
}

// trafficLoops is the number of threads of the client and of the server: two for every four processors, so that the proxy,
// which gets as many threads as there are processors up to two, is what is short of time.
func trafficLoops() int { return max(1, runtime.NumCPU()/2) }

// proxyLoops is the number of threads or processes that every proxy is told to use.
const proxyLoops = 2

// mode is a way to be in the path.
type mode string

const (
	transparent mode = "transparent" // clients dial the server, and the server sees the clients' addresses
	explicit    mode = "explicit"    // clients dial the gateway, and the server sees the gateway's address
	pools       mode = "pools"       // clients dial the gateway, which spreads them over servers that see the clients' addresses
	links       mode = "links"       // clients dial the server, which sees an address of the gateway's: it forwards and translates
)

var (
	modes   = []mode{transparent, explicit, pools, links}
	proxied = []mode{transparent, explicit}
	pooled  = []mode{transparent, explicit, pools}
)

// reference is the contender that others are compared with.
func (m mode) reference() string {
	if m == links {
		return masquerader
	}
	return "haproxy"
}

// bare is the contender that forwards without a process, by which others of that kind are judged.
func (m mode) bare() string {
	if m == links {
		return masquerader
	}
	return "direct"
}

// carries says whether a row makes sense in the mode.
func (m mode) carries(r row) bool { return m != links && m != pools || opaque(r) && !r.job.Hold }

var modeWords = map[mode]string{
	transparent: "clients dial the server, the server sees the client's address",
	explicit:    "clients dial the proxy, the server sees the proxy's address",
	pools:       "clients dial the gateway, which spreads them over three servers, in turn; these see the client's address (direct: clients dial one server)",
	links:       "the gateway forwards, no proxy: by two ways of which each flow is given one (salp), or by one; the goal is about the whole machine's time",
}
