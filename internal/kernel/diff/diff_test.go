package diff

import "testing"

func TestString(t *testing.T) {
	for _, tc := range []struct {
		change Change
		want   string
	}{
		{Change{Op: Add, Object: "ip rule", Want: "pref 810 lookup 8110"}, "+ ip rule: pref 810 lookup 8110"},
		{Change{Op: Remove, Object: "ip rule", Was: "pref 810 lookup 8110"}, "- ip rule: pref 810 lookup 8110"},
		{Change{Op: Remove, Object: "nft table inet salp"}, "- nft table inet salp"},
		{Change{Op: Alter, Object: "sysctl net/ipv4/ip_forward", Was: "0", Want: "1"}, "~ sysctl net/ipv4/ip_forward: 0 → 1"},
		{Change{Op: Restore, Object: "sysctl net/ipv4/ip_forward", Was: "1", Want: "0"}, "~ sysctl net/ipv4/ip_forward: 1 → 0"},
		{Change{Op: Alter, Object: "something", Want: "new"}, "~ something: new"},
	} {
		if got := tc.change.String(); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.change, got, tc.want)
		}
	}
}
