package plan

import "slices"

// flowtable is that of the links' table, or nil when there is to be none, or cannot be. Only interfaces that are there can be in it: the
// keeper makes the plan again when others come.
func (r *linkRecipe) flowtable() *Flowtable {
	inside := r.cfg.Balance.Inside.Interfaces
	if !r.cfg.Balance.Offload || r.facts.Flowtable != Yes || len(inside) == 0 {
		return nil
	}
	var devices []string
	for _, i := range r.facts.Interfaces {
		if slices.Contains(inside, i.Name) || slices.Contains(r.wans(), i.Name) {
			devices = append(devices, i.Name)
		}
	}
	return newFlowtable("links-flows", devices)
}

// offloadChain lets the flow of a packet pass without rules.
const offloadChain = "pass-on"

// afterFilters is behind the chains of other programs' firewalls, so that only what they let pass is offloaded.
const afterFilters = 100

// offload takes up flows of which both sides were heard, by a packet from the inside: before Linux 5.19 the kernel looked for the way back
// without the packet's mark (net/netfilter/nft_flow_offload.c, nft_flow_route), and to the inside it needs none.
func (r *linkRecipe) offload(f *Flowtable) []Chain {
	return []Chain{
		{Name: "links-offload", Type: "filter", Hook: "forward", Priority: afterFilters, Rules: []NFTRule{
			rule("from the inside", IIFName{Names: ifnames(r.cfg.Balance.Inside.Interfaces)}, CTState{States: []string{"established"}}, CTDirection{},
				L4Proto{Protos: []byte{TCP, UDP}}, r.known(false, func(*uplink) string { return offloadChain }))}},
		{Name: offloadChain, Rules: []NFTRule{rule("its packets pass no rules from now on", L4Proto{Protos: []byte{TCP, UDP}}, FlowAdd{Flowtable: f.Name})}},
	}
}
