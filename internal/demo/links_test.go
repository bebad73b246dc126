package demo

import (
	"net/netip"
	"testing"

	"salp/internal/config"
)

// The scene's configuration is one that Salp takes, and its links are those that the scene counts by.
func TestLinksFile(t *testing.T) {
	c, err := config.Parse("demo", []byte(linksFile))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Links) != len(officeLinks) {
		t.Fatalf("%d links", len(c.Links))
	}
	for i, l := range officeLinks {
		if c.Links[i].Name != l.name || c.Links[i].Weight != l.weight || !l.network.Contains(netip.MustParseAddr(l.own)) || linkOf(netip.MustParseAddr(l.own)) != l.name {
			t.Errorf("%+v is not %+v", c.Links[i], l)
		}
	}
}
