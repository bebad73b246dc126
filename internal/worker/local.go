package worker

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"
)

// localEvery is how often the host's addresses are read again, and its routes unless there are many.
const localEvery = 5 * time.Second

// watchLocal keeps what is known of the host's addresses and routes fresh, where somebody needs it: the loop guard, and those who must know whose servers
// answer whose clients directly.
func (w *wiring) watchLocal(stop <-chan struct{}, log *slog.Logger) {
	if !w.own.NeedsLocal() && !w.clients {
		return
	}
	go func() {
		tick := time.NewTicker(localEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.setLocal(log)
			case <-stop:
				return
			}
		}
	}()
}

func (w *wiring) setLocal(log *slog.Logger) {
	if !w.own.NeedsLocal() && !w.clients {
		return
	}
	found, err := net.Interfaces()
	if err != nil {
		log.Warn("this host's interfaces cannot be read", "error", err)
		return
	}
	var addrs []netip.Addr
	var shared []netip.Prefix
	hears := map[string]bool{} // by name of the interface: others on it could hear one another
	for _, i := range found {
		hears[i.Name] = i.Flags&(net.FlagLoopback|net.FlagPointToPoint) == 0
		list, err := i.Addrs()
		if err != nil {
			log.Warn("an interface's addresses cannot be read", "interface", i.Name, "error", err)
			continue
		}
		for _, a := range list {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			addrs = append(addrs, p.Addr())
			if hears[i.Name] {
				shared = append(shared, p.Masked())
			}
		}
	}
	w.own.SetLocal(addrs)
	if !w.clients {
		return
	}
	for _, p := range w.routes.read(func(name string) bool { return hears[name] }, log) {
		if !slices.Contains(shared, p) {
			shared = append(shared, p)
		}
	}
	w.networks.SetOnLink(shared)
}

// routesShare is how much longer than it takes to read the routes they are left alone: a router with a million of them takes a second, and
// the worker has other things to do.
const routesShare = 100

// routeReader reads the host's routes again now and then.
type routeReader struct {
	next time.Time
	last []netip.Prefix
}

// read returns what routed last found.
func (r *routeReader) read(shared func(name string) bool, log *slog.Logger) []netip.Prefix {
	begin := time.Now()
	if begin.Before(r.next) {
		return r.last
	}
	found, err := routed(shared)
	if err != nil {
		log.Warn("this host's routes cannot be read", "error", err)
	}
	r.last, r.next = found, time.Now().Add(routesShare*time.Since(begin))
	return r.last
}
