package config

import (
	"fmt"
	"net/netip"
)

// Metrics says where the page for Prometheus is and who may read it.
type Metrics struct {
	Listen netip.AddrPort
	From   []netip.Prefix // empty: this machine alone, as Listen is a loopback address
}

// maxReaders bounds who may read the metrics.
const maxReaders = 256

// metricsField is the key metrics of the file.
var metricsField = prop(entry{key: "metrics", absent: "none are served",
	doc: "A page for Prometheus at `/metrics`, in its text format. docs/metrics.md lists what it holds, and which metric takes the place of which " +
		"one of HAProxy. Counters go on over a reload and an upgrade.",
	example: `metrics: {listen: "127.0.0.1:9101"}`,
	aka:     []string{"prometheus", "stats"},
}, optional(metricsKeys), func(c *Config) **Metrics { return &c.Metrics })

var metricsKeys = mapping(nil,
	prop(entry{key: "listen", required: true,
		doc:     "The address and port of the page. It speaks plain HTTP and asks for no password.",
		watch:   "An address that other machines reach needs `from`.",
		example: `listen: "127.0.0.1:9101"`,
		aka:     []string{"bind", "address"},
	}, address(true), func(m *Metrics) *netip.AddrPort { return &m.Listen }),
	prop(entry{key: "from", absent: "this machine alone",
		doc:     "Who may read the page, by address or prefix. Connections of others are closed at once.",
		example: "from: [10.0.9.0/24]",
		aka:     []string{"allow", "allowed"},
	}, list("prefixes", prefix(), maxReaders), func(m *Metrics) *[]netip.Prefix { return &m.From }),
)

// metrics checks where the page for Prometheus is.
func (c *checker) metrics() {
	m, at := c.cfg.Metrics, Path{"metrics"}
	if m == nil || !m.Listen.IsValid() {
		return
	}
	if !m.Listen.Addr().IsLoopback() && !c.has(at.with("from")) {
		c.fault(at.with("listen"), fmt.Sprintf("metrics on %s could be read by every machine that reaches it", m.Listen),
			"add  from: [PREFIX, …]  with who may read them, or listen on 127.0.0.1")
	}
	if name, taken := c.byAddress[m.Listen]; taken {
		c.fault(at.with("listen"), fmt.Sprintf("%s is where listener %s listens", m.Listen, name), "choose another port")
	}
}
