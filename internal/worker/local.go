package worker

import (
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// localEvery is how often the host's addresses are read again.
const localEvery = 5 * time.Second

// watchLocal keeps what is known of the host's addresses fresh, where somebody needs it: the loop guard, and those who must know whose servers
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
	for _, i := range found {
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
			if i.Flags&(net.FlagLoopback|net.FlagPointToPoint) == 0 { // where others could hear one another
				shared = append(shared, p.Masked())
			}
		}
	}
	w.own.SetLocal(addrs)
	w.networks.SetOnLink(shared)
}
