// Package resolve looks host names up: in /etc/hosts, then by DNS, with a bounded cache that keeps to the times to live.
//
// It is a stub resolver (RFC 1034 section 5.3.1): it asks recursive servers and follows the aliases in their answers. A name is always complete; there are
// no search domains. It fits both the monitor, which follows the names of servers, and the worker.
package resolve

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxCache bounds how many names are kept.
	maxCache = 8192
	// rounds is how often all servers are asked before a lookup fails.
	rounds = 2
	// benched is how long a server that did not answer is asked after the others.
	benched = 30 * time.Second
	// failureFor is how long a failed lookup is not tried again (RFC 2308 section 7).
	failureFor = time.Second
)

// ErrNoSuchName is wrapped by errors that say that a name is not there or has no address.
var ErrNoSuchName = errors.New("no such name")

// Options are the particulars of a Resolver. The zero value of each has its default.
type Options struct {
	Servers []netip.AddrPort // none: those of Conf
	Timeout time.Duration    // of one try at one server; 0: 2 s
	MinTTL  time.Duration    // 0: 1 s
	MaxTTL  time.Duration    // 0: 1 h
	Conf    string           // "": /etc/resolv.conf
	Hosts   string           // "": /etc/hosts
	Dial    Dial             // nil: by the kernel's routes
}

// Resolver looks names up. It is safe for concurrent use.
type Resolver struct {
	o     Options
	files *files

	mutex   sync.Mutex
	cache   map[string]*entry
	silent  map[netip.AddrPort]time.Time // when a server last did not answer
	waiting map[string]*call
}

// Answer is what a name is.
type Answer struct {
	Addrs []netip.Addr // sorted, IPv4 first; at least one
	Until time.Time    // when it should be looked up again
}

// entry is an Answer or an error in the cache.
type entry struct {
	answer Answer
	err    error
	until  time.Time
}

// call is a lookup under way, which others wait for.
type call struct {
	done chan struct{}
	*entry
}

// New makes a resolver with an empty cache.
func New(o Options) *Resolver {
	set := func(v *time.Duration, to time.Duration) {
		if *v <= 0 {
			*v = to
		}
	}
	set(&o.Timeout, 2*time.Second)
	set(&o.MinTTL, time.Second)
	set(&o.MaxTTL, time.Hour)
	if o.Conf == "" {
		o.Conf = "/etc/resolv.conf"
	}
	if o.Hosts == "" {
		o.Hosts = "/etc/hosts"
	}
	if o.Dial == nil {
		o.Dial = dial
	}
	return &Resolver{o: o, files: newFiles(o.Conf, o.Hosts), cache: map[string]*entry{}, silent: map[netip.AddrPort]time.Time{}, waiting: map[string]*call{}}
}

// Lookup returns all addresses of a name, from the cache while they are fresh. An address is its own name. Errors that wrap ErrNoSuchName are
// answers, others mean that nothing is known. It ends with ctx, and goes on in the background for others who ask.
func (r *Resolver) Lookup(ctx context.Context, name string) (Answer, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if a, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return Answer{Addrs: []netip.Addr{a.WithZone("").Unmap()}, Until: time.Now().Add(r.o.MaxTTL)}, nil
	}
	if addrs := r.files.host(name); len(addrs) > 0 {
		return Answer{Addrs: addrs, Until: time.Now().Add(max(r.o.MinTTL, filesFor))}, nil
	}
	c := r.join(name)
	select {
	case <-c.done:
		return c.answer, c.err
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("look up %s: %w", name, ctx.Err())
	}
}

// join returns the lookup of a name: one that is in the cache, is under way, or begins now.
func (r *Resolver) join(name string) *call {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if e, ok := r.cache[name]; ok && time.Now().Before(e.until) {
		c := &call{make(chan struct{}), e}
		close(c.done)
		return c
	}
	if c, ok := r.waiting[name]; ok {
		return c
	}
	c := &call{done: make(chan struct{})}
	r.waiting[name] = c
	go func() {
		c.entry = r.lookup(name)
		r.mutex.Lock()
		delete(r.waiting, name)
		r.keep(name, c.entry)
		r.mutex.Unlock()
		close(c.done)
	}()
	return c
}

// keep puts an entry into the cache. When that is full, some that are over go, else any: names that somebody else chose must not fill memory.
func (r *Resolver) keep(name string, e *entry) {
	if _, there := r.cache[name]; !there && len(r.cache) >= maxCache {
		now, seen := time.Now(), 0
		for other, old := range r.cache { // in no particular order
			if seen++; !now.Before(old.until) || len(r.cache) >= maxCache && seen > 64 {
				delete(r.cache, other)
			}
			if seen > 128 {
				break
			}
		}
	}
	r.cache[name] = e
}

// lookup asks for both kinds of addresses at once.
func (r *Resolver) lookup(name string) *entry {
	kinds := []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA}
	answers, errs := make([]answer, len(kinds)), make([]error, len(kinds))
	var wait sync.WaitGroup
	for i, kind := range kinds {
		wait.Go(func() { answers[i], errs[i] = r.query(name, kind) })
	}
	wait.Wait()
	now := time.Now()
	var all []netip.Addr
	ttl := r.o.MaxTTL
	for i, a := range answers {
		all = append(all, a.addrs...)
		if errs[i] == nil && len(a.addrs) > 0 {
			ttl = min(ttl, a.ttl)
		}
	}
	err := errors.Join(errs...)
	if len(all) == 0 {
		if err == nil {
			ttl = max(min(ttl, answers[0].ttl, answers[1].ttl), r.o.MinTTL)
			return &entry{err: absent(name, answers), until: now.Add(ttl)}
		}
		if errs[0] != nil {
			err = errs[0]
		}
		return &entry{err: fmt.Errorf("look up %s: %w", name, err), until: now.Add(failureFor)}
	}
	if err != nil {
		ttl = 0 // half of the answer is missing: ask again soon
	}
	until := now.Add(max(ttl, r.o.MinTTL))
	return &entry{answer: Answer{Addrs: all, Until: until}, until: until}
}

func absent(name string, answers []answer) error {
	if answers[0].none || answers[1].none {
		return fmt.Errorf("%w: %s", ErrNoSuchName, name)
	}
	return fmt.Errorf("%w: %s has no address", ErrNoSuchName, name)
}

// query asks the servers in turn until one answers.
func (r *Resolver) query(name string, kind dnsmessage.Type) (answer, error) {
	servers := r.o.Servers
	if len(servers) == 0 {
		servers = r.files.servers()
	}
	var last error
	for range rounds {
		for _, server := range r.order(servers) {
			ctx, cancel := context.WithTimeout(context.Background(), r.o.Timeout)
			a, err := exchange(ctx, r.o.Dial, server, name, kind)
			cancel()
			r.note(server, err)
			if err == nil {
				return a, nil
			}
			last = err
		}
	}
	return answer{}, last
}

// order returns the servers as they are named, those that have been silent lately last.
func (r *Resolver) order(servers []netip.AddrPort) []netip.AddrPort {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	now := time.Now()
	all := slices.Clone(servers)
	slices.SortStableFunc(all, func(a, b netip.AddrPort) int {
		silent := func(s netip.AddrPort) int {
			if now.Sub(r.silent[s]) < benched {
				return 1
			}
			return 0
		}
		return silent(a) - silent(b)
	})
	return all
}

// note remembers whether a server answered; the servers are few and named by the operator.
func (r *Resolver) note(server netip.AddrPort, err error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if err == nil {
		delete(r.silent, server)
	} else {
		r.silent[server] = time.Now()
	}
}

// Follow looks a name up now and whenever its answer is over, and tells each outcome, until ctx ends. After a failure it tries again with growing
// pauses of up to retry; tell is called from one goroutine.
func (r *Resolver) Follow(ctx context.Context, name string, tell func(Answer, error)) {
	const retryFirst, retryMost = time.Second, 15 * time.Second
	pause := retryFirst
	for {
		a, err := r.Lookup(ctx, name)
		if ctx.Err() != nil {
			return
		}
		tell(a, err)
		wait := time.Until(a.Until)
		if err != nil {
			wait = pause
			pause = min(2*pause, retryMost)
		} else {
			pause = retryFirst
		}
		// A little late and never at the same moment as others, and never in a tight loop.
		wait = max(wait, 100*time.Millisecond) + rand.N(50*time.Millisecond)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
