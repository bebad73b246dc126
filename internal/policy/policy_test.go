package policy_test

import (
	"net/netip"
	"testing"

	"salp/internal/config"
	"salp/internal/listen"
	"salp/internal/policy"
)

var addr = netip.MustParseAddrPort

func TestDecide(t *testing.T) {
	pools := []*config.Pool{
		{Name: "four", Servers: []config.Server{{Address: addr("10.0.2.2:80")}}},
		{Name: "self", Servers: []config.Server{{Address: addr("127.0.0.1:61000")}}},
		{Name: "any", Servers: []config.Server{{Address: addr("10.0.1.1:8080")}}},
	}
	intercept := &config.Intercept{Method: config.MethodTProxy}
	own := listen.NewOwn([]netip.AddrPort{addr("127.0.0.1:61000"), addr("0.0.0.0:8080")})
	own.SetLocal([]netip.Addr{netip.MustParseAddr("10.0.1.1")})
	const upstream, zone = 0x20000000, 0x40000000
	for _, test := range []struct {
		name           string
		listener       config.Listener
		alone          bool // no other listener intercepts
		client, target string
		want           policy.Decision
		refused        listen.Kind
		no             bool
	}{
		{name: "explicit", alone: true, listener: config.Listener{Pool: "four", Source: config.SourceProxy},
			client: "10.0.1.2:4000", target: "10.0.1.1:8000", want: policy.Decision{Server: addr("10.0.2.2:80")}},
		{name: "explicit beside an intercepting one", listener: config.Listener{Pool: "four", Source: config.SourceProxy},
			client: "10.0.1.2:4000", target: "10.0.1.1:8000", want: policy.Decision{Server: addr("10.0.2.2:80"), Mark: upstream}},
		{name: "outbound", alone: true, listener: config.Listener{Pool: "four", Source: config.SourceClient, SourcePort: config.SourcePortAny},
			client: "10.0.1.2:4000", target: "10.0.1.1:8000", want: policy.Decision{Server: addr("10.0.2.2:80"), Source: addr("10.0.1.2:4000"), Mark: upstream}},
		{name: "inbound", listener: config.Listener{Intercept: intercept, Source: config.SourceProxy},
			client: "10.0.1.2:4000", target: "192.0.2.7:443", want: policy.Decision{Server: addr("192.0.2.7:443"), Mark: upstream}},
		{name: "full, keep", listener: config.Listener{Intercept: intercept, Source: config.SourceClient, SourcePort: config.SourcePortKeep},
			client: "10.0.1.2:4000", target: "192.0.2.7:443", want: policy.Decision{Server: addr("192.0.2.7:443"), Source: addr("10.0.1.2:4000"), KeepPort: true, Mark: upstream | zone}},
		{name: "full, require", listener: config.Listener{Intercept: intercept, Source: config.SourceClient, SourcePort: config.SourcePortRequire},
			client: "[fd00:1::2]:4000", target: "[fd00:2::2]:443", want: policy.Decision{Server: addr("[fd00:2::2]:443"), Source: addr("[fd00:1::2]:4000"), KeepPort: true, RequirePort: true, Mark: upstream | zone}},
		{name: "no server of the client's family", listener: config.Listener{Intercept: intercept, Pool: "four", Source: config.SourceClient},
			client: "[fd00:1::2]:4000", target: "[fd00:2::2]:443", no: true, refused: listen.NoDestination},
		{name: "another family is fine for the proxy's address", alone: true, listener: config.Listener{Pool: "four", Source: config.SourceProxy},
			client: "[fd00:1::2]:4000", target: "[fd00:1::1]:80", want: policy.Decision{Server: addr("10.0.2.2:80")}},
		{name: "pool names a listener", listener: config.Listener{Pool: "self", Source: config.SourceProxy}, client: "10.0.1.2:4000", target: "10.0.1.1:80", no: true, refused: listen.Loop},
		{name: "pool names a wildcard listener by an address of the host", listener: config.Listener{Pool: "any", Source: config.SourceProxy}, client: "10.0.1.2:4000", target: "10.0.1.1:80", no: true, refused: listen.Loop},
		{name: "somebody else's port 8080", listener: config.Listener{Intercept: intercept, Source: config.SourceProxy},
			client: "10.0.1.2:4000", target: "192.0.2.7:8080", want: policy.Decision{Server: addr("192.0.2.7:8080"), Mark: upstream}},
		{name: "loopback on a wildcard listener", listener: config.Listener{Intercept: intercept, Source: config.SourceProxy},
			client: "10.0.1.2:4000", target: "127.0.0.9:8080", no: true, refused: listen.Loop},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.listener.Name = "l"
			c := &config.Config{Pools: pools, Listeners: []*config.Listener{&test.listener}, Kernel: config.Kernel{Marks: 0xf0000000}}
			if !test.alone {
				c.Listeners = append(c.Listeners, &config.Listener{Name: "other", Intercept: intercept})
			}
			f := &listen.Flow{Client: addr(test.client), Original: addr(test.target)}
			d, kind, ok := policy.New(c, own)["l"].Decide(f)
			switch {
			case ok == test.no || (test.no && kind != test.refused):
				t.Errorf("decided %v, kind %d", ok, kind)
			case !test.no && d != test.want:
				t.Errorf("%+v, want %+v", d, test.want)
			}
		})
	}
}

// Marks are taken out of any mask of four bits, in the order that package plan has.
func TestMarksOfAnyMask(t *testing.T) {
	l := &config.Listener{Name: "l", Intercept: &config.Intercept{}, Source: config.SourceClient, SourcePort: config.SourcePortKeep}
	c := &config.Config{Listeners: []*config.Listener{l}, Kernel: config.Kernel{Marks: 0x80010104}}
	d, _, _ := policy.New(c, listen.NewOwn(nil))["l"].Decide(&listen.Flow{Client: addr("10.0.0.1:1"), Original: addr("10.0.0.2:2")})
	if d.Mark != 0x00010100 {
		t.Errorf("mark %#x, want %#x", d.Mark, 0x00010100)
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	l := &config.Listener{Name: "l", Intercept: &config.Intercept{}, Source: config.SourceClient, SourcePort: config.SourcePortKeep}
	r := policy.New(&config.Config{Listeners: []*config.Listener{l}, Kernel: config.Kernel{Marks: 0xf0000000}}, listen.NewOwn([]netip.AddrPort{addr("127.0.0.1:61000")}))["l"]
	f := &listen.Flow{Client: addr("10.0.0.1:1"), Original: addr("10.0.0.2:2")}
	if n := testing.AllocsPerRun(100, func() { r.Decide(f) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
