package control

import "fmt"

// kind returns the JSON name of the one field that is set, or "" when none or several are.
func (m *Message) kind() string {
	kind, n := "", 0
	for _, field := range []struct {
		name string
		set  bool
	}{
		{"sockets", m.Sockets != nil}, {"start", m.Start != nil}, {"drain", m.Drain != nil}, {"destroyed", m.Destroyed != nil},
		{"ready", m.Ready != nil}, {"beat", m.Beat != nil}, {"destroy", m.Destroy != nil}, {"draining", m.Draining != nil}, {"bye", m.Bye != nil},
		{"pools", m.Pools != nil}, {"heeded", m.Heeded != nil}, {"table", m.Table != nil}, {"elsewhere", m.Elsewhere != nil}, {"links", m.Links != nil}, {"content", m.Content != nil}, {"watch", m.Watch != nil}, {"call", m.Call != nil}, {"results", m.Results != nil}, {"names", m.Names != nil}, {"called", m.Called != nil},
		{"page", m.Page != nil}, {"status", m.Status != nil}, {"ask_status", m.AskStatus != nil},
	} {
		if field.set {
			kind = field.name
			n++
		}
	}
	if n != 1 {
		return ""
	}
	return kind
}

// check refuses values that no honest sender sends, so that a receiver need not look at them again.
func (m *Message) check(descriptors int) error {
	switch {
	case m.Sockets != nil:
		if descriptors == 0 || m.Sockets.Listener == "" || !m.Sockets.Address.IsValid() {
			return fmt.Errorf("control: sockets of listener %q at %v with %d descriptors", m.Sockets.Listener, m.Sockets.Address, descriptors)
		}
		return nil
	case m.Table != nil:
		if descriptors != 1 && descriptors != 2 || m.Table.Pool == "" {
			return fmt.Errorf("control: table of pool %q with %d descriptors", m.Table.Pool, descriptors)
		}
		return nil
	case m.Start != nil:
		if descriptors != 1 {
			return fmt.Errorf("control: start with %d descriptors instead of 1", descriptors)
		}
		return nil
	case m.Content != nil:
		return m.Content.check(descriptors)
	case m.Page != nil:
		return m.Page.check(descriptors)
	case descriptors != 0:
		return fmt.Errorf("control: %s with %d descriptors", m.kind(), descriptors)
	case m.Drain != nil && m.Drain.Bound < 0:
		return fmt.Errorf("control: drain within %v", m.Drain.Bound)
	case m.Destroy != nil && (!m.Destroy.Local.IsValid() || !m.Destroy.Remote.IsValid()):
		return fmt.Errorf("control: destroy of %v to %v", m.Destroy.Local, m.Destroy.Remote)
	case m.Beat != nil:
		return checkClients(m.Beat.Clients)
	case m.Elsewhere != nil:
		return checkClients(m.Elsewhere.Clients)
	case m.Pools != nil:
		return m.Pools.check()
	case m.Links != nil:
		return m.Links.check()
	case m.Watch != nil:
		return m.Watch.check()
	}
	return nil
}
