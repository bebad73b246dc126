package nft

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// TestUpdates changes one thing in a table that is there, and asks what Apply says it changed and whether nft then lists it.
func TestUpdates(t *testing.T) {
	accept := plan.NFTRule{Exprs: []plan.Expr{plan.Verdict{Word: "accept"}}}
	for _, tc := range []struct {
		name   string
		change func(*plan.Table)
		want   string
	}{
		{"nothing", func(*plan.Table) {}, ""},
		{"a rule more", func(t *plan.Table) { c := &t.Chains[1]; c.Rules = append(slices.Clone(c.Rules), accept) },
			"+ nft rule inet salp zone-in: accept"},
		{"a rule less", func(t *plan.Table) { t.Chains[4].Rules = t.Chains[4].Rules[:3] },
			"- nft rule inet salp direct: drop"},
		{"a rule of the same length", func(t *plan.Table) {
			c := &t.Chains[3]
			c.Rules = []plan.NFTRule{{Exprs: []plan.Expr{plan.DPort{Ranges: []plan.PortRange{{First: 80, Last: 80}}}, plan.Redirect{Port: 61442}}}}
		}, "+ nft rule inet salp redirect: tcp dport 80 redirect to :61442\n- nft rule inet salp redirect: tcp dport 80 meta l4proto @alive ct mark set ct mark | 0x80000000 redirect to :61441"},
		{"another comment", func(t *plan.Table) { c := &t.Chains[4]; c.Rules = slices.Clone(c.Rules); c.Rules[3].Comment = "why" },
			"+ nft rule inet salp direct: drop comment \"why\"\n- nft rule inet salp direct: drop"},
		{"another member of an anonymous set", func(t *plan.Table) {
			c := &t.Chains[2]
			c.Rules = slices.Clone(c.Rules)
			c.Rules[5].Exprs = []plan.Expr{plan.DPort{Ranges: []plan.PortRange{{First: 80, Last: 80}, {First: 444, Last: 444}}}, plan.Jump{Chain: "intercept-web"}}
		}, "+ nft rule inet salp divert: tcp dport { 80, 444 } jump intercept-web\n- nft rule inet salp divert: tcp dport { 80, 443 } jump intercept-web"},
		{"another order", func(t *plan.Table) { c := &t.Chains[1]; c.Rules = slices.Clone(c.Rules); slices.Reverse(c.Rules) },
			"~ order of nft rules inet salp zone-in: another order → that of the plan"},
		{"another priority", func(t *plan.Table) { t.Chains[2].Priority = -149 },
			"~ nft chain inet salp divert: type filter hook prerouting priority -150; policy accept; → type filter hook prerouting priority -149; policy accept;"},
		{"another priority of a nat chain", func(t *plan.Table) { t.Chains[3].Priority = -99 },
			"~ nft chain inet salp redirect: type nat hook prerouting priority -100; policy accept; → type nat hook prerouting priority -99; policy accept;"},
		{"a chain more, that is jumped to", func(t *plan.Table) {
			t.Chains = append([]plan.Chain{{Name: "new", Rules: []plan.NFTRule{accept}}}, t.Chains...)
			t.Chains[2].Rules = []plan.NFTRule{{Exprs: []plan.Expr{plan.Jump{Chain: "new"}}}}
		}, "+ nft chain inet salp new: 1 rules\n+ nft rule inet salp zone-in: jump new"},
		{"a chain less, that is jumped to", func(t *plan.Table) {
			t.Chains = slices.Delete(t.Chains, 0, 1)
			t.Chains[1].Rules = t.Chains[1].Rules[:3]
		}, "- nft chain inet salp intercept-web: 12 rules\n"},
		{"other elements", func(t *plan.Table) { t.Sets[1].Elements = []string{"22", "443"} },
			"~ nft set inet salp ports: {13 true: 0016 0017< 0050 005b< ea60} → type inet_service { 22, 443 }"},
		{"a set of another kind, that a rule looks into", func(t *plan.Table) { t.Sets[0].Timeout = false },
			"~ nft set inet salp alive: a set of another kind → type inet_proto"},
		{"a set less", func(t *plan.Table) { t.Sets = t.Sets[:4] }, "- nft set inet salp hosts6: 1 elements"},
		{"without an owner", func(t *plan.Table) { t.Owner = false }, "~ nft table inet salp: 5 chains, 28 rules → 5 chains, 28 rules"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := host(t)
			c := open(t, h, "/run/test")
			if _, err := c.Apply([]plan.Table{everything(true)}, nil); err != nil {
				t.Fatal(err)
			}
			want := everything(true)
			tc.change(&want)
			told, err := c.Diff([]plan.Table{want}, nil, true)
			if err != nil {
				t.Fatal(err)
			}
			changes, err := c.Apply([]plan.Table{want}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got, before []string
			for i := range changes {
				got, before = append(got, changes[i].String()), append(before, told[i].String())
			}
			if !strings.HasPrefix(strings.Join(got, "\n"), tc.want) || tc.want == "" && len(got) > 0 || !slices.Equal(got, before) {
				t.Errorf("Apply changed\n%s\nDiff told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"), tc.want)
			}
			if again, err := c.Apply([]plan.Table{want}, nil); err != nil || len(again) > 0 {
				t.Errorf("again: %v, %v", again, err)
			}
			if listed := runTime.ReplaceAllString(nft(t, h, "list", "table", "inet", "salp"), ""); blocks(listed) != blocks(want.Text()) {
				t.Errorf("nft lists\n%s\nthe plan prints\n%s", listed, want.Text())
			}
		})
	}
}

// blocks sorts a listing's sets and chains: what was made later is listed later.
func blocks(listing string) string {
	parts := strings.Split(strings.TrimSuffix(listing, "}\n"), "\n\n")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n\n")
}

func TestSetElement(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	if err := c.SetElement("salp", "alive", 6, time.Second); err == nil || !strings.Contains(err.Error(), "nft set inet salp alive") || !wire.Is(err, 2) {
		t.Errorf("without a table: %v", err)
	}
	if _, err := c.Apply([]plan.Table{everything(true)}, nil); err != nil {
		t.Fatal(err)
	}
	holds := func() bool { return strings.Contains(nft(t, h, "list", "set", "inet", "salp", "alive"), "tcp timeout") }
	for _, step := range []struct {
		d    time.Duration
		want bool
	}{{0, false}, {time.Minute, true}, {time.Minute, true}, {0, false}, {0, false}, {2 * time.Second, true}} {
		if err := c.SetElement("salp", "alive", 6, step.d); err != nil || holds() != step.want {
			t.Errorf("alive for %v: %v, holds %v", step.d, err, holds())
		}
	}
	time.Sleep(2100 * time.Millisecond)
	if holds() {
		t.Error("the element did not lapse")
	}
	if err := c.SetElement("salp", "alive", 6, time.Minute); err != nil || !holds() {
		t.Errorf("after it lapsed: %v", err)
	}
}

// TestLackingExpression asks for an expression that no kernel has: the error names it.
func TestLackingExpression(t *testing.T) {
	c := open(t, host(t), "/run/test")
	var tx transaction
	tx.addTable("t", false, nil)
	if err := tx.addChain("t", plan.Chain{Name: "c"}); err != nil {
		t.Fatal(err)
	}
	wish := wire.Nest(unix.NFTA_LIST_ELEM, wire.String(unix.NFTA_EXPR_NAME, "wish"), wire.Nest(unix.NFTA_EXPR_DATA))
	tx.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE, "nft rule inet t c: wish", wire.String(unix.NFTA_RULE_TABLE, "t"), wire.String(unix.NFTA_RULE_CHAIN, "c"),
		wire.Nest(unix.NFTA_RULE_EXPRESSIONS, wish))
	err := tx.commit(c.writer)
	if err == nil || !strings.HasPrefix(err.Error(), `add nft rule inet t c: wish: no such file or directory (ENOENT)`) || !strings.Contains(err.Error(), `about "wish"`) {
		t.Errorf("error: %v", err)
	}
	if left, err := tables(c.reader); err != nil || len(left) > 0 {
		t.Errorf("the refused transaction left %v, %v", left, err)
	}
}

func TestExplain(t *testing.T) {
	for _, tc := range []struct {
		err  wire.Error
		want string
	}{
		{wire.Error{Operation: "add", Object: "nft rule inet salp c: tproxy ip to 127.0.0.1:1", Errno: 2, Attribute: "tproxy"}, "intercept.method: redirect"},
		{wire.Error{Operation: "add", Object: "nft rule inet salp c: meta nfproto ipv4 tproxy ip to 127.0.0.1:1", Errno: 2}, "intercept.method: redirect"},
		{wire.Error{Operation: "add", Object: "nft rule inet salp c: redirect to :1", Errno: 2, Attribute: "redir"}, "intercept.method: tproxy"},
		{wire.Error{Operation: "add", Object: "nft table inet salp", Errno: 95}, "Linux 5.12"},
	} {
		if got := explain(&tc.err).Error(); !strings.Contains(got, tc.want) {
			t.Errorf("%s\ndoes not say %s", got, tc.want)
		}
	}
}

func TestTrialsLeaveNoTrace(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	before, err := generation(c.reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, trial := range Trials() {
		if err := c.Try(trial); err != nil && trial.Name != "nft flowtable" { // which is not in every kernel, and not needed
			t.Errorf("%s: %v", trial.Name, err)
		}
	}
	after, err := generation(c.reader)
	if err != nil || after != before {
		t.Errorf("generation %d became %d, %v", before, after, err)
	}
	if list := nft(t, h, "list", "ruleset"); list != "" {
		t.Errorf("left: %s", list)
	}
}

// TestAdopt hands the socket that owns a table on, as over execve(2): the table stays, and is the next one's to change.
func TestAdopt(t *testing.T) {
	h := host(t)
	first := open(t, h, "/run/test")
	if _, err := first.Apply([]plan.Table{everything(true)}, nil); err != nil {
		t.Fatal(err)
	}
	number, err := first.Owner()
	if err != nil {
		t.Fatal(err)
	}
	left, err := unix.FcntlInt(uintptr(number), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(left), "owner")
	port := first.Port()
	first.Close()
	var next *Conn
	if err := h.Do(func() (err error) { next, err = Adopt("/run/test", file); return err }); err != nil {
		t.Fatal(err)
	}
	file.Close()
	if next.Port() != port {
		t.Errorf("port %d, want %d", next.Port(), port)
	}
	if changes, err := next.Apply([]plan.Table{everything(true)}, nil); err != nil || len(changes) > 0 {
		t.Errorf("the same once more: %v, %v", changes, err)
	}
	if err := next.SetElement("salp", "alive", 6, time.Second); err != nil {
		t.Error(err)
	}
	less := everything(true)
	less.Sets = less.Sets[:4]
	if changes, err := next.Apply([]plan.Table{less}, nil); err != nil || len(changes) != 1 {
		t.Errorf("a set less: %v, %v", changes, err)
	}
	if err := next.SetElement("nosuch", "alive", 6, time.Second); err == nil || !wire.Is(err, unix.ENOENT) {
		t.Errorf("a table that is not there: %v", err)
	}
	next.Close()
	if mine, err := open(t, h, "/run/test").Mine(); err != nil || len(mine) > 0 {
		t.Errorf("after the end: %v, %v", mine, err)
	}
	other, _, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := Adopt("/run/test", other); err == nil {
		t.Error("took a pipe")
	}
}
