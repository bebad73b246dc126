package config

// Via says who carries a listener's connections.
type Via string

const (
	ViaProxy  Via = "proxy"  // a worker, byte by byte
	ViaKernel Via = "kernel" // nf_tables sends them to the server; Salp only watches the servers
)

// OnDown says what becomes of connections that ViaKernel has sent to a server that goes down.
type OnDown string

const (
	OnDownKeep  OnDown = "keep"  // they stay there and time out, or go on when it comes back
	OnDownReset OnDown = "reset" // they are forgotten, so that TCP clients are reset and connect anew
)

// Offloads says whether the kernel is to carry the listener's established flows past all rules.
func (l *Listener) Offloads() bool { return l.Via == ViaKernel && l.Offload }

// KernelPath says whether any listener's connections are carried by the kernel.
func (c *Config) KernelPath() bool {
	for _, l := range c.Listeners {
		if l.Via == ViaKernel {
			return true
		}
	}
	return false
}

// Worker says whether any listener needs a worker.
func (c *Config) Worker() bool {
	for _, l := range c.Listeners {
		if l.Via != ViaKernel {
			return true
		}
	}
	return false
}
