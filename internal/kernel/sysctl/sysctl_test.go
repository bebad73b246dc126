package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"salp/internal/kernel/diff"
	"salp/internal/lab"
	"salp/internal/plan"
)

func open(t *testing.T) (*Conn, *lab.Host) {
	t.Helper()
	n, err := lab.Test(t).Standard(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	var c *Conn
	if err := n.Gateway.Do(func() (err error) { c, err = Open(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, n.Gateway
}

func (c *Conn) must(t *testing.T, name string) string {
	t.Helper()
	v, err := c.Read(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNamesStayBelowProcSys(t *testing.T) {
	c, _ := open(t)
	for _, name := range []string{"", "../self/environ", "/etc/passwd", "net/../../self/environ", "net//ipv4", "net/ipv4/\x00"} {
		if v, err := c.Read(name); err == nil || strings.Contains(err.Error(), "no such file") {
			t.Errorf("%q: %q, %v", name, v, err)
		}
	}
	if _, err := c.Read("net/ipv4/no_such_value"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a value that is not there: %v", err)
	}
}

// TestStaysInItsNamespace writes from this test's thread, which is in the host's namespace: the host's value must not change.
func TestStaysInItsNamespace(t *testing.T) {
	const name = "net/ipv4/ip_default_ttl"
	c, gw := open(t)
	hosts, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.write(name, "77"); err != nil {
		t.Fatal(err)
	}
	inside, err := gw.ReadSysctl(name)
	if err != nil || strings.TrimSpace(inside) != "77" {
		t.Errorf("inside: %q, %v", inside, err)
	}
	if now, _ := os.ReadFile("/proc/sys/" + name); string(now) != string(hosts) {
		t.Errorf("the host's value became %q", now)
	}
}

func TestAcceptRAComesBeforeForwarding(t *testing.T) {
	c, _ := open(t)
	missing, err := c.Missing([]plan.Sysctl{{Name: ip6AllForward, Value: "1"}, {Name: "net/ipv6/conf/g0/accept_ra", Value: "2"},
		{Name: "net/ipv6/conf/gone0/accept_ra", Value: "2"}, {Name: ipForward, Value: "1"}})
	if err != nil || len(missing) != 3 || missing[0].Name != "net/ipv6/conf/g0/accept_ra" {
		t.Errorf("%+v, %v", missing, err)
	}
	if _, err := c.Missing([]plan.Sysctl{{Name: "net/ipv4/no_such_value", Value: "1"}}); err == nil {
		t.Error("a value that no kernel has was not missed")
	}
}

func TestRestore(t *testing.T) {
	c, _ := open(t)
	for name, value := range map[string]string{ipForward: "0", "net/ipv4/conf/g0/forwarding": "1", "net/ipv4/conf/all/accept_redirects": "0"} {
		if err := c.write(name, value); err != nil {
			t.Fatal(err)
		}
	}
	missing, err := c.Missing([]plan.Sysctl{{Name: ipForward, Value: "1"}})
	if err != nil {
		t.Fatal(err)
	}
	kept := c.Keep(nil, missing)
	if _, err := c.Set(missing); err != nil {
		t.Fatal(err)
	}
	if again := c.Keep(kept, []Missing{{plan.Sysctl{Name: ipForward, Value: "1"}, "7"}}); len(again) != 1 || again[0].Former != "0" {
		t.Errorf("a second run noted %+v", again)
	}
	if err := c.write("net/ipv4/conf/g0/forwarding", "0"); err != nil { // somebody else, in the meantime
		t.Fatal(err)
	}
	changes, left, err := c.Restore(kept)
	if err != nil || len(left) > 0 || len(changes) != 1 || changes[0] != (diff.Change{Op: diff.Restore, Object: "sysctl net/ipv4/ip_forward", Was: "1", Want: "0"}) {
		t.Errorf("%v, %v, %v", changes, left, err)
	}
	for name, want := range map[string]string{ipForward: "0", "net/ipv4/conf/g0/forwarding": "0", "net/ipv4/conf/g1/forwarding": "0", "net/ipv4/conf/all/accept_redirects": "0"} {
		if got := c.must(t, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if changes, left, err := c.Restore(kept); err != nil || len(changes)+len(left) > 0 {
		t.Errorf("a second Restore: %v, %v, %v", changes, left, err)
	}
}
