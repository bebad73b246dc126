package plan

import (
	"fmt"
	"net/netip"
	"time"

	"salp/internal/config"
)

// Connection rates are bounded where a connection's first packet is seen. What is over a rate is dropped, so the client tries again by
// itself, later and later (RFC 6298); to answer would cost more than the flood does.
const (
	limitsChain = "limits"
	meterSize   = 65535       // clients that are remembered, of each family
	meterLapse  = time.Minute // after which one is forgotten
)

// LimitCounters are the names of the counters of what the limits of a listener have dropped: of its rate and of its clients' rates.
func LimitCounters(listener string) (rate, clients string) {
	return "over-rate-" + listener, "over-client-rate-" + listener
}

func perSecond(n int) Rate { return Rate{Count: uint64(n), Per: "second", Burst: uint32(n)} }

// limited adds a chain to the table that drops new connections over a listener's rates, with its counters and sets, and returns the chain's
// name; "" when the listener has no rates. The rule for all clients is there once, for its bucket is its own. Proxies in front that tell their
// clients are not clients: the worker, who reads what they tell, bounds those.
func (t *Table) limited(l *config.Listener, families []Family) string {
	if l.Limits.Rate+l.Limits.ClientRate == 0 {
		return ""
	}
	c := Chain{Name: "limits-" + l.Name}
	rate, clients := LimitCounters(l.Name)
	drop := Verdict{Word: "drop"}
	if n := l.Limits.ClientRate; n > 0 {
		t.Counters = append(t.Counters, clients)
		for _, f := range families {
			set := Set{Name: "clients-" + l.Name + "-" + f.digit(), Type: Fields{SaddrOf(f)}.SetType(), Dynamic: true, Runtime: true,
				Timeout: true, Lapse: meterLapse, Size: meterSize}
			t.Sets = append(t.Sets, set)
			c.Rules = append(c.Rules, rule(fmt.Sprintf("more than %d new connections a second of one client", n), append(t.noProxy(l, f),
				Meter{Set: set.Name, Key: Fields{SaddrOf(f)}, Update: true, Rate: perSecond(n)}, Counter{Name: clients}, drop)...))
		}
	}
	if n := l.Limits.Rate; n > 0 {
		t.Counters = append(t.Counters, rate)
		c.Rules = append(c.Rules, rule(fmt.Sprintf("more than %d new connections a second", n), RateOver{Rate: perSecond(n)}, Counter{Name: rate}, drop))
	}
	t.Chains = append(t.Chains, c)
	return c.Name
}

// noProxy matches who is none of the proxies in front of a listener, and adds the set of those.
func (t *Table) noProxy(l *config.Listener, f Family) []Expr {
	if l.ProxyProtocol == nil {
		return nil
	}
	proxies := ofOne(f, l.ProxyProtocol.From)
	if len(proxies) == 0 {
		return nil
	}
	set := Set{Name: "proxies-" + l.Name + "-" + f.digit(), Type: Fields{SaddrOf(f)}.SetType(), Interval: true, Elements: IntervalElements(proxies)}
	t.Sets = append(t.Sets, set)
	return []Expr{In{Key: Fields{SaddrOf(f)}, Set: set.Name, Not: true}}
}

// limits adds the chain that bounds the rates of listeners that clients dial, where their SYNs arrive. What is diverted to another listener
// arrives there too, and has a mark.
func (r *recipe) limits(t *Table) {
	in := Chain{Name: limitsChain, Type: "filter", Hook: "input"}
	for _, l := range r.listeners {
		if l.Via == config.ViaKernel || len(l.Listen) == 0 {
			continue
		}
		chain := t.limited(l, r.families)
		if chain == "" {
			continue
		}
		for _, a := range l.Listen {
			where := []Expr{NFProto{Family: familyOf(a.Addr())}}
			if !a.Addr().IsUnspecified() {
				where = []Expr{Daddr{Prefix: single(a.Addr().WithZone(""))}}
			}
			in.Rules = append(in.Rules, rule("listener "+l.Name, append(where, DPort{Ranges: onePort(a)}, bareSYN,
				Mark{Mask: r.marks.Divert}, Jump{Chain: chain})...))
		}
	}
	if len(in.Rules) > 0 {
		t.Chains = append(t.Chains, in)
	}
}

func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}
