package policy_test

import (
	"net/netip"
	"reflect"
	"testing"

	"salp/internal/config"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
)

var addr = netip.MustParseAddrPort

func TestDecide(t *testing.T) {
	four := pool.New(&config.Pool{Name: "four", Servers: []config.Server{{Address: addr("10.0.2.2:80")}}}, 1, nil)
	intercept := &config.Intercept{Method: config.MethodTProxy}
	const upstream, zone = 0x20000000, 0x40000000
	for _, test := range []struct {
		name           string
		listener       config.Listener
		alone          bool // no other listener intercepts
		client, target string
		want           policy.Decision
	}{
		{name: "explicit", alone: true, listener: config.Listener{Pool: "four", Source: config.SourceProxy},
			client: "10.0.1.2:4000", target: "10.0.1.1:8000", want: policy.Decision{Pool: four, Server: addr("10.0.1.1:8000")}},
		{name: "explicit beside an intercepting one", listener: config.Listener{Pool: "four", Source: config.SourceProxy},
			client: "10.0.1.2:4000", target: "10.0.1.1:8000", want: policy.Decision{Pool: four, Server: addr("10.0.1.1:8000"), Mark: upstream, PlainMark: upstream}},
		{name: "outbound", alone: true, listener: config.Listener{Pool: "four", Source: config.SourceClient, SourcePort: config.SourcePortAny},
			client: "10.0.1.2:4000", target: "10.0.1.1:8000", want: policy.Decision{Pool: four, Server: addr("10.0.1.1:8000"), Source: addr("10.0.1.2:4000"), Mark: upstream | zone, PlainMark: upstream}},
		{name: "inbound", listener: config.Listener{Intercept: intercept, Source: config.SourceProxy},
			client: "10.0.1.2:4000", target: "192.0.2.7:443", want: policy.Decision{Server: addr("192.0.2.7:443"), Mark: upstream, PlainMark: upstream}},
		{name: "full, keep", listener: config.Listener{Intercept: intercept, Source: config.SourceClient, SourcePort: config.SourcePortKeep},
			client: "10.0.1.2:4000", target: "192.0.2.7:443", want: policy.Decision{Server: addr("192.0.2.7:443"), Source: addr("10.0.1.2:4000"), KeepPort: true, Mark: upstream | zone, PlainMark: upstream}},
		{name: "full, require", listener: config.Listener{Intercept: intercept, Source: config.SourceClient, SourcePort: config.SourcePortRequire},
			client: "[fd00:1::2]:4000", target: "[fd00:2::2]:443", want: policy.Decision{Server: addr("[fd00:2::2]:443"), Source: addr("[fd00:1::2]:4000"), KeepPort: true, RequirePort: true, Mark: upstream | zone, PlainMark: upstream}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.listener.Name = "l"
			c := &config.Config{Listeners: []*config.Listener{&test.listener}, Kernel: config.Kernel{Marks: 0xf0000000}}
			if !test.alone {
				c.Listeners = append(c.Listeners, &config.Listener{Name: "other", Intercept: intercept})
			}
			f := &listen.Flow{Client: addr(test.client), Original: addr(test.target)}
			d, _, ok := policy.New(c, map[string]*pool.Pool{"four": four}, nil)["l"].Decide(f)
			if !ok || !reflect.DeepEqual(d, test.want) {
				t.Errorf("%+v, %v, want %+v", d, ok, test.want)
			}
		})
	}
}

// Marks are taken out of any mask of four bits, in the order that package plan has.
func TestMarksOfAnyMask(t *testing.T) {
	l := &config.Listener{Name: "l", Intercept: &config.Intercept{}, Source: config.SourceClient, SourcePort: config.SourcePortKeep}
	c := &config.Config{Listeners: []*config.Listener{l}, Kernel: config.Kernel{Marks: 0x80010104}}
	d, _, _ := policy.New(c, nil, nil)["l"].Decide(&listen.Flow{Client: addr("10.0.0.1:1"), Original: addr("10.0.0.2:2")})
	if d.Mark != 0x00010100 {
		t.Errorf("mark %#x, want %#x", d.Mark, 0x00010100)
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	l := &config.Listener{Name: "l", Intercept: &config.Intercept{}, Source: config.SourceClient, SourcePort: config.SourcePortKeep}
	r := policy.New(&config.Config{Listeners: []*config.Listener{l}, Kernel: config.Kernel{Marks: 0xf0000000}}, nil, nil)["l"]
	f := &listen.Flow{Client: addr("10.0.0.1:1"), Original: addr("10.0.0.2:2")}
	if n := testing.AllocsPerRun(100, func() { r.Decide(f) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
