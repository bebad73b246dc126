package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
)

// printPools prints nothing when there are none.
func printPools(w io.Writer, p paint, pools []admin.Pool) {
	if len(pools) == 0 {
		return
	}
	g := newGrid(p.dim, "POOL", "STATE", "CHECK", "OPEN ", "TOTAL ", "IN ", "OUT ", "ERRORS ")
	for _, pool := range pools {
		g.row(gridCell{poolWords(pool), p.bold})
		for _, s := range pool.Servers {
			g.row("  "+serverWords(s), upDown(p, s.State == control.ServerUp, string(s.State)), checkWords(s.Checked), openWords(s),
				fmt.Sprint(s.Connections), counted(s.Offloaded, s.BytesIn), counted(s.Offloaded, s.BytesOut), fmt.Sprint(total(s.Errors)))
		}
	}
	g.print(w, statusWidth)
	for _, pool := range pools {
		for _, line := range poolDetails(pool) {
			fmt.Fprintf(w, "    %s %s\n", p.dim(pool.Name+":"), line)
		}
	}
}

// poolWords names a pool, and tells how it chooses.
func poolWords(p admin.Pool) string {
	words := p.Name + ", " + p.Balance
	if p.Via != "" {
		words += ", by the " + p.Via
	}
	return words
}

// serverWords names a server, and its address where that is not its name.
func serverWords(s admin.PoolServer) string {
	words := s.Name
	switch {
	case s.Address == "":
		words += " (no address)"
	case s.Address != s.Name:
		words += " (" + s.Address + ")"
	}
	if s.Weight != 1 {
		words += fmt.Sprintf(", weight %d", s.Weight)
	}
	if s.Backup {
		words += ", backup"
	}
	if s.ProxyProtocol != "" {
		words += ", PROXY " + s.ProxyProtocol
	}
	return words
}

func stateWords(s admin.PoolServer) string {
	if s.State == control.ServerUp {
		return string(s.State)
	}
	words := fmt.Sprintf("%s for %s", s.State, span(time.Since(s.Since)))
	if s.Reason != "" {
		words += ": " + s.Reason
	}
	return words
}

func openWords(s admin.PoolServer) string {
	if s.MaxConnections > 0 {
		return fmt.Sprintf("%d/%d", s.Active, s.MaxConnections)
	}
	return fmt.Sprint(s.Active)
}

// poolDetails lists what does not fit the table: the queue, connections that found no server, and those with another address than their source says.
func poolDetails(pool admin.Pool) []string {
	var lines []string
	if pool.Queued+pool.QueueFull+pool.QueueTimeouts > 0 {
		lines = append(lines, fmt.Sprintf("queue: %d wait, %d waited in vain, %d found it full", pool.Queued, pool.QueueTimeouts, pool.QueueFull))
	}
	if n := pool.NoServer; n > 0 {
		lines = append(lines, fmt.Sprintf("no server was fit for %s", count(int(n), "connection")))
	}
	if slices.ContainsFunc(pool.Servers, func(s admin.PoolServer) bool { return s.Offloaded }) {
		lines = append(lines, "bytes are not counted where - is: offload carries them past the rules")
	}
	for _, s := range pool.Servers {
		if s.State != control.ServerUp {
			lines = append(lines, fmt.Sprintf("%s: %s", s.Name, stateWords(s)))
		}
		if s.Retries > 0 {
			lines = append(lines, fmt.Sprintf("%s: %s went on to another server", s.Name, count(int(s.Retries), "connect")))
		}
		if s.SameNetwork > 0 {
			lines = append(lines, fmt.Sprintf("%s: %s from clients that it would have answered past Salp; same_network is %s", s.Name, count(int(s.SameNetwork), "connection"), s.Fallback))
		}
	}
	return lines
}
