package plan

// Marks are Salp's bits of the packet mark and the conntrack mark. Only these bits are ever set or cleared: others own the rest.
type Marks struct {
	Divert      uint32 // packet: deliver locally, by the ip rule
	Upstream    uint32 // socket and packet: sent by a worker to a server
	Zone        uint32 // socket and packet: of a half with the client's address; conntrack: an upstream half with it
	Intercepted uint32 // conntrack: decided at the SYN that this connection is taken in; socket: the client half of one
}

// MarksIn splits a mask of four bits, lowest first: Divert, Upstream, Zone, Intercepted.
func MarksIn(mask uint32) Marks {
	var bits [4]uint32
	for i := range bits {
		bits[i] = mask & -mask
		mask &^= bits[i]
	}
	return Marks{Divert: bits[0], Upstream: bits[1], Zone: bits[2], Intercepted: bits[3]}
}
