package lab

import "fmt"

// Office is a network with several ways to the Internet, for which examples/two-links.yaml is written:
//
//	clients 10.1.0.100, …            wan1 ── provider 1 192.0.2.1     ──┐
//	web     10.1.0.10     ── lan0 gateway                              Internet 203.0.113.10, …, .29, .80
//	        fd00:1::/64              wan2 ── provider 2 198.51.100.1  ──┘           2001:db8:80::10, …
//
// The gateway is 10.1.0.1, 192.0.2.10, 198.51.100.10, fd00:1::1, 2001:db8:1::10 and 2001:db8:2::10. It does not forward until somebody
// makes it, and has a default route by the first provider. What comes to an address reaches the office by the provider that it belongs to.
type Office struct {
	*Lab
	Gateway   *Host
	Client    *Host // with as many addresses as asked for: one machine that stands for many
	Web       *Host
	Providers []*Host // to the office by c0, to the Internet by u0
	Internet  *Host   // to provider N by pN
}

// Wan returns the network of a provider, counted from 1, by its beginning: "192.0.2." and "2001:db8:1::".
func Wan(provider int) (v4, v6 string) {
	return []string{"192.0.2.", "198.51.100.", "100.64.3."}[provider-1], fmt.Sprintf("2001:db8:%d::", provider)
}

// Office builds the network with so many clients and providers (three at most).
func (l *Lab) Office(clients, providers int) (*Office, error) {
	o := &Office{Lab: l}
	for _, h := range []struct {
		name  string
		place **Host
	}{{"gateway", &o.Gateway}, {"client", &o.Client}, {"web", &o.Web}, {"internet", &o.Internet}} {
		var err error
		if *h.place, err = l.Host(h.name); err != nil {
			return nil, err
		}
	}
	if err := o.inside(clients); err != nil {
		return nil, err
	}
	for i := range 20 {
		if err := o.Internet.Addr("lo", fmt.Sprintf("203.0.113.%d/32", 10+i), fmt.Sprintf("2001:db8:80::%d/128", 10+i)); err != nil {
			return nil, err
		}
	}
	if err := o.Internet.Addr("lo", "203.0.113.80/32", "2001:db8:80::80/128"); err != nil {
		return nil, err
	}
	for n := 1; n <= providers; n++ {
		if err := o.provider(n); err != nil {
			return nil, err
		}
	}
	if err := o.Gateway.Default("192.0.2.1", "2001:db8:1::1"); err != nil {
		return nil, err
	}
	for _, h := range append([]*Host{o.Gateway, o.Client, o.Web, o.Internet}, o.Providers...) {
		if err := h.settle(); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (o *Office) inside(clients int) error {
	if err := o.wire("lan", o.Gateway, "lan0", []*Host{o.Client, o.Web}); err != nil {
		return err
	}
	if err := o.Gateway.Addr("lan0", "10.1.0.1/24", "fd00:1::1/64"); err != nil {
		return err
	}
	if err := o.Web.Addr("e0", "10.1.0.10/24", "fd00:1::10/64"); err != nil {
		return err
	}
	for i := range clients {
		if err := o.Client.Addr("e0", fmt.Sprintf("10.1.0.%d/24", 100+i), fmt.Sprintf("fd00:1::%d/64", 100+i)); err != nil {
			return err
		}
	}
	for _, h := range []*Host{o.Client, o.Web} {
		if err := h.Default("10.1.0.1", "fd00:1::1"); err != nil {
			return err
		}
	}
	return nil
}

func (o *Office) provider(n int) error {
	p, err := o.Host(fmt.Sprintf("provider%d", n))
	if err != nil {
		return err
	}
	o.Providers = append(o.Providers, p)
	v4, v6 := Wan(n)
	wan, up := fmt.Sprintf("wan%d", n), fmt.Sprintf("p%d", n)
	for _, do := range []func() error{
		func() error { return o.Join(o.Gateway, wan, p, "c0") },
		func() error { return o.Join(o.Internet, up, p, "u0") },
		func() error { return o.Gateway.Addr(wan, v4+"10/24", v6+"10/64") },
		func() error { return p.Addr("c0", v4+"1/24", v6+"1/64") },
		func() error {
			return p.Addr("u0", fmt.Sprintf("172.16.%d.2/30", n), fmt.Sprintf("2001:db8:ff%d::2/64", n))
		},
		func() error {
			return o.Internet.Addr(up, fmt.Sprintf("172.16.%d.1/30", n), fmt.Sprintf("2001:db8:ff%d::1/64", n))
		},
		p.Forward,
		func() error { return p.Default(fmt.Sprintf("172.16.%d.1", n), fmt.Sprintf("2001:db8:ff%d::1", n)) },
		func() error { return o.Internet.Route(v4+"0/24", fmt.Sprintf("172.16.%d.2", n)) },
		func() error { return o.Internet.Route(v6+"/64", fmt.Sprintf("2001:db8:ff%d::2", n)) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}
