package worker

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"
)

// localEvery is how often the host's addresses are read again.
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
	more, err := routed(func(name string) bool { return hears[name] })
	if err != nil {
		log.Warn("this host's routes cannot be read", "error", err)
	}
	for _, p := range more {
		if !slices.Contains(shared, p) {
			shared = append(shared, p)
		}
	}
	w.own.SetLocal(addrs)
	w.networks.SetOnLink(shared)
}
