package nft

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Trial is one thing that the kernel may or may not be able to do with nft.
type Trial struct {
	Name string
	make func(*transaction) error
}

// Trials are what Salp's tables are made of.
func Trials() []Trial {
	return []Trial{
		{"nft inet family", emptyTable(false)},
		{"nft owner flag", emptyTable(true)},
		{"nft tproxy", rules(plan.TProxy{To: netip.MustParseAddrPort("127.0.0.1:1")})},
		{"nft tproxy IPv6", rules(plan.TProxy{To: netip.MustParseAddrPort("[::1]:1")})},
		{"nft socket", rules(plan.SocketTransparent{}, plan.SocketMark{Mask: 1})},
		{"nft socket wildcard", rules(plan.SocketWildcard{})},
		{"nft ct mark", rules(plan.CTMark{Mask: 1}, plan.SetCTMark{Bits: 1})},
		{"nft ct zone", rules(plan.SetZone{Zone: 1})},
		{"nft fib", rules(plan.DaddrType{Types: []string{"local"}})},
		{"nft reject", rules(plan.L4Proto{Protos: []byte{unix.IPPROTO_TCP}}, plan.RejectReset{})},
		{"nft redirect", rules(plan.L4Proto{Protos: []byte{unix.IPPROTO_TCP}}, plan.Redirect{Port: 1})},
		{"nft set timeouts", timeoutSet},
		{"nft dnat and snat", rules(plan.DNAT{Family: plan.IPv4, To: netip.MustParseAddrPort("192.0.2.1:0")})},
		{"nft masquerade", rules(plan.Masquerade{})},
		{"nft prefix translation", rules(plan.SNATPrefix{Pairs: []plan.PrefixPair{{From: netip.MustParsePrefix("fd00::/64"), To: netip.MustParsePrefix("2001:db8::/64")}}})},
		{"nft numgen", rules(plan.VMap{Key: plan.NumGen{Random: true, Mod: 2}, Entries: oneWay})},
		{"nft jhash", rules(plan.VMap{Key: plan.JHash{Fields: plan.Fields{plan.IPSaddr}, Mod: 2, Seed: 1}, Entries: oneWay})},
		{"nft ct zone by direction", rules(plan.SetDirZone{Reply: true, Zone: 1})},
		{"nft fib type by interface", rules(plan.SaddrType{Types: []string{"local"}, Not: true}, plan.Verdict{Word: "drop"})},
		{"nft tcp mss", rules(plan.ClampMSS{})},
		{"nft notrack", rules(plan.NoTrack{})},
		{"nft limit", rules(plan.RateOver{Rate: plan.Rate{Count: 1, Per: "second", Burst: 1}})},
		{"nft limit by address", meterRule(plan.Meter{Set: "s", Key: plan.Fields{plan.IPSaddr}, Rate: plan.Rate{Count: 1, Per: "second", Burst: 1}})},
		{"nft connections by address", meterRule(plan.Meter{Set: "s", Key: plan.Fields{plan.IPSaddr}, Connections: 1})},
		{"nft kernel path", rules(plan.VMap{Key: plan.JHash{Fields: plan.Fields{plan.IPSaddr}, Mod: 2, Seed: 1}, Entries: oneWay},
			plan.VMap{Key: plan.NumGen{Mod: 2}, Entries: oneWay}, plan.Masquerade{}, plan.DNAT{Family: plan.IPv4, To: netip.MustParseAddrPort("192.0.2.1:0")})},
		{"nft flowtable", flowtableTrial},
		{"nft named counters", func(tx *transaction) error {
			tx.addTable(trialTable, false, nil)
			tx.addCounter(trialTable, "n")
			return nil
		}},
		{"nft ranges in concatenations", func(tx *transaction) error {
			tx.addTable(trialTable, false, nil)
			return tx.addSet(trialTable, plan.Set{Name: "s", Type: "ipv4_addr . inet_service", Interval: true})
		}},
	}
}

var oneWay = []plan.VerdictRange{{Do: plan.Verdict{Word: "accept"}}}

// meterRule tries a rule with the dynamic set that it adds to.
func meterRule(m plan.Meter) func(*transaction) error {
	return func(tx *transaction) error {
		return trialRule(tx, func() error {
			return tx.addSet(trialTable, plan.Set{Name: m.Set, Type: m.Key.SetType(), Dynamic: true, Size: 100})
		}, m)
	}
}

const trialTable = "salp-trial"

func emptyTable(owner bool) func(*transaction) error {
	return func(tx *transaction) error { tx.addTable(trialTable, owner, nil); return nil }
}

func rules(es ...plan.Expr) func(*transaction) error {
	return func(tx *transaction) error { return trialRule(tx, nil, es...) }
}

// trialRule makes a rule in a table of its own. with, if not nil, adds to the table what the rule refers to.
func trialRule(tx *transaction, with func() error, es ...plan.Expr) error {
	c := plan.Chain{Name: "c"} // no base chain: it would be hooked for a moment
	r, err := compile(plan.NFTRule{Exprs: es}, nil)
	if err != nil {
		return err
	}
	tx.addTable(trialTable, false, nil)
	if with != nil {
		err = with()
	}
	err = errors.Join(err, tx.addChain(trialTable, c))
	tx.addRule(trialTable, c.Name, r)
	return err
}

// flowtableTrial tries one on the loopback interface, where it would take up nothing.
func flowtableTrial(tx *transaction) error {
	return trialRule(tx, func() error {
		tx.addFlowtable(trialTable, plan.Flowtable{Name: "f", Devices: []string{"lo"}})
		return nil
	}, plan.L4Proto{Protos: []byte{unix.IPPROTO_TCP}}, plan.FlowAdd{Flowtable: "f"})
}

func timeoutSet(tx *transaction) error {
	tx.addTable(trialTable, false, nil)
	return tx.addSet(trialTable, plan.Set{Name: "s", Type: "inet_proto", Timeout: true})
}

// Try puts a trial to the kernel: nil means that it can. The transaction ends in a message that cannot succeed, so that the
// kernel checks everything and does nothing: no packet and no other program ever sees the table.
func (c *Conn) Try(t Trial) error {
	var tx transaction
	if err := t.make(&tx); err != nil {
		return err
	}
	const sentinel = "no such table"
	tx.add(unix.NFT_MSG_DELTABLE, 0, sentinel, wire.String(unix.NFTA_TABLE_NAME, trialTable+"-none"))
	err := tx.commit(c.writer)
	if err == nil {
		return errors.New("the kernel took a transaction that must fail")
	}
	for _, e := range refusals(err) {
		if e.Object != sentinel {
			return e
		}
	}
	for _, e := range refusals(err) {
		if e.Errno == unix.ENOENT {
			return nil
		}
	}
	return err
}

// refusals returns the kernel's answers within a joined error.
func refusals(err error) []*wire.Error {
	var out []*wire.Error
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range list.Unwrap() {
			out = append(out, refusals(e)...)
		}
		return out
	}
	var e *wire.Error
	if errors.As(err, &e) {
		out = append(out, e)
	}
	return out
}
