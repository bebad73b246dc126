package plan

// closedTable refuses what listeners with on_failure: closed did not take in. What is taken in is delivered locally and never
// forwarded, so in the forward hook there is only the rest. The table has no owner: it must outlive a keeper that was killed.
func (r *recipe) closedTable() Table {
	t := Table{Name: r.kernel.NFTable + "-closed"}
	if len(r.closed) == 0 {
		return t
	}
	c := Chain{Name: "refuse", Type: "filter", Hook: "forward", Rules: []NFTRule{r.ownTraffic()}}
	for _, l := range r.closed {
		taken := CTMark{r.marks.Intercepted, r.marks.Intercepted}
		c.Rules = append(c.Rules,
			rule("listener "+l.name+": a new connection", append(l.arrives(), bareSYN, RejectReset{})...),
			rule("listener "+l.name+": what is left of one that was carried", append(l.arrives(), taken, RejectReset{})...))
	}
	t.Chains = []Chain{c}
	return t
}
