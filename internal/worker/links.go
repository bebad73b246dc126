package worker

import (
	"salp/internal/control"
	"salp/internal/dial"
	"salp/internal/engine"
)

// setLinks takes in how the Internet links are, and tells whoever uses one that is down now.
func (w *wiring) setLinks(m *control.Links) {
	if w.links == nil || !w.links.Set(m) {
		return
	}
	for _, l := range w.engine.Loops() {
		l.Post(func() {
			l.Each(func(h engine.Handler) {
				if u, ok := h.(dial.LinkUser); ok {
					u.LinkLost(l, w.links)
				}
			})
		})
	}
}
