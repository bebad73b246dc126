package test

import (
	"encoding/binary"
	"strings"
	"testing"
)

// passes counts what passes the rules of the hook forward, as another program's rules see it.
const passes = `table inet passes {
	counter passed { }
	chain forward {
		type filter hook forward priority filter; policy accept;
		counter name passed
	}
}
`

// passed is how many packets rules have seen.
func (r *rig) passed() int {
	r.Helper()
	return packetsIn(r.gw("nft", "list", "counter", "inet", "passes", "passed"))
}

// needFlowtables skips a test where the kernel has none.
func (r *rig) needFlowtables() {
	r.Helper()
	if features, _ := r.command("features"); !strings.Contains(squeezed(features), "nft flowtable yes") {
		r.Skip("skipped: this kernel has no flowtables (CONFIG_NF_FLOW_TABLE_INET)")
	}
}

// TestLinkOffload has flows carried past the rules, on kernels that can: hardly a packet of theirs is seen by rules, they go by their links
// with the links' addresses, and a link that goes down means to them what it always does.
func TestLinkOffload(t *testing.T) {
	for _, what := range []string{"reset", "keep"} {
		t.Run(what, func(t *testing.T) {
			o := newOffice(t, 1)
			o.needFlowtables()
			o.bcp38()
			o.nft(passes)
			s := o.start(plainLinks("  spread: flow\n  offload: true\n  on_link_down: "+what+"\n", ""))
			c := o.catch(o.net.Internet, "203.0.113.10:7777")
			o.catchAt(o.net.Internet, "[2001:db8:80::10]:7777", c)
			flows := o.holdBoth(12, 6, c)
			o.unseen(flows, c)
			o.goesDown(s, what, c, flows)
			if drift, code := o.command("plan", "-c", s.file, "--run-dir", s.dir); code != 0 {
				t.Errorf("the kernel is not as planned: %s", drift)
			}
		})
	}
}

// unseen sends on all flows, and fails when rules see more than a few of the packets.
func (o *office) unseen(flows []*held, c *catcher) {
	o.Helper()
	const each = 50
	send := func(times int) (sent int) {
		for _, h := range flows {
			for range times {
				if h.udp != nil {
					_, err := h.udp.Write(binary.BigEndian.AppendUint32(nil, h.id))
					o.must(err)
					sent += 2
					continue
				}
				o.must(h.works(patience))
				sent += 2
			}
		}
		return sent
	}
	send(3) // TCP flows are taken up by their first packet from the inside; UDP ones once both sides were heard
	before := o.passed()
	sent := send(each)
	seen := o.passed() - before
	o.Logf("%d packets were sent, rules saw %d", sent, seen)
	if seen > sent/20 {
		o.Errorf("rules saw %d of %d packets", seen, sent)
	}
}

func squeezed(text string) string { return strings.Join(strings.Fields(text), " ") }
