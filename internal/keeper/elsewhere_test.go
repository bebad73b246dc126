package keeper

import (
	"net/netip"
	"testing"

	"salp/internal/config"
	"salp/internal/control"
)

// What others have open is told where there is a bound, and nothing else.
func TestElsewhere(t *testing.T) {
	parse := func(text string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("salp.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	cfg := parse(`listeners:
  few: {listen: ["127.0.0.1:8080"], pool: web, limits: {connections: 3}}
  many: {listen: ["127.0.0.1:8081"], pool: web}
  none: {listen: ["127.0.0.1:8082"], pool: web, limits: {connections: 3}}
  each: {listen: ["127.0.0.1:8083"], pool: web, limits: {per_client: 3}}
pools: {web: {servers: [{address: "127.0.0.1:1", max_connections: 5}, "127.0.0.1:2"]}}
`)
	one, two := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")
	old := func(active uint64) *worker {
		return &worker{clients: []control.ClientCount{
			{Listener: "each", Client: one.Addr(), Active: int32(active)}, {Listener: "many", Client: one.Addr(), Active: 1},
		}, stats: control.Stats{"few": {Active: active}, "many": {Active: active}}, servers: []control.ServerStats{
			{Pool: "web", Server: one.String(), Address: one, Active: active}, {Pool: "web", Server: two.String(), Address: two, Active: active},
		}}
	}
	w := old(100)
	k := &keeper{workers: []*worker{w, old(1), old(2)}}
	m := k.elsewhere(w, cfg)
	if m == nil || len(m.Servers) != 1 || m.Servers[0] != (control.Place{Pool: "web", Address: one, Active: 3}) || len(m.Listeners) != 1 || m.Listeners["few"] != 3 ||
		len(m.Clients) != 2 || m.Clients[0].Active+m.Clients[1].Active != 3 {
		t.Errorf("told is %+v", m)
	}
	if m := k.elsewhere(w, parse("listeners: {a: {listen: [\"127.0.0.1:1\"], pool: web}}\npools: {web: {servers: [\"127.0.0.1:2\"]}}\n")); m != nil {
		t.Errorf("without bounds %+v is told", m)
	}
}
