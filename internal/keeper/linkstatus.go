package keeper

import (
	"context"
	"fmt"
	"time"

	"salp/internal/admin"
	"salp/internal/link"
	"salp/internal/plan"
)

// linkWishes are the words by which an operator says what he wants of a link.
var linkWishes = map[string]link.Wish{"drain": link.WishDrain, "down": link.WishDown, "ready": link.WishReady}

// SetLink implements admin.Gateway.
func (g *gateway) SetLink(ctx context.Context, w admin.LinkWish) (a admin.LinkAnswer, err error) {
	failed := g.do(ctx, func() { a, err = g.keeper.setLink(w, time.Now()) })
	if failed != nil {
		return a, failed
	}
	return a, err
}

func (k *keeper) setLink(w admin.LinkWish, now time.Time) (a admin.LinkAnswer, err error) {
	wish, known := linkWishes[w.State]
	switch {
	case !known:
		return a, fmt.Errorf("%q is none of drain, down and ready", w.State)
	case k.stopping:
		return a, errStopping
	case !k.links.any():
		return a, fmt.Errorf("this gateway has no links")
	}
	l := k.links
	changes, err := l.set.Order(w.Link, wish, now)
	if err != nil {
		return a, err
	}
	l.changes = append(l.changes, changes...)
	k.log.Info("operator's order for a link", "link", w.Link, "order", w.State)
	k.rememberLinks()
	if len(changes) > 0 {
		k.repair()
	}
	a = admin.LinkAnswer{State: string(l.set.Link(w.Link).State), Links: len(l.set.Links())}
	for _, one := range l.set.Links() {
		if one.State == link.Up {
			a.Up++
		}
	}
	return a, nil
}

// linkStatus describes the links, and what got none.
func (k *keeper) linkStatus(now time.Time) ([]admin.Link, *admin.Linkless) {
	l := k.links
	if !l.any() {
		return nil, nil
	}
	total := 0
	facts := l.set.Facts()
	for _, f := range facts {
		if f.Up {
			total += f.Weight
		}
	}
	counts, none := k.linkCounters()
	k.readTraffic()
	var all []admin.Link
	for i, one := range l.set.Links() {
		s := describeLink(one, now)
		if facts[i].Up && total > 0 {
			s.Share = float64(facts[i].Weight) / float64(total)
		}
		if n, there := l.now[one.Config.Interface]; there {
			first := l.began[one.Config.Interface]
			s.BytesIn, s.BytesOut = n.In-first.In, n.Out-first.Out
		}
		s.Flows, s.Leaked = counts[one.Number].Flows, counts[one.Number].Leaked
		all = append(all, s)
	}
	return all, none
}

// describeLink says what is known of one link.
func describeLink(one *link.Link, now time.Time) admin.Link {
	s := admin.Link{
		Name: one.Config.Name, Interface: one.Config.Interface, State: string(one.State), Up: one.State == link.Up, Since: one.Since,
		Flapping: one.Flapping(now), Weight: one.Config.Weight, Metered: one.Config.Metered, Downs: one.Downs,
	}
	if one.State != link.Up {
		s.Reason = one.Reason
	}
	if one.Wish != link.WishReady {
		s.Wish = string(one.Wish)
	}
	for _, f := range []plan.Family{plan.IPv4, plan.IPv6} {
		way := one.Way(f)
		if !way.Usable() {
			continue
		}
		for _, a := range way.Addresses {
			s.Addresses = append(s.Addresses, a.String())
		}
		if way.Gateway.IsValid() {
			s.Gateways = append(s.Gateways, way.Gateway.String())
			s.Learned = s.Learned || !one.Config.Gateway.Of(int(f)).IsValid()
		}
	}
	var rtt time.Duration
	s.Loss, rtt, s.Checked = one.Loss()
	s.RTT = rtt.Seconds()
	for _, t := range one.Targets() {
		s.Targets = append(s.Targets, admin.LinkTarget{Name: t.What, Error: t.Error})
	}
	for _, c := range one.History {
		s.History = append(s.History, admin.LinkChange{At: c.At, State: string(c.State), Reason: c.Reason})
	}
	return s
}

// linkCounters reads what the kernel counts, by the numbers of links. There is nothing to read before the plan is applied.
func (k *keeper) linkCounters() (map[int]linkCount, *admin.Linkless) {
	all := map[int]linkCount{}
	counts, err := k.kernel.Counters(plan.LinksTable(k.cfg.Kernel.NFTable))
	if err != nil {
		k.log.Debug("counters of links cannot be read", "error", err)
		return all, nil
	}
	for i, l := range k.cfg.Links {
		all[i+1] = linkCount{Flows: counts[plan.LinkFlows(l.Name)].Packets, Leaked: counts[plan.LinkLeaked(l.Name)].Packets}
	}
	return all, &admin.Linkless{Refused: counts[plan.LinksRefused].Packets, Dropped: counts[plan.LinksDropped].Packets}
}

// linkCount is what the kernel counts of one link.
type linkCount struct{ Flows, Leaked uint64 }
